//go:build recoverlong

package recover

import (
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/recovery"
	"holdfast/test/rig"
)

const (
	// changed is how much a guest writes at B before the commit, payload in bytes:
	// with the database's log and the file system's about 1 % of its disk.
	changed = 384 << 10
	// wireOver is what the wire may carry besides what differs, bytes: two
	// handshakes of TLS, Hello and Welcome, questions about the hashes of the open
	// regions' windows, and heartbeats of the seconds it takes.
	wireOver = 128 << 10
	// hashOver is what a failback by compare may fetch besides what differs, bytes:
	// the hashes of all blocks of the disk, 8 bytes for 4 KiB and 192 KiB for 96 MiB,
	// and where they lie.
	hashOver = 320 << 10
	// walks is how often a failback may read the history, as long as that is short:
	// to choose, to find the last checkpoint, to fence, to settle, and to fork; each
	// of them may look at both timelines.
	walks = 10
)

// combinations are what recoveries are done with.
type combination struct{ store, platform string }

// scenarios are whole recoveries. They take minutes each: make recover-long. What is
// looked at in a test, a lost site, and a planned move are in TestBesideProduction,
// TestDisasterAndZombie and TestPlanned always, and one over libvirt in test/sites.
var scenarios = []struct {
	name string
	do   func(*stage)
}{
	{"test and cleanup", (*stage).lookAt},
	{"planned, and back", (*stage).thereAndBack},
	{"disaster, and home to a new site", (*stage).loseAndGoHome},
}

// TestMatrix does whole recoveries of a real guest, over stores and platforms.
func TestMatrix(t *testing.T) {
	image, err := ledger.BuildImage(t.Context())
	must(t, err)
	for _, s := range scenarios {
		for _, c := range []combination{{onAzure, byLibvirt}, {onS3, byLibvirt}, {onAzure, byQEMU}, {onS3, byQEMU}} {
			t.Run(s.name+"/"+c.store+"/"+c.platform, func(t *testing.T) {
				begin := time.Now()
				g := newStage(t, c.store, c.platform, image)
				g.protected()
				t.Logf("protected after %.1f s", time.Since(begin).Seconds())
				s.do(g)
				t.Logf("%.1f s in all", time.Since(begin).Seconds())
			})
		}
	}
}

// lookAt is A→test→cleanup: production goes on, and nothing is left.
func (g *stage) lookAt() {
	before := g.timelines()
	st := g.begin("test", "t", append(g.at(g.b), "--look-after", "1s")...)
	if st.State != recovery.Tested {
		g.t.Fatalf("%+v", st)
	}
	g.judge(st)
	g.rows(3)
	g.protected()
	if after := g.timelines(); len(after) != len(before) || after[0].ID != before[0].ID {
		g.t.Errorf("the timelines changed: %+v", after)
	}
	_, err := g.recover("cleanup", g.path("t"))
	must(g.t, err)
	g.cleaned("t")
	g.nothing(g.b)
}

// thereAndBack is A→planned→B→failback→A. Both ways all that was acknowledged is
// there. What B wrote before its commit is about 1 % of the disk; that, and little
// besides, is all that goes over the wire and comes from the store.
func (g *stage) thereAndBack() {
	t := g.t
	g.rows(3)
	st := g.begin("planned", "b", append(append(g.at(g.b), g.shutDownAtA()...), "--mode", quickMode, "--interval", "1s")...)
	g.drva.Doom() // it is fenced
	if g.a != nil {
		g.endLoad() // its guest is off
	}
	all := g.acks.last()
	if n := g.judge(st); n < all {
		t.Errorf("%d rows were acknowledged, %d were recovered", all, n)
	}
	console := g.attach(st)
	must(t, console.grow(changed))
	must(t, console.sync())
	g.act("commit", "b", recovery.FailedOver)
	g.act("reprotect", "b", recovery.Protected)
	id, there := g.disk("b")
	old := g.path("a/guest.raw")
	g.wire("b", differing(t, old, there))
	g.lasts(g.b)
	g.home(console, append(g.at(g.a), "--onto", id.String()+"="+old))
	g.goesOn()
}

// wire judges what went over the wire when B was protected, after so much of the
// disk had changed.
func (g *stage) wire(dir string, changed int64) {
	g.t.Helper()
	h, sent := g.hostOf(dir), g.sent(dir)
	size := h.Disks[0].Size
	g.t.Logf("reprotect: %.2f %% of the disk differ, %d bytes; %d compared, %d shipped, %d on the wire: %.3f of what differs",
		100*float64(changed)/float64(size), changed, h.Stream.Compared, h.Stream.Shipped, sent, float64(sent)/float64(changed))
	if h.Link.Connects != 1 {
		g.t.Errorf("the link came up %d times: the wire is not counted in full", h.Link.Connects)
	}
	if sent > changed+changed/10+wireOver {
		g.t.Errorf("%d bytes went over the wire, %d differ", sent, changed)
	}
	if h.Stream.SyncBytes > uint64(size)/4 {
		g.t.Errorf("%d bytes of a disk of %d were read to find what differs", h.Stream.SyncBytes, size)
	}
}

// home is the way back: a planned migration out of the recovery in b, onto an old
// disk if the flags say so. What the store gives is counted.
func (g *stage) home(console *talker, flags []string) {
	t := g.t
	t.Helper()
	rows := console.row
	console.Close()
	onto := len(flags) > 1 && flags[len(flags)-2] == "--onto"
	var before string
	if onto {
		before = g.path("a/before.raw")
		must(t, ledger.CopyImage(t.Context(), before, g.path("a/guest.raw")))
	}
	if g.host != nil && onto {
		must(t, g.host.Stop(patience)) // A's own protection is over: nobody else may have the disk
	}
	u, x := metered(t, g.store)
	must(t, rig.Command(t.Context(), nil, "checkpoints", u.String(), "--key", g.key(), "-o", "json"))
	_, walk := x.Carried()
	url := g.url
	g.url = u.String()
	back := g.begin("failback", "c", append(flags, "--mode", quickMode, "--from-run", g.path("b"), "--interval", "1s")...)
	g.url = url
	if back.State != recovery.BeforeCommit {
		t.Fatalf("%+v", back)
	}
	_, read := x.Carried()
	read -= walk
	if n := g.ask(back); n != rows {
		t.Errorf("the planned migration lost commits: %d of %d", n, rows)
	}
	if !onto {
		return
	}
	_, there := g.disk("b")
	differ := differing(t, before, there)
	t.Logf("failback: %d bytes differ, fetched for them %d: %.3f; all the store sent %d, and for one look at the history %d",
		differ, back.Bytes, float64(back.Bytes)/float64(differ), read, walk)
	if back.Bytes > differ+differ/10+hashOver || read > differ+differ/10+hashOver+walks*walk {
		t.Errorf("%d bytes were fetched, %d sent by the store; %d differ", back.Bytes, read, differ)
	}
}

// goesOn commits the way home, removes what is left at B, and demands that the
// domain is protected at A again.
func (g *stage) goesOn() {
	g.act("commit", "c", recovery.FailedOver)
	st, err := g.recover("cleanup", g.path("b"), "--force")
	must(g.t, err)
	if st.State != recovery.Clean {
		g.t.Errorf("%+v", st)
	}
	g.cleaned("b")
	g.nothing(g.b)
	g.act("reprotect", "c", recovery.Protected)
	g.lasts(g.a)
}

// act is a command on a run that ends in a state.
func (g *stage) act(command, dir string, state recovery.State) *recovery.Status {
	g.t.Helper()
	st, err := g.recover(command, g.path(dir))
	must(g.t, err)
	if st.State != state {
		g.t.Fatalf("after %s: %+v", command, st)
	}
	return st
}

// loseAndGoHome is A→disaster, A erased→B→reprotect→a new A→failback.
func (g *stage) loseAndGoHome() {
	t := g.t
	g.rows(3)
	g.protected()
	g.lose()
	st := g.begin("disaster", "b", append(g.at(g.b), "--interval", "1s")...) // instant
	if st.State != recovery.BeforeCommit || st.Fence == 0 || st.Fork.IsZero() {
		t.Fatalf("%+v", st)
	}
	g.judge(st)
	console := g.attach(st)
	must(t, console.put(3))
	g.act("commit", "b", recovery.FailedOver)
	must(t, console.put(2))
	g.act("reprotect", "b", recovery.Protected)
	if h := g.hostOf("b"); h.Stream.SyncBytes > uint64(h.Disks[0].Size)/4 {
		t.Errorf("%d bytes of a disk of %d were read to find what differs", h.Stream.SyncBytes, h.Disks[0].Size)
	}
	g.lasts(g.b)
	g.home(console, g.at(g.a))
	g.goesOn()
}
