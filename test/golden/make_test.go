package golden

import (
	"encoding/json"
	"flag"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
)

var update = flag.Bool("update", false, "make the containers in testdata anew")

// passphrase opens the containers in testdata. It protects nothing.
const passphrase = "golden containers protect nothing"

// kept are containers of earlier releases, which nobody can make anew: their
// manifests are of version 1, and their objects do not name the one before.
var kept = []string{"plain", "maintained"}

// makers make the containers of this release, by name, one after the other.
var makers = []struct {
	name string
	make func(*world) expectation
}{{"plain2", makePlain}, {"maintained2", makeMaintained}}

// names are those of all containers.
func names() []string {
	out := slices.Clone(kept)
	for _, m := range makers {
		out = append(out, m.name)
	}
	return out
}

// asGenerator in the environment of a child makes TestGenerator make the
// containers, in the directory it names.
const asGenerator = "HOLDFAST_GOLDEN_INTO"

// TestGenerator makes the containers in testdata anew when it is asked to, and
// always proves that the same code makes the same bytes. A generator is a
// process of its own: its clock is a bubble's, which what is pooled outlives.
func TestGenerator(t *testing.T) {
	if into := os.Getenv(asGenerator); into != "" {
		generate(t, into)
		return
	}
	a, b := t.TempDir(), t.TempDir()
	if *update {
		a = "testdata"
		for _, m := range makers {
			check(t, os.RemoveAll(filepath.Join(a, m.name)))
		}
	}
	for _, into := range []string{a, b} {
		into, err := filepath.Abs(into)
		check(t, err)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGenerator$")
		cmd.Env = append(os.Environ(), asGenerator+"="+into)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("the generator: %v\n%s", err, out)
		}
	}
	if x, y := treeOf(t, a), treeOf(t, b); len(x) < 10 || !maps.Equal(x, y) {
		t.Errorf("two runs of the generator differ: %d and %d files", len(x), len(y))
	}
}

// treeOf is the files below the containers in root, by path.
func treeOf(t *testing.T, root string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, m := range makers {
		check(t, filepath.WalkDir(filepath.Join(root, m.name), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			body, err := os.ReadFile(path)
			files[strings.TrimPrefix(path, root)] = string(body)
			return err
		}))
	}
	return files
}

// generate makes all containers, with seeded randomness, in a time of their
// own.
func generate(t *testing.T, into string) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		for _, m := range makers {
			w := newWorld(t, m.name)
			e := m.make(w)
			w.close()
			w.save(filepath.Join(into, m.name), e)
		}
	})
}

// makePlain makes a history of journal objects alone: a takeover between,
// checkpoints of every scope, a baseline that is not complete at first.
func makePlain(w *world) expectation {
	l := w.newLine(1<<20, 600_000) // the second ends inside a block
	l.configure("before ")
	l.disks[1].Synced = false
	l.touch(0, 0, 100, false)
	l.publish(&dr.Checkpoint{Scope: dr.Group}) // not recoverable: a disk is not synced
	l.touch(1, 0, 90, false)
	l.disks[1].Synced = true
	wait(5 * time.Second)
	l.publish(&dr.Checkpoint{Scope: dr.Group})
	l.write(8)
	wait(5 * time.Second)
	l.publish(&dr.Checkpoint{Scope: dr.Partial, Missing: []dr.VMID{l.disks[1].VM}})
	l.write(8)
	wait(5 * time.Second)
	l.publish(nil) // a checkpoint may need more than one object
	l.open()
	l.configure("after ")
	l.touch(0, 20, 70, true) // a discard over several chunks
	l.touch(1, 140, 20, false)
	wait(5 * time.Second)
	l.publish(&dr.Checkpoint{Scope: dr.Group, Kind: dr.UserTagged, Tag: "before the upgrade"})
	for range 3 {
		l.write(6)
		wait(5 * time.Second)
		l.publish(&dr.Checkpoint{Scope: dr.Group, Kind: dr.AppConsistent})
	}
	return expect(l)
}

// policy thins what is older than a minute.
func policy(t *testing.T) *maintain.Policy {
	s, err := maintain.ParseSchedule("5s for 1m, 1h for 30d")
	check(t, err)
	return &maintain.Policy{Schedule: s, Grace: maintain.LeastGrace}
}

// maintained makes one pass over a line; full asks for all that can be done.
func (l *line) maintained(full bool) {
	l.t.Helper()
	m, err := maintain.New(l.t.Context(), l.c, maintain.Options{Timeline: l.id, By: "golden", Policy: policy(l.t), PackAge: time.Hour, Clock: clock{}})
	check(l.t, err)
	if full {
		m.Compact()
	}
	r, err := m.Pass(l.t.Context())
	check(l.t, err)
	if !r.Worked || len(r.Alarms) > 0 || full && (!r.Full || r.Packed == 0 || r.Dropped == 0) {
		l.t.Fatalf("the pass over %s was to do more, or raised an alarm: %+v", l.label, r)
	}
}

// rotated makes a second data key.
func (l *line) rotated() {
	l.t.Helper()
	c, err := l.c.RotateDataKey(l.t.Context(), journal.RotateOptions{Passphrases: []journal.Identity{journal.PassphraseIdentity(passphrase)}})
	check(l.t, err)
	l.world.c = c
	l.open()
}

// makeMaintained makes what maintenance leaves: an index, packed objects with
// frames under two data keys, tombstones, and points that a tag, a hold and a
// branch keep; with journal objects behind the manifest of both timelines.
func makeMaintained(w *world) expectation {
	l := w.newLine(1<<20, 512<<10)
	l.configure("vm ")
	l.touch(0, 0, 120, false)
	l.touch(1, 8, 60, false)
	l.publish(&dr.Checkpoint{Scope: dr.Group})
	var tagged, held dr.CheckpointID
	for i := range 5 {
		if i == 2 {
			l.rotated()
		}
		l.write(6)
		wait(5 * time.Second)
		id := l.publish(&dr.Checkpoint{Scope: dr.Group})
		switch i {
		case 1:
			tagged = id
		case 3:
			held = id
		}
	}
	_, err := w.c.Tag(w.t.Context(), l.id, tagged, "quarter end", "golden", time.Time{})
	check(w.t, err)
	_, err = w.c.Pin(w.t.Context(), journal.PinOptions{Kind: journal.PinHold, Timeline: l.id, Checkpoint: held, Label: "for the auditor", By: "golden"})
	check(w.t, err)
	l.maintained(false) // nothing is thinned that no manifest has shown
	wait(2 * time.Hour)
	l.write(5)
	l.touch(0, 50, 40, true)
	l.publish(&dr.Checkpoint{Scope: dr.Group})
	l.maintained(true)
	child := l.fork("rehearsal")
	for _, x := range []*line{l, child} {
		x.write(5)
		wait(5 * time.Second)
		x.publish(&dr.Checkpoint{Scope: dr.Group})
		x.maintained(false)
		x.write(4)
		wait(5 * time.Second)
		x.publish(&dr.Checkpoint{Scope: dr.Group})
	}
	return expect(l, child)
}

// expect keeps of what was published what is retained.
func expect(lines ...*line) expectation {
	e := expectation{Timelines: make(map[string]expectedLine)}
	for _, l := range lines {
		x := expectedLine{Label: l.label}
		h, err := l.c.History(l.t.Context(), journal.HistoryOptions{Timeline: l.id})
		check(l.t, err)
		for _, cp := range h.Checkpoints() {
			i := slices.IndexFunc(l.points, func(p point) bool { return p.ID == cp.ID })
			if i < 0 {
				l.t.Fatalf("%s shows checkpoint %d, which nobody took", l.label, cp.ID)
			}
			p := l.points[i]
			p.Names = cp.Tags
			x.Points = append(x.Points, p)
		}
		x.Published = len(l.points)
		e.Timelines[l.id.String()] = x
	}
	e.Generations = len(lines[0].c.Generations())
	return e
}

// save writes the container, what is expected of it and its key.
func (w *world) save(root string, e expectation) {
	w.t.Helper()
	check(w.t, os.MkdirAll(filepath.Join(root, "container"), 0o755))
	st, err := dir.Open(filepath.Join(root, "container"))
	check(w.t, err)
	check(w.t, store.Walk(w.t.Context(), w.st, "", func(in store.Info) error {
		body := make([]byte, in.Size)
		if _, err := w.st.ReadRange(w.t.Context(), in.Key, body, 0); err != nil {
			return err
		}
		return st.Create(w.t.Context(), in.Key, body)
	}))
	j, err := json.MarshalIndent(e, "", " ")
	check(w.t, err)
	check(w.t, os.WriteFile(filepath.Join(root, "expect.json"), append(j, '\n'), 0o644))
	warning := []byte("# A key for tests, in the clear for everybody. It protects nothing.\n")
	check(w.t, os.WriteFile(filepath.Join(root, "recovery.key"), append(warning, w.key.FileText()...), 0o644))
}
