package cli

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
)

// runHost runs a host component with one VM and no DRVA, and returns its local
// socket.
func runHost(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := filepath.Join(dir, "a.raw")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	id := dr.DiskID{UUID: dr.NewUUID()}
	f, err := iofilter.New(iofilter.Config{
		Domain: dr.DomainID{UUID: dr.NewUUID()}, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "node1",
		VMs: []iofilter.VM{{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "erp1"},
			Disks: []iofilter.Disk{{ID: id, Name: "disk0", Path: disk, Socket: filepath.Join(dir, "a.sock")}}}},
	}, iofilter.Options{Dial: func(context.Context) (net.Conn, error) {
		return nil, errs.New("dial", errs.Unavailable, "drva", "nobody is there").WithRemedy("start it")
	}})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "status.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 2)
	go func() { ran <- f.Run(ctx) }()
	go func() { ran <- control.ServeLocal(ctx, socket, hostCalls(f)) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ran; err != nil {
				t.Error(err)
			}
		}
	})
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var s iofilter.Status
		if control.CallLocal(t.Context(), socket, "/status", nil, &s) == nil && len(s.Disks) == 1 && s.Disks[0].Clients == 0 && s.Link.Error != "" {
			return socket
		}
		if time.Now().After(until) {
			t.Fatal("the host component does not answer")
		}
	}
}

func TestHostIsControlled(t *testing.T) {
	socket := runHost(t)
	out := must(t, "status", socket)
	for _, want := range []string{"tracking: the host component has just started", "what to do", "disk erp1/disk0", "since 20"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
	must(t, "pause", socket, "--vm", "erp1", "--disk", "disk0")
	if out := must(t, "status", socket); !strings.Contains(out, "paused-user: paused by a user") || !strings.Contains(out, "holdfast resume") {
		t.Errorf("status of a paused disk:\n%s", out)
	}
	must(t, "resume", socket)
	must(t, "sync", socket, "--disk", "disk0", "--mode", "hash")
	must(t, "sync", socket, "--vm", "erp1", "--mode", "full")
	out = must(t, "events", socket)
	for _, want := range []string{"host", "(begin) -> tracking", "erp1/disk0", "-> paused-user", "1.0 MiB to copy"} {
		if !strings.Contains(out, want) {
			t.Errorf("events lack %q:\n%s", want, out)
		}
	}
	var l iofilter.EventList
	if err := json.Unmarshal([]byte(must(t, "events", socket, "-o", "json")), &l); err != nil || len(l.Events) < 4 {
		t.Errorf("events: %+v, %v", l, err)
	}
	must(t, "bandwidth", socket, "--set", "* 5MB/s")
	if out := must(t, "bandwidth", socket); !strings.Contains(out, "5MB/s up") {
		t.Errorf("bandwidth:\n%s", out)
	}
	for _, bad := range []struct {
		code int
		args []string
	}{
		{exitNotFound, []string{"pause", socket, "--vm", "none"}},
		{exitNotFound, []string{"pause", socket, "--vm", "erp1", "--disk", "none"}},
		{exitNotFound, []string{"pause", socket, "--disk", "none"}},
		{exitUsage, []string{"sync", socket, "--mode", "quick"}},
		{exitUnavailable, []string{"resume", socket + "x"}},
	} {
		if code, _, stderr := call(t, bad.args...); code != bad.code || !strings.Contains(stderr, "\n  ") {
			t.Errorf("%v: exit %d, %s", bad.args, code, stderr)
		}
	}
}

// TestEventsFollow shows what happens after it began, until interrupted.
func TestEventsFollow(t *testing.T) {
	socket := runHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out lines
	over := make(chan int, 1)
	go func() {
		over <- run(ctx, []string{"events", socket, "--follow", "-o", "json"}, &out, &out)
	}()
	out.await(t, "tracking")
	must(t, "pause", socket)
	out.await(t, "paused-user")
	cancel()
	if code := <-over; code != exitCanceled {
		t.Errorf("exit %d", code)
	}
}

// lines collects what a command writes while it runs.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) await(t *testing.T, word string) {
	t.Helper()
	for until := time.Now().Add(2 * time.Minute); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		found := strings.Contains(l.all.String(), word)
		l.mu.Unlock()
		if found {
			return
		}
	}
	t.Fatalf("never written: %q", word)
}

// A disk is found without its VM if its name, or its id, is one disk's alone.
func TestFindTarget(t *testing.T) {
	vm := func(name string, disks ...iofilter.Disk) iofilter.VM {
		return iofilter.VM{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: name}, Disks: disks}
	}
	disk := func(name string) iofilter.Disk { return iofilter.Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, Name: name} }
	a, b, c := disk("disk0"), disk("disk0"), disk("data")
	vms := []iofilter.VM{vm("erp1", a), vm("erp2", b, c)}
	for _, e := range []struct {
		vm, disk string
		want     dr.DiskID
		kind     errs.Kind
	}{
		{"", "data", c.ID, 0},
		{"", b.ID.String(), b.ID, 0},
		{"erp1", "disk0", a.ID, 0},
		{"", "disk0", dr.DiskID{}, errs.Invalid},
		{"", "none", dr.DiskID{}, errs.NotFound},
		{"erp1", "data", dr.DiskID{}, errs.NotFound},
	} {
		got, err := findTarget(vms, e.vm, e.disk)
		switch {
		case e.kind != 0:
			if !errs.Is(err, e.kind) || errs.RemedyOf(err) == "" {
				t.Errorf("%q %q: %v", e.vm, e.disk, err)
			}
		case err != nil || len(got.Disks) != 1 || got.Disks[0] != e.want:
			t.Errorf("%q %q: %+v, %v", e.vm, e.disk, got, err)
		}
	}
}
