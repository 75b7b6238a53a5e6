package takeover

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/takeover"
	"holdfast/internal/nbd"
	"holdfast/test/rig"
)

// asHeir makes the test binary an heir that goes only so far; its value is the
// step, its arguments the configuration and the predecessor's process.
const asHeir = "HOLDFAST_TEST_HEIR"

func TestMain(m *testing.M) {
	if step := os.Getenv(asHeir); step != "" {
		os.Exit(halfHeir(step, os.Args[1], os.Args[2]))
	}
	rig.Main()
	os.Exit(m.Run())
}

// die ends this process as kill -9 does.
func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// halfHeir takes over as far as step, and dies there; the steps named old-… kill
// the predecessor instead and go on. It returns 3 when it was refused.
func halfHeir(step, config, old string) int {
	var c iofilter.Config
	var extra struct{ Status string }
	b, err := os.ReadFile(config)
	if err != nil || json.Unmarshal(b, &c) != nil || json.Unmarshal(b, &extra) != nil {
		return 1
	}
	at := func(s string) {
		if step == s {
			die()
		}
		if step == "old-"+s {
			pid, _ := strconv.Atoi(old)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			for syscall.Kill(pid, 0) == nil { // until its parent has seen it
				time.Sleep(time.Millisecond)
			}
		}
	}
	p, err := takeover.Ask(context.Background(), extra.Status+".heir", takeover.Identity{Domain: c.Domain, Host: c.Host})
	if err != nil {
		return 3
	}
	at("asked")
	l, err := p.Legacy()
	if err != nil {
		return 3
	}
	at("handed")
	f, err := nbd.OpenFile(c.VMs[0].Disks[0].Path, nbd.FileOptions{})
	if err != nil {
		return 4
	}
	defer f.Close()
	at("opened")
	if err := p.Ready(); err != nil {
		return 3
	}
	at("given")
	_ = l
	return 5
}

// writer writes numbered blocks over one connection until it is stopped, each
// as soon as the one before is acknowledged.
type writer struct {
	t       testing.TB
	c       *nbd.Client
	stop    chan struct{}
	over    sync.WaitGroup
	mu      sync.Mutex
	longest time.Duration
	n       uint64
	err     error
}

func (s *site) writer() *writer {
	s.T.Helper()
	c, err := nbd.Dial(s.T.Context(), "unix", s.Path("disk.nbd"), nbd.DialOptions{Export: "disk0"})
	must(s.T, err)
	w := &writer{t: s.T, c: c, stop: make(chan struct{})}
	w.over.Go(w.run)
	return w
}

const blocks, blockSize = 1024, 16 << 10

func block(n uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, n*0x9E3779B97F4A7C15+1), blockSize/8)
}

func (w *writer) run() {
	for n := uint64(0); ; n++ {
		select {
		case <-w.stop:
			return
		default:
		}
		began := time.Now()
		_, err := w.c.WriteAt(context.Background(), block(n), int64(n%blocks)*blockSize, 0)
		w.mu.Lock()
		w.longest = max(w.longest, time.Since(began))
		w.err = err
		if err == nil {
			w.n = n + 1
		}
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// written returns how many blocks were acknowledged.
func (w *writer) written() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, w.err
}

// goesOn waits until n further writes are acknowledged.
func (w *writer) goesOn(n uint64) {
	w.t.Helper()
	from, _ := w.written()
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		at, err := w.written()
		if err != nil {
			w.t.Fatalf("the guest saw an error: %v", err)
		}
		if at >= from+n {
			return
		}
		if time.Now().After(until) {
			w.t.Fatal("the guest waits")
		}
	}
}

// worst returns the longest a write took since the last call.
func (w *writer) worst() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.longest
	w.longest = 0
	return d
}

// end stops writing and checks what the disk holds.
func (w *writer) end(s *site) {
	w.t.Helper()
	close(w.stop)
	w.over.Wait()
	n, err := w.written()
	if err != nil {
		w.t.Errorf("the guest saw an error: %v", err)
	}
	must(w.t, w.c.Close())
	s.holds(n)
}

// holds checks that the disk has the last n blocks that were acknowledged.
func (s *site) holds(n uint64) {
	s.T.Helper()
	disk, err := os.ReadFile(s.Path("disk.raw"))
	must(s.T, err)
	for i := n - min(n, blocks); i < n; i++ {
		off := int(i%blocks) * blockSize
		got := disk[off : off+blockSize]
		if i+blocks == n && bytes.Equal(got, block(n)) {
			continue // the one under way, of which nobody was told
		}
		if !bytes.Equal(got, block(i)) {
			s.T.Fatalf("write %d of %d is not on the disk", i, n)
		}
	}
}

// TestTakeOver: one process after the other takes over while a client writes
// over one connection; it sees no error and no long wait, the old ones end in
// good order, and what is recovered afterwards is what the disk holds.
func TestTakeOver(t *testing.T) {
	s := newSite(t)
	host := s.host()
	s.await("it serves", func(st *iofilter.Status) bool { return st.Name != "" })
	w := s.writer()
	s.await("the first copy is complete", func(st *iofilter.Status) bool { return st.Disks[0].State == iofilter.Streaming })
	var waits []time.Duration
	for range 5 {
		w.goesOn(50)
		w.worst()
		host.Doom()
		next := s.host("--takeover")
		if err := s.awaitEnd(host); err != nil {
			t.Fatalf("the old one ended with %v:\n%s", err, rig.Tail(host.Log))
		}
		w.goesOn(50)
		waits = append(waits, w.worst())
		for _, name := range []string{"disk.nbd", "host.sock", "host.sock.heir"} {
			if _, err := os.Stat(s.Path(name)); err != nil {
				t.Errorf("after a takeover: %v", err)
			}
		}
		if st, err := os.Stat(s.Path("host.sock.heir")); err == nil && st.Mode().Perm() != 0o600 {
			t.Errorf("others may ask: %v", st.Mode())
		}
		host = next
		s.await("it streams", func(st *iofilter.Status) bool { return st.Disks[0].State == iofilter.Streaming })
	}
	// What a user paused stays so.
	must(t, control.CallLocal(t.Context(), s.Path("host.sock"), "/pause", nil, &struct{}{}))
	host.Doom()
	next := s.host("--takeover")
	if err := s.awaitEnd(host); err != nil {
		t.Fatal(err)
	}
	host = next
	s.await("it is paused", func(st *iofilter.Status) bool { return len(st.Disks) == 1 && st.Disks[0].State == iofilter.PausedUser })
	w.goesOn(200)
	s.await("it is still paused", func(st *iofilter.Status) bool {
		return st.Disks[0].State == iofilter.PausedUser && st.Disks[0].DirtyBytes > 0
	})
	must(t, control.CallLocal(t.Context(), s.Path("host.sock"), "/resume", nil, &struct{}{}))
	slices.Sort(waits)
	t.Logf("the longest write of each of %d takeovers: %v", len(waits), waits)
	w.end(s)
	s.sameAsDisk()
	must(t, host.Stop(patience))
	for _, name := range []string{"disk.nbd", "host.sock", "host.sock.heir"} {
		if _, err := os.Stat(s.Path(name)); err == nil {
			t.Errorf("%s was left behind", name)
		}
	}
}

// heir runs a half heir to its end.
func (s *site) heir(step string, old *rig.Process) error {
	s.T.Helper()
	exe, err := os.Executable()
	must(s.T, err)
	cmd := exec.CommandContext(s.T.Context(), exe, s.Path("host.json"), strconv.Itoa(old.PID()))
	cmd.Env = append(os.Environ(), asHeir+"="+step)
	return cmd.Run()
}

// TestHeirDies: whenever a new process dies before it serves, the old one goes
// on; on the same connections, unless the new one may have used them.
func TestHeirDies(t *testing.T) {
	s := newSite(t)
	host := s.host()
	s.await("it serves", func(st *iofilter.Status) bool { return st.Name != "" })
	w := s.writer()
	for _, step := range []string{"asked", "handed", "opened"} {
		w.goesOn(20)
		w.worst()
		if err := s.heir(step, host); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("%s: the heir ended with %v", step, err)
		}
		w.goesOn(20)
		t.Logf("%s: the longest write took %v", step, w.worst())
	}
	// It has the connections: the client must connect again.
	if err := s.heir("given", host); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("given: the heir ended with %v", err)
	}
	w.over.Wait()
	n, err := w.written()
	if err == nil {
		t.Error("a connection that another process may have used is used on")
	}
	s.holds(n)
	w = s.writer()
	w.goesOn(2000)
	// And a real one can take over then.
	host.Doom()
	host2 := s.host("--takeover")
	if err := s.awaitEnd(host); err != nil {
		t.Fatalf("the old one ended with %v:\n%s", err, rig.Tail(host.Log))
	}
	w.goesOn(20)
	w.end(s)
	s.sameAsDisk()
	must(t, host2.Stop(patience))
}

// TestPredecessorDies in the middle: the new process says so, and a normal start
// serves the sockets again.
func TestPredecessorDies(t *testing.T) {
	s := newSite(t)
	for _, step := range []string{"old-asked", "old-handed", "old-opened"} {
		host := s.host()
		s.await("it serves", func(st *iofilter.Status) bool { return st.Name != "" })
		w := s.writer()
		w.goesOn(1200)
		host.Doom()
		err := s.heir(step, host)
		if err == nil || err.Error() != "exit status 3" {
			t.Fatalf("%s: the heir ended with %v", step, err)
		}
		w.over.Wait()
		n, _ := w.written()
		s.holds(n)
		host = s.host()
		s.await("it serves", func(st *iofilter.Status) bool { return st.Name != "" })
		w = s.writer()
		w.goesOn(uint64(blocks) + 20)
		w.end(s)
		s.sameAsDisk()
		must(t, host.Stop(patience))
	}
}

// TestRefused: nobody to follow, or a second one without --takeover, is a clear
// error, and changes nothing.
func TestRefused(t *testing.T) {
	s := newSite(t)
	err := rig.Command(t.Context(), nil, "iofilter", "--config", s.Path("host.json"), "--takeover")
	if err == nil || !strings.Contains(err.Error(), "without --takeover") {
		t.Errorf("nobody to follow: %v", err)
	}
	host := s.host()
	s.await("it serves", func(st *iofilter.Status) bool { return st.Name != "" })
	w := s.writer()
	err = rig.Command(t.Context(), nil, "iofilter", "--config", s.Path("host.json"))
	if err == nil || !strings.Contains(err.Error(), "in its place with --takeover") {
		t.Errorf("a second one: %v", err)
	}
	// One that would not serve what is served.
	var c map[string]any
	b, err := os.ReadFile(s.Path("host.json"))
	must(t, err)
	must(t, json.Unmarshal(b, &c))
	c["vms"] = []any{}
	s.WriteJSON("less.json", c)
	err = rig.Command(t.Context(), nil, "iofilter", "--config", s.Path("less.json"), "--takeover")
	if err == nil || !strings.Contains(err.Error(), "this configuration does not have") {
		t.Errorf("a disk less: %v", err)
	}
	w.goesOn(20)
	w.end(s)
	if _, err := os.Stat(s.Path("disk.nbd")); err != nil {
		t.Errorf("a refused process removed what is not its own: %v", err)
	}
	must(t, host.Stop(patience))
}

// TestQEMUGoesOn: QEMU's own client writes, flushes and reads through takeovers
// without an error, and without a chance to connect again.
func TestQEMUGoesOn(t *testing.T) {
	s := newSite(t)
	host := s.host()
	s.await("it serves", func(st *iofilter.Status) bool { return st.Name != "" })
	cmd := exec.CommandContext(t.Context(), "qemu-io", "--image-opts", "driver=raw,file.driver=nbd,file.server.type=unix,file.export=disk0,file.server.path="+s.Path("disk.nbd"))
	in, err := cmd.StdinPipe()
	must(t, err)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	stop, fed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				in.Close()
				fed <- n
				return
			default:
			}
			off := n % 512 * 64 << 10
			fmt.Fprintf(in, "aio_write -q -P %d %d 64k\naio_flush\nread -q -P %d %d 64k\n", n%250+1, off, n%250+1, off)
			if n%16 == 0 {
				fmt.Fprintln(in, "flush")
			}
		}
	}()
	for range 4 {
		s.await("it writes", func(st *iofilter.Status) bool { return st.Stream.Records > 40 && st.Disks[0].Clients == 1 })
		host.Doom()
		next := s.host("--takeover")
		if err := s.awaitEnd(host); err != nil {
			t.Fatalf("the old one ended with %v:\n%s", err, rig.Tail(host.Log))
		}
		host = next
	}
	s.await("it writes", func(st *iofilter.Status) bool { return st.Stream.Records > 40 })
	close(stop)
	n := <-fed
	must(t, cmd.Wait())
	for _, bad := range []string{"error", "failed", "annot", "verif"} {
		if strings.Contains(said.String(), bad) {
			t.Fatalf("QEMU says: %.2000s", said.String())
		}
	}
	t.Logf("%d writes and reads by QEMU", n)
	disk, err := os.ReadFile(s.Path("disk.raw"))
	must(t, err)
	for i := max(0, n-512); i < n; i++ {
		if off := i % 512 * 64 << 10; disk[off] != byte(i%250+1) || disk[off+65535] != byte(i%250+1) {
			t.Fatalf("write %d of %d is not on the disk", i, n)
		}
	}
	s.sameAsDisk()
	must(t, host.Stop(patience))
}
