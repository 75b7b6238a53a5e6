//go:build recoverlong

package recover

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/dr"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/recovery"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/azurite"
	"holdfast/internal/store/storetest/versitygw"
	"holdfast/test/rig"
)

// Stores and platforms that recoveries are done with.
const (
	onAzure = "azblob"
	onS3    = "s3"

	byQEMU    = "qemu"
	byLibvirt = "libvirt"
)

// vmName is the guest's.
const vmName = "erp"

// openStore starts a store and returns its address, with its credentials in the
// environment that every process of the test inherits.
func openStore(t *testing.T, kind string) store.URL {
	t.Helper()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	switch kind {
	case onAzure:
		a := azurite.Start(t, azurite.Options{})
		must(t, a.MakeContainer(t.Context(), "recover"))
		t.Setenv("AZURE_STORAGE_KEY", azurite.Key)
		return a.URL("recover", "erp")
	case onS3:
		v := versitygw.Start(t, versitygw.Options{Dir: t.TempDir(), KeepAlive: true})
		must(t, v.MakeBucket(t.Context(), "recover", false))
		for name, value := range v.Env() {
			t.Setenv(name, value)
		}
		return v.URL("recover", "erp")
	}
	t.Fatalf("no store %q", kind)
	return store.URL{}
}

// metered is the address by which one site alone reaches a store, and what it
// sends and gets there.
func metered(t *testing.T, u store.URL) (store.URL, *rig.Exchange) {
	t.Helper()
	x, err := rig.NewExchange(0)
	must(t, err)
	t.Cleanup(x.Close)
	scheme, rest, _ := strings.Cut(u.Endpoint, "://")
	host, path, _ := strings.Cut(rest, "/")
	x.Route(host)
	u.Endpoint = strings.TrimSuffix(scheme+"://"+x.Addr()+"/"+path, "/")
	return u, x
}

// stage is two sites, A and B, and a store: a guest that writes is protected at
// A. Each site is a libvirt daemon in namespaces of its own, or QEMU alone.
type stage struct {
	*site
	a, b  *libvirttest.Site // nil: QEMU alone
	store store.URL
}

// newStage sets it up, with the guest's disk from image.
func newStage(t *testing.T, storeKind, platform, image string) *stage {
	t.Helper()
	g := &stage{store: openStore(t, storeKind)}
	st, err := os.Stat(image)
	must(t, err)
	copyDisk := func(path string) error { return ledger.CopyImage(t.Context(), path, image) }
	switch platform {
	case byQEMU:
		g.site = newBoxes(t, g.store.String(), st.Size(), copyDisk)
		g.provider = newProvider(t)
		g.bootGuest()
	case byLibvirt:
		g.site = newFloor(t, g.store.String())
		g.a, g.b = libvirttest.Start(t), libvirttest.Start(t)
		t.Cleanup(g.endBoxes) // before the daemons: a watchdog puts guests right there
		must(t, copyDisk(g.path("a/guest.raw")))
		g.protectAtA()
	default:
		t.Fatalf("no platform %q", platform)
	}
	g.rows(2)
	return g
}

// endBoxes ends what the product left running, and waits for the watchdogs.
func (g *stage) endBoxes() {
	g.kill()
	for _, dir := range []string{"b", "c", "t"} {
		if rec, err := readRun(g.path(dir)); err == nil {
			for _, p := range slices.Backward(rec.Launched) {
				killProcess(p)
			}
		}
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // between two looks
		if !slices.ContainsFunc(rig.ProcessesIn(g.t, g.dir), func(p string) bool { return strings.Contains(p, "iofilter-watchdog") }) {
			return
		}
	}
	g.t.Error("a watchdog does not end")
}

// protectAtA has A's daemon run the guest, and protects it while it runs.
func (g *stage) protectAtA() {
	t := g.t
	t.Helper()
	addr := freePort(t)
	g.writeDRVA(addr)
	g.startDRVA()
	g.a.Define(libvirttest.Guest{Name: vmName, Disks: []libvirttest.Disk{{Path: g.path("a/guest.raw")}}, Serial: g.path("a/serial")})
	g.a.Virsh("start", vmName, "--paused")
	nc, err := net.Dial("unix", g.path("a/serial"))
	must(t, err)
	g.console = ledger.NewConsole(nc)
	g.a.Virsh("resume", vmName)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = g.console.WaitReady(ctx)
	must(t, err)
	g.load()
	g.startHost(map[string]any{
		"name": "node1", "vms": []any{}, "drva": addr, "platform": map[string]any{"libvirt": g.a.Socket},
		"live": map[string]any{"sockets": g.path("a"), "record": g.path("a/live.json")},
	})
	var r live.Report
	must(t, rig.Command(ctx, &r, "protect", g.path("a/host.sock"), vmName, "--wait", "-o", "json"))
}

// at are the flags of a recovery to a site.
func (g *stage) at(v *libvirttest.Site) []string {
	if v == nil {
		return nil
	}
	return []string{"--platform", "libvirt", "--libvirt-socket", v.Socket}
}

// shutDownAt are the flags that shut A's guest down.
func (g *stage) shutDownAtA() []string {
	stop := ""
	if g.a == nil {
		stop = g.guestCommands()
	} else {
		stop = "virsh -c 'qemu:///system?socket=" + g.a.Socket + "' shutdown \"$HOLDFAST_VM\""
	}
	return []string{"--source-drva", g.path("a/drva.sock"), "--source-host", g.path("a/host.sock"), "--guest-stop", stop}
}

// lose is the disaster: all that runs at A dies, and all A had is gone.
func (g *stage) lose() {
	if g.a != nil {
		g.drva.Kill()
		g.a.Virsh("destroy", vmName)
		g.killAllButDRVA()
		g.until("A's watchdog has seen it", func() bool { return len(rig.ProcessesIn(g.t, g.path("a"))) == 0 })
		g.a.Virsh("undefine", vmName)
	}
	g.erase()
	must(g.t, os.Mkdir(g.path("a"), 0o700)) // a new site, with nothing
}

// until waits for a condition.
func (g *stage) until(what string, is func() bool) {
	g.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(end) {
			g.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// lasts demands that libvirt keeps the guest of a committed recovery, over a
// restart of its daemon.
func (g *stage) lasts(v *libvirttest.Site) {
	g.t.Helper()
	if v == nil {
		return
	}
	v.StopDaemon()
	v.StartDaemon()
	if all := v.Virsh("list", "--all", "--persistent", "--name"); strings.TrimSpace(all) != vmName {
		g.t.Errorf("after its restart the daemon keeps %q", all)
	}
}

// nothing demands that a daemon knows no VM and no network any more.
func (g *stage) nothing(v *libvirttest.Site) {
	g.t.Helper()
	if v == nil {
		return
	}
	if all := v.Virsh("list", "--all", "--name") + v.Virsh("net-list", "--all", "--name"); strings.TrimSpace(all) != "" {
		g.t.Errorf("left at the daemon: %q", all)
	}
}

// host is the status of the host component of a run.
func (g *stage) hostOf(dir string) (h iofilter.Status) {
	g.t.Helper()
	must(g.t, rig.WaitStatus(g.t.Context(), g.path(dir+"/protect/host.sock"), "the host component of "+dir, patience,
		func(s *iofilter.Status) bool { h = *s; return true }))
	return h
}

// sent is what the host component of a run has sent to its DRVA, in bytes of TCP
// payload: TLS and all. The kernel tells.
func (g *stage) sent(dir string) (n int64) {
	g.t.Helper()
	rec, err := readRun(g.path(dir))
	must(g.t, err)
	i := slices.IndexFunc(rec.Launched, func(p recovery.Process) bool { return p.Name == "host" })
	if i < 0 {
		g.t.Fatalf("no host component was started: %+v", rec.Launched)
	}
	out := rig.Tool(g.t, "ss", "-tinpH")
	lines := strings.Split(out, "\n")
	for j, l := range lines {
		if !strings.Contains(l, fmt.Sprintf("pid=%d,", rec.Launched[i].PID)) || j+1 == len(lines) {
			continue
		}
		for _, f := range strings.Fields(lines[j+1]) {
			if v, ok := strings.CutPrefix(f, "bytes_sent:"); ok {
				var one int64
				fmt.Sscan(v, &one)
				n += one
			}
		}
	}
	if n == 0 {
		g.t.Fatalf("the kernel does not say what the host component sent:\n%s", out)
	}
	return n
}

// grow has a guest commit rows of so many bytes of payload in all.
func (t *talker) grow(total int) error {
	const each = 64 << 10
	for ; total > 0; total -= each {
		req := talk.Request{Verb: talk.Put, N: t.row + 1, Cause: t.row, Bytes: min(each, total)}
		if _, err := fmt.Fprintf(t, "\n%s\n", req); err != nil {
			return err
		}
		if err := t.await(talk.Commit, t.row+1); err != nil {
			return err
		}
		t.row++
	}
	return nil
}

// await reads until the guest says a word, of a row unless that is 0.
func (t *talker) await(word talk.Word, row uint64) error {
	for {
		line, err := t.lines.Next()
		if err != nil {
			return err
		}
		r, ok := talk.ParseReply(line)
		switch {
		case ok && r.Word == word && (row == 0 || r.N == row):
			return nil
		case ok && (r.Word == talk.Err || r.Word == talk.Fatal):
			return fmt.Errorf("the guest says %v", r)
		}
	}
}

// sync has the guest write all it has cached to its disk.
func (t *talker) sync() error {
	if _, err := fmt.Fprintf(t, "\n%s\n", talk.Request{Verb: talk.Sync}); err != nil {
		return err
	}
	return t.await(talk.Synced, 0)
}

// differing counts the bytes of blocks that two images do not share.
func differing(t *testing.T, a, b string) (n int64) {
	t.Helper()
	f, err := os.Open(a)
	must(t, err)
	defer f.Close()
	h, err := os.Open(b)
	must(t, err)
	defer h.Close()
	p, q := make([]byte, dr.ChunkSize), make([]byte, dr.ChunkSize)
	for {
		x, err := io.ReadFull(f, p)
		y, other := io.ReadFull(h, q)
		if x != y {
			t.Fatalf("%s and %s have different sizes", a, b)
		}
		for at := 0; at < x; at += dr.BlockSize {
			if end := min(at+dr.BlockSize, x); !bytes.Equal(p[at:end], q[at:end]) {
				n += dr.BlockSize
			}
		}
		if err != nil || other != nil {
			return n
		}
	}
}

// disk is the only disk of a run, and its id.
func (g *stage) disk(dir string) (id dr.DiskID, path string) {
	g.t.Helper()
	rec, err := readRun(g.path(dir))
	must(g.t, err)
	if len(rec.Disks) != 1 {
		g.t.Fatalf("%d disks in %s", len(rec.Disks), dir)
	}
	path = rec.Disks[0].Path
	if !filepath.IsAbs(path) {
		path = g.path(dir + "/" + path)
	}
	return rec.Disks[0].ID, path
}
