package live

import (
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// rounds is how often a guest is protected when nothing else is said.
const rounds = 2

// cycles reads how often a guest is to be protected and unprotected.
func cycles(t *testing.T) int {
	words := os.Getenv("HOLDFAST_LIVE_N")
	if words == "" {
		return rounds
	}
	n, err := strconv.Atoi(words)
	if err != nil || n < 1 {
		t.Fatalf("HOLDFAST_LIVE_N=%q is no positive number", words)
	}
	return n
}

// always is the first of what a test does, or all of it when HOLDFAST_LIVE_N asks
// for a long run: the others are the same code over another driver or format.
func always[T any](all []T) []T {
	if os.Getenv("HOLDFAST_LIVE_N") == "" {
		return all[:1]
	}
	return all
}

// newQEMU is a site with a guest on QEMU alone, not protected.
func newQEMU(t *testing.T) (*site, *guest) {
	t.Helper()
	s := newSite(t)
	g := newGuest(t, s.Dir)
	s.startDRVA()
	s.useHost(g.platform())
	return s, g
}

// thrifty demands that no more was shipped than what differs, and a tenth.
func thrifty(t *testing.T, what string, shipped uint64, differs int64) {
	t.Helper()
	t.Logf("%s: %d KiB differed, %d KiB were shipped", what, differs>>10, shipped>>10)
	if shipped > uint64(differs+differs/10) {
		t.Errorf("%s: %d bytes were shipped, %d differ", what, shipped, differs)
	}
}

// TestCycles: a guest that writes is protected and unprotected again and again.
func TestCycles(t *testing.T) {
	s, g := newQEMU(t)
	n := cycles(t)
	var in, out, stall time.Duration
	var was []byte
	for i := range n {
		began := time.Now()
		before := s.status().Stream
		in = max(in, pause(t, s.protect(vmName)))
		s.whole(1)
		if after := s.status().Stream; was != nil {
			thrifty(t, "protected again", after.Shipped-before.Shipped, differing(t, was, g.disk))
		}
		g.goesOn("it was protected")
		if i < rounds || i == n-1 {
			s.check(&g.load, 1)
		}
		was = picture(t, g.disk)
		out = max(out, pause(t, s.unprotect(vmName, "--release")))
		if d := s.status().Disks; len(d) > 0 {
			t.Fatalf("still protected: %+v", d)
		}
		g.goesOn("it was unprotected")
		stall = max(stall, g.gap(began))
	}
	t.Logf("%d cycles, longest pause %v in, %v out, longest time without a commit %v, %d rows", n, in, out, stall, g.rows())
	g.off()
}

// absent is what was seen while something was gone.
func absent(t *testing.T, g *guest, what string, do func()) {
	t.Helper()
	began := time.Now()
	do()
	g.goesOn(what)
	t.Logf("%s: the longest time without a commit was %v", what, g.gap(began))
}

// TestHostDies: the host component is killed, then it hangs; both times the
// watchdog lets the guest go on, and the next one takes it up again.
func TestHostDies(t *testing.T) {
	s, g := newQEMU(t)
	s.protect(vmName)
	s.check(&g.load, 1)
	for _, c := range []struct {
		name   string
		signal syscall.Signal
	}{{"kill", syscall.SIGKILL}, {"hang", syscall.SIGSTOP}} {
		g.goesOn("protection")
		s.point(1)
		was := picture(t, g.disk)
		s.host.Doom()
		absent(t, g, "the host component's "+c.name, func() {
			must(t, s.host.Signal(c.signal))
			select {
			case <-s.host.Done:
			case <-time.After(patience):
				t.Fatal("the watchdog does not kill it")
			}
		})
		s.startHost()
		s.whole(1)
		thrifty(t, c.name, s.status().Stream.Shipped, differing(t, was, g.disk))
		s.check(&g.load, 1)
	}
	must(t, s.host.Stop(patience))
	g.goesOn("the host component was stopped")
	g.off()
}

// TestDRVADies: the DRVA is killed, and then hangs; the guest goes on, and
// nothing is copied but what was missed.
func TestDRVADies(t *testing.T) {
	s, g := newQEMU(t)
	s.protect(vmName)
	s.check(&g.load, 1)
	before := s.status().Stream
	absent(t, g, "the DRVA's kill", s.drva.Kill)
	s.startDRVA()
	s.whole(1)
	s.check(&g.load, 1)
	absent(t, g, "the DRVA's hang", func() { must(t, s.drva.Signal(syscall.SIGSTOP)) })
	must(t, s.drva.Signal(syscall.SIGCONT))
	s.whole(1)
	s.check(&g.load, 1)
	if st := s.status().Stream; st.Shipped-before.Shipped > (st.Tracked-before.Tracked)*11/10 {
		t.Errorf("%d bytes were shipped, %d tracked", st.Shipped-before.Shipped, st.Tracked-before.Tracked)
	}
	s.unprotect(vmName)
	g.goesOn("it was unprotected")
	g.off()
}

// TestChanges: a disk is added to a protected VM, and the VM is powered off and
// on.
func TestChanges(t *testing.T) {
	s, g := newQEMU(t)
	s.protect(vmName)
	s.check(&g.load, 1)

	second := g.second()
	must(t, os.WriteFile(second, make([]byte, 8<<20), 0o600))
	g.command("blockdev-add", `{"driver":"raw","node-name":"fmt2","file":{"driver":"file","filename":"`+second+`"}}`)
	g.command("device_add", `{"driver":"virtio-blk-pci","drive":"fmt2","id":"d1","werror":"stop","rerror":"stop"}`)
	s.whole(2)
	s.check(&g.load, 2)
	t.Log("the added disk is protected")

	g.off()
	s.point(2) // of a VM that is off
	t.Log("a checkpoint of the VM that is off is published")
	g.boot()
	s.whole(2)
	s.check(&g.load, 2)
	t.Log("the VM was powered off and on, and is protected")
	g.off()
}
