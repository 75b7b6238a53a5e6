package drva

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/nbd"
)

// liveHost is a real host component at this appliance.
type liveHost struct {
	*iofilter.Filter
	t   *testing.T
	dir string
	rng *rand.Rand
}

func newLiveHost(t *testing.T, r *rig) *liveHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f, err := iofilter.New(iofilter.Config{
		Domain: r.container.Domain().ID, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "node1", Ack: "ordered",
	}, iofilter.Options{Dial: func(context.Context) (net.Conn, error) { return r.lis.dial() }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	h := &liveHost{f, t, dir, seeded(t)}
	eventually(t, "the host component runs", func() bool { return f.Status().Link.Up })
	return h
}

// protect begins to protect a VM with one disk.
func (h *liveHost) protect(name string, size int64) iofilter.VM {
	h.t.Helper()
	path := filepath.Join(h.dir, name+".raw")
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(h.rng.Uint32())
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		h.t.Fatal(err)
	}
	id := dr.DiskID{UUID: dr.NewUUID()}
	vm := iofilter.VM{
		Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: name, Disks: []dr.VMDisk{{ID: id, Name: "disk0"}}},
		Disks:  []iofilter.Disk{{ID: id, Name: "disk0", Path: path, Socket: filepath.Join(h.dir, name+".sock")}},
	}
	if err := h.Protect(h.t.Context(), vm); err != nil {
		h.t.Fatal(err)
	}
	return vm
}

// writes makes random writes to a VM's disk as a guest.
func (h *liveHost) writes(vm iofilter.VM, n int) {
	h.t.Helper()
	c, err := nbd.Dial(h.t.Context(), "unix", vm.Disks[0].Socket, nbd.DialOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	for range n {
		p := bytes.Repeat([]byte{byte(h.rng.Uint32())}, 512+h.rng.IntN(9000))
		if _, err := c.WriteAt(h.t.Context(), p, h.rng.Int64N(c.Size()-int64(len(p))), 0); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *liveHost) settled() bool {
	s := h.Status()
	for _, d := range s.Disks {
		if d.DirtyBytes > 0 {
			return false
		}
	}
	return (s.State == iofilter.Streaming || s.State == iofilter.PausedUser) && s.Stream.Durable+1 == s.Stream.Next
}

// TestMembersChange: VMs join a running host, one of them leaves, one is
// resized and reconfigured, one is paused, while the appliance also restarts;
// each group checkpoint holds what the disks hold, of exactly the VMs that are
// protected then.
func TestMembersChange(t *testing.T) {
	r := newRig(t, nil, nil)
	r.start()
	h := newLiveHost(t, r)
	a := h.protect("a", 3<<20)
	h.writes(a, 50)
	h.check(r, a)
	b := h.protect("b", 1<<20+512)
	h.writes(b, 50)
	h.writes(a, 20)
	h.check(r, a, b)

	cfg := b.Config
	cfg.Name, cfg.CPUs = "renamed", 12
	if err := h.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(a.Disks[0].Path, 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := h.Resize(t.Context(), a.Disks[0].ID); err != nil {
		t.Fatal(err)
	}
	h.writes(a, 50)
	h.check(r, a, b)
	if err := os.Truncate(a.Disks[0].Path, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := h.Resize(t.Context(), a.Disks[0].ID); err != nil {
		t.Fatal(err)
	}
	h.writes(a, 50)
	r.stop()
	h.writes(b, 20)
	r.start()
	h.check(r, a, b)

	if err := h.Pause(iofilter.Target{VM: b.Config.ID}); err != nil {
		t.Fatal(err)
	}
	h.writes(b, 20)
	h.writes(a, 20)
	eventually(t, "what was written is durable", func() bool { s := h.Status(); return s.Stream.Durable+1 == s.Stream.Next })
	if cp := r.checkpoint("paused"); cp.Scope != dr.Partial || len(cp.Missing) != 1 || cp.Missing[0] != b.Config.ID {
		t.Errorf("a checkpoint while a VM is paused: %+v", cp)
	}
	if err := h.Resume(iofilter.Target{}); err != nil {
		t.Fatal(err)
	}
	h.check(r, a, b)

	res, err := h.Unprotect(t.Context(), a.Config.ID, nil, iofilter.UnprotectOptions{})
	if err != nil || !res.Told {
		t.Fatalf("%+v, %v", res, err)
	}
	h.writes(b, 20)
	h.check(r, b)
	c := h.protect("c", 1<<20)
	h.check(r, b, c)
}

// check takes a checkpoint when all is quiet, and compares it.
func (h *liveHost) check(r *rig, vms ...iofilter.VM) {
	h.t.Helper()
	eventually(h.t, "the copies are complete", h.settled)
	cp := r.checkpoint("check")
	if cp.Scope != dr.Group || len(cp.Disks) != len(vms) {
		h.t.Fatalf("checkpoint %+v, want a group one of %d disks", cp, len(vms))
	}
	hist := r.history()
	for _, info := range hist.Checkpoints() {
		if info.ID != cp.ID {
			continue
		}
		got := r.rehydrate(hist, info)
		for _, vm := range vms {
			want, err := os.ReadFile(vm.Disks[0].Path)
			if err != nil {
				h.t.Fatal(err)
			}
			img := got[vm.Disks[0].ID]
			if len(img) < len(want) || !bytes.Equal(img[:len(want)], want) {
				h.t.Fatalf("VM %s in checkpoint %d differs (%d bytes, %d on the disk)", vm.Config.Name, cp.ID, len(img), len(want))
			}
		}
		return
	}
	h.t.Fatalf("checkpoint %d was not published", cp.ID)
}
