package golden

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
)

// maxTree bounds what the containers take in the tree, in bytes.
const maxTree = 620 << 10

// expectation is what a container must still hold.
type expectation struct {
	Generations int                     `json:"data_keys"`
	Timelines   map[string]expectedLine `json:"timelines"` // by id
}

type expectedLine struct {
	Label     string  `json:"label"`
	Published int     `json:"published"` // checkpoints, thinned ones too
	Points    []point `json:"points"`
}

// point is a retained checkpoint.
type point struct {
	ID          dr.CheckpointID  `json:"id"`
	Scope       dr.Scope         `json:"scope"`
	Tag         string           `json:"tag,omitempty"`
	Names       []string         `json:"names,omitempty"` // given later
	Recoverable bool             `json:"recoverable"`
	Disks       map[string]image `json:"disks"` // by id
}

type image struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// golden is a container in the tree.
type golden struct {
	st     store.Store
	expect expectation
	ids    map[string]journal.Identity
}

func load(t *testing.T, name string) golden {
	t.Helper()
	root := filepath.Join("testdata", name)
	g := golden{ids: map[string]journal.Identity{"passphrase": journal.PassphraseIdentity(passphrase)}}
	var err error
	g.st, err = dir.Open(filepath.Join(root, "container"))
	check(t, err)
	j, err := os.ReadFile(filepath.Join(root, "expect.json"))
	check(t, err)
	check(t, json.Unmarshal(j, &g.expect))
	text, err := os.ReadFile(filepath.Join(root, "recovery.key"))
	check(t, err)
	g.ids["recovery key"], err = journal.ParseIdentity(string(text))
	check(t, err)
	return g
}

// TestRestore opens each container with each recipient's secret alone and
// rebuilds every checkpoint of every timeline.
func TestRestore(t *testing.T) {
	for _, name := range names() {
		g := load(t, name)
		for who, id := range g.ids {
			t.Run(name+"/"+who, func(t *testing.T) {
				c, err := journal.Open(t.Context(), g.st, id)
				check(t, err)
				if got := len(c.Generations()); got != g.expect.Generations {
					t.Errorf("%d data keys, want %d", got, g.expect.Generations)
				}
				timelines, err := c.Timelines(t.Context())
				check(t, err)
				if len(timelines) != len(g.expect.Timelines) {
					t.Errorf("%d timelines, want %d", len(timelines), len(g.expect.Timelines))
				}
				for _, tl := range timelines {
					restoreLine(t, c, tl.ID, g.expect.Timelines[tl.ID.String()])
				}
			})
		}
	}
}

// restoreLine rebuilds every checkpoint of a timeline.
func restoreLine(t *testing.T, c *journal.Container, id dr.TimelineID, want expectedLine) {
	t.Helper()
	h, err := c.History(t.Context(), journal.HistoryOptions{Timeline: id})
	check(t, err)
	if p := h.Problems(); len(p) > 0 {
		t.Errorf("%s: problems %+v", want.Label, p)
	}
	points := h.Checkpoints()
	if len(points) != len(want.Points) || len(points) == 0 {
		t.Fatalf("%s: %d checkpoints, want %d and at least one", want.Label, len(points), len(want.Points))
	}
	for i, cp := range points {
		w := want.Points[i]
		if cp.ID != w.ID || cp.Scope != w.Scope || cp.Recoverable != w.Recoverable || cp.Tag != w.Tag || !slices.Equal(cp.Tags, w.Names) {
			t.Errorf("%s: checkpoint %+v, want %+v", want.Label, cp, w)
		}
		for _, tag := range append(slices.Clone(w.Names), w.Tag) {
			if tag == "" {
				continue
			}
			if found, err := h.Find("tag:" + tag); err != nil || found.ID != w.ID {
				t.Errorf("%s: tag %q finds checkpoint %d, %v; want %d", want.Label, tag, found.ID, err, w.ID)
			}
		}
		if cp.Recoverable {
			restorePoint(t, c, h, cp, w)
		}
	}
}

// restorePoint rebuilds a checkpoint as a recovery would.
func restorePoint(t *testing.T, c *journal.Container, h *journal.History, cp journal.CheckpointInfo, want point) {
	t.Helper()
	img, err := h.Resolve(t.Context(), cp)
	check(t, err)
	out := t.TempDir()
	var targets []rocva.Target
	for _, d := range img.Disks {
		targets = append(targets, rocva.Target{Disk: d.ID, Path: filepath.Join(out, d.ID.String())})
		if cfg, ok := img.VMs[d.VM]; !ok || len(cfg.Disks) != 1 || cfg.Disks[0].ID != d.ID || cfg.Disks[0].Size != d.Size {
			t.Errorf("checkpoint %d: VM %s has the configuration %+v", cp.ID, d.VM, cfg)
		}
	}
	_, err = rocva.Full(t.Context(), c, img, targets, rocva.Options{})
	check(t, err)
	if len(targets) != len(want.Disks) {
		t.Errorf("checkpoint %d has %d disks, want %d", cp.ID, len(targets), len(want.Disks))
	}
	for _, tg := range targets {
		if got := sumOf(t, tg.Path); got != want.Disks[tg.Disk.String()] {
			t.Errorf("checkpoint %d: disk %s is %+v, was %+v", cp.ID, tg.Disk, got, want.Disks[tg.Disk.String()])
		}
	}
}

func sumOf(t *testing.T, path string) image {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	check(t, err)
	return image{n, hex.EncodeToString(sum.Sum(nil))}
}

// TestContents: the containers have what they are kept for.
func TestContents(t *testing.T) {
	for version, suffix := range []string{"", "2"} {
		contents(t, load(t, "plain"+suffix), load(t, "maintained"+suffix), version+1)
	}
}

// contents looks at two containers whose manifests have a version.
func contents(t *testing.T, plain, maintained golden, version int) {
	t.Helper()
	if keys := keysOf(t, plain.st); keys[journal.DataPrefix]+keys[journal.PartPrefix] > 0 {
		t.Errorf("plain has packed objects or an index: %v", keys)
	}
	if keys := keysOf(t, maintained.st); keys[journal.DataPrefix] == 0 || keys[journal.PartPrefix] < 2 {
		t.Errorf("maintained lacks packed objects or an index: %v", keys)
	}
	c, err := journal.Open(t.Context(), maintained.st, maintained.ids["recovery key"])
	check(t, err)
	if maintained.expect.Generations != 2 || len(maintained.expect.Timelines) != 2 {
		t.Errorf("maintained has %d data keys and %d timelines, want 2 and 2", maintained.expect.Generations, len(maintained.expect.Timelines))
	}
	m, ok, err := c.ReadManifest(t.Context(), c.Domain().Timeline)
	check(t, err)
	if !ok || len(m.Runs) < 2 || len(m.Tombstones) == 0 || len(m.Children) != 1 {
		t.Fatalf("its manifest lacks runs, tombstones or the branch: %+v", m)
	}
	told := m.Counted != nil && slices.ContainsFunc(m.Objects, func(o journal.ObjectState) bool { return o.Print != 0 })
	if told != (version > 1) {
		t.Errorf("its manifest has counts and fingerprints: %v; it is to be of version %d", told, version)
	}
	pins, err := c.Pins(t.Context())
	check(t, err)
	kinds := make(map[journal.PinKind]int)
	for _, p := range pins {
		if !p.Released {
			kinds[p.Kind]++
		}
	}
	if kinds[journal.PinHold] != 1 || kinds[journal.PinTag] != 1 {
		t.Errorf("pins %v, want one tag and one hold", kinds)
	}
	line := maintained.expect.Timelines[c.Domain().Timeline.String()]
	if len(line.Points) >= line.Published {
		t.Errorf("%d of %d checkpoints are retained: nothing was thinned", len(line.Points), line.Published)
	}
	checkOrigins(t, c, m)
}

// checkOrigins: packed objects hold frames that were sealed under both keys.
func checkOrigins(t *testing.T, c *journal.Container, m *journal.Manifest) {
	t.Helper()
	keys := make(map[dr.UUID]bool)
	for _, o := range m.Objects {
		if o.ID.Data.IsZero() {
			continue
		}
		obj, err := c.OpenRef(t.Context(), o.ID)
		check(t, err)
		for _, origin := range obj.Footer.Origins {
			keys[origin.Key] = true
		}
	}
	if len(keys) != 2 {
		t.Errorf("packed frames were sealed under %d data keys, want 2", len(keys))
	}
}

// keysOf counts a container's objects by the beginning of their keys.
func keysOf(t *testing.T, st store.Store) map[string]int {
	t.Helper()
	n := make(map[string]int)
	for _, prefix := range []string{journal.DataPrefix, journal.PartPrefix} {
		check(t, store.Walk(t.Context(), st, prefix, func(store.Info) error { n[prefix]++; return nil }))
	}
	return n
}

// TestFsck: the check that people run finds nothing wrong.
func TestFsck(t *testing.T) {
	for _, name := range names() {
		g := load(t, name)
		c, err := journal.Open(t.Context(), g.st, g.ids["recovery key"])
		check(t, err)
		r, err := c.Fsck(t.Context(), journal.FsckOptions{Mode: journal.FsckDeep})
		check(t, err)
		if !r.Clean || r.Frames == 0 {
			t.Errorf("%s: clean %v, %d frames opened, problems %+v", name, r.Clean, r.Frames, r.Problems)
		}
	}
}

// TestTreeStaysSmall: clones of the tree carry these containers for ever.
func TestTreeStaysSmall(t *testing.T) {
	var total int64
	err := filepath.Walk("testdata", func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return err
	})
	check(t, err)
	if total == 0 || total > maxTree {
		t.Errorf("testdata takes %s bytes, want up to %d", strconv.FormatInt(total, 10), maxTree)
	}
}
