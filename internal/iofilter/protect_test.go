package iofilter

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// running is a Filter that runs, with a fake DRVA.
type running struct {
	*Filter
	t    *testing.T
	dir  string
	drva *fakeDRVA
	stop func() error
}

func runFilter(t *testing.T, sizes ...int) *running {
	t.Helper()
	r := &running{t: t, dir: shortDir(t), drva: newFakeDRVA()}
	cfg := config(t, r.dir, false, sizes...)
	if len(sizes) == 0 {
		cfg.VMs = nil
	}
	f, err := New(cfg, Options{Dial: r.drva.dial, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r.Filter = f
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	stopped := false
	r.stop = func() error {
		stopped = true
		cancel()
		return <-ran
	}
	t.Cleanup(func() {
		if !stopped {
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}
		if err := r.drva.problems(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "runs", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.run != nil })
	return r
}

// vm makes a VM with one disk per size.
func (r *running) vm(name string, sizes ...int) VM {
	vm := VM{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: name}}
	for i, size := range sizes {
		disk := name + string(rune('0'+i))
		d := Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, Name: disk, Path: image(r.t, r.dir, disk+".raw", size), Socket: filepath.Join(r.dir, disk+".sock")}
		vm.Disks = append(vm.Disks, d)
		vm.Config.Disks = append(vm.Config.Disks, dr.VMDisk{ID: d.ID, Name: disk})
	}
	return vm
}

func (r *running) dial(d *Disk) *nbd.Client {
	r.t.Helper()
	c, err := nbd.Dial(r.t.Context(), "unix", d.Socket, nbd.DialOptions{Export: d.Name})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *running) disk(id dr.DiskID) (found DiskStatus, ok bool) {
	for _, d := range r.Status().Disks {
		if d.ID == id {
			return d, true
		}
	}
	return found, false
}

func (r *running) synced() {
	r.t.Helper()
	eventually(r.t, "synced", func() bool {
		s := r.Status()
		return s.State == Streaming && s.Stream.Durable+1 == s.Stream.Next
	})
}

// TestProtectWhileItRuns: a host that begins with nothing gets a VM, another
// disk of it, loses one, and ends with what is left in order.
func TestProtectWhileItRuns(t *testing.T) {
	r := runFilter(t)
	ctx := t.Context()
	vm := r.vm("a", 2<<20+512)
	if err := r.Protect(ctx, vm); err != nil {
		t.Fatal(err)
	}
	c := r.dial(&vm.Disks[0])
	if _, err := c.WriteAt(t.Context(), fill(1, 9000), 300, 0); err != nil {
		t.Fatal(err)
	}
	r.synced()
	more := r.vm("b", 1<<20)
	more.Config.ID, more.Config.Name = vm.Config.ID, "renamed"
	if err := r.Protect(ctx, more); err != nil {
		t.Fatal(err)
	}
	if p := r.Protected(); len(p) != 1 || len(p[0].Disks) != 2 || p[0].Config.Name != "renamed" {
		t.Fatalf("protected: %+v", p)
	}
	r.synced()

	if _, err := r.Unprotect(ctx, vm.Config.ID, []dr.DiskID{vm.Disks[0].ID}, UnprotectOptions{}); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a disk with a client was taken away: %v", err)
	}
	if _, err := c.WriteAt(t.Context(), fill(2, 4096), 0, 0); err != nil {
		t.Fatal("the refusal was not without effect:", err)
	}
	c.Close()
	eventually(t, "the client is gone", func() bool { d, _ := r.disk(vm.Disks[0].ID); return d.Clients == 0 })
	res, err := r.Unprotect(ctx, vm.Config.ID, []dr.DiskID{vm.Disks[0].ID}, UnprotectOptions{})
	if err != nil || !res.Told {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := os.Stat(vm.Disks[0].Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there: %v", err)
	}
	if f, err := nbd.OpenFile(vm.Disks[0].Path, nbd.FileOptions{}); err != nil {
		t.Errorf("the primary is still held: %v", err)
	} else {
		f.Close()
	}
	if _, ok := r.drva.removed[vm.Disks[0].ID]; !ok {
		t.Error("the DRVA was not told")
	}
	// The same disk may come again; it has another index then.
	again := VM{Config: more.Config, Disks: vm.Disks}
	if err := r.Protect(ctx, again); err != nil {
		t.Fatal(err)
	}
	r.synced()
	f, err := os.ReadFile(vm.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if img := r.drva.image(2, int64(len(f))); !bytes.Equal(img[:len(f)], f) {
		t.Error("the copy of the disk that came again differs")
	}
	if _, err := r.Unprotect(ctx, vm.Config.ID, nil, UnprotectOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := r.Status(); len(s.Disks) != 0 || len(r.Protected()) != 0 {
		t.Errorf("left: %+v", s.Disks)
	}
}

// TestForceTakesADiskAway: its client loses the connection, nothing else.
func TestForceTakesADiskAway(t *testing.T) {
	r := runFilter(t, 1<<20)
	r.synced()
	vm := r.Protected()[0]
	c := r.dial(&vm.Disks[0])
	defer c.Close()
	if _, err := c.WriteAt(t.Context(), fill(1, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	if res, err := r.Unprotect(t.Context(), vm.Config.ID, nil, UnprotectOptions{Force: true}); err != nil || !res.Told {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := c.WriteAt(t.Context(), fill(1, 4096), 0, 0); err == nil {
		t.Error("the client is still served")
	}
}

// TestReleaseHandsOver: the disk leaves when its copy is complete, and says so.
func TestReleaseHandsOver(t *testing.T) {
	r := runFilter(t, 4<<20)
	vm := r.Protected()[0]
	res, err := r.Unprotect(t.Context(), vm.Config.ID, nil, UnprotectOptions{Release: true})
	if err != nil || !res.Told || !res.Clean {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := r.drva.removed[vm.Disks[0].ID]; got != `{"op":"release"}` {
		t.Errorf("the DRVA was told %q", got)
	}
}

// TestReleaseWithoutADRVA: what cannot be completed because the DRVA is gone is
// waited for as long as one restarts, from when it went; and what it was told of
// one VM and did not hear keeps no other.
func TestReleaseWithoutADRVA(t *testing.T) {
	r := runFilter(t, 1<<20)
	others := []VM{r.vm("b", 1<<20), r.vm("c", 1<<20)} // the DRVA has all of them
	for _, vm := range others {
		if err := r.Protect(t.Context(), vm); err != nil {
			t.Fatal(err)
		}
	}
	r.synced()
	r.drva.with(func() { r.drva.down = true })
	r.drva.cutLink()
	eventually(t, "the link is down", func() bool { return !r.Status().Link.Up })
	vm, d := r.Protected()[0], r.ports[0].disk
	d.out.mu.Lock()
	d.dirty.SetAll()
	d.out.mu.Unlock()
	released := make(chan Unprotected, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		u, err := r.Unprotect(ctx, vm.Config.ID, nil, UnprotectOptions{Release: true})
		if err != nil {
			t.Error(err)
		}
		released <- u
	}()
	select {
	case u := <-released:
		t.Fatalf("it was not waited for a DRVA that may come back: %+v", u)
	case <-time.After(4 * releaseLook):
	}
	d.out.mu.Lock()
	d.out.link.lost -= releaseLost
	d.out.mu.Unlock()
	if u := <-released; ctx.Err() != nil || u.Told || u.Clean {
		t.Errorf("%+v, %v", u, ctx.Err())
	}
	for _, vm := range others {
		u, err := r.Unprotect(ctx, vm.Config.ID, nil, UnprotectOptions{Release: true})
		if err != nil || ctx.Err() != nil || u.Told {
			t.Errorf("%s: %+v, %v, %v", vm.Config.Name, u, err, ctx.Err())
		}
	}
}

// TestUnprotectWithoutADRVA is bounded, and done on this side.
func TestUnprotectWithoutADRVA(t *testing.T) {
	r := runFilter(t, 1<<20)
	r.synced()
	r.drva.with(func() { r.drva.down = true })
	r.drva.cutLink()
	vm := r.Protected()[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the caller does not wait for the DRVA
	res, err := r.Unprotect(ctx, vm.Config.ID, nil, UnprotectOptions{})
	if err != nil || res.Told {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := r.Protect(t.Context(), vm); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a disk on its way out came in: %v", err)
	}
	r.drva.with(func() { r.drva.down = false })
	eventually(t, "the DRVA is told", func() bool {
		r.drva.mu.Lock()
		defer r.drva.mu.Unlock()
		return r.drva.removed[vm.Disks[0].ID] != ""
	})
	eventually(t, "the disk may come again", func() bool { return r.Protect(t.Context(), vm) == nil })
}

// TestProtectUndoesItself: of a VM with one bad disk nothing is left.
func TestProtectUndoesItself(t *testing.T) {
	r := runFilter(t, 1<<20)
	vm := r.vm("x", 1<<20, 1<<20)
	held, err := nbd.OpenFile(vm.Disks[1].Path, nbd.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Protect(t.Context(), vm); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a disk somebody else holds: %v", err)
	}
	held.Close()
	if _, err := os.Stat(vm.Disks[0].Socket); !errors.Is(err, os.ErrNotExist) {
		t.Error("the first disk's socket was left")
	}
	same := r.Protected()[0].Disks[0]
	for what, change := range map[string]func(*VM){
		"a disk that is there": func(v *VM) { v.Disks[0].ID = same.ID },
		"a path that is there": func(v *VM) { v.Disks[0].Path = same.Path },
		"a socket in use":      func(v *VM) { v.Disks[0].Socket = same.Socket },
		"no name":              func(v *VM) { v.Config.Name = "" },
	} {
		bad := vm
		bad.Disks = append([]Disk(nil), vm.Disks...)
		change(&bad)
		if err := r.Protect(t.Context(), bad); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.Protect(t.Context(), vm); err != nil {
		t.Fatal("the failures left something behind:", err)
	}
}

// TestResizeUnderAClient: the client is sent away, waits to be let in again, and
// sees the new size.
func TestResizeUnderAClient(t *testing.T) {
	r := runFilter(t, 1<<20)
	r.synced()
	d := r.Protected()[0].Disks[0]
	c := r.dial(&d)
	if err := os.Truncate(d.Path, 3<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteAt(t.Context(), fill(1, 4096), 2<<20, 0); err == nil {
		t.Fatal("a write beyond the old end was taken")
	}
	if err := r.Resize(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = r.dial(&d)
	defer c.Close()
	if c.Size() != 3<<20 {
		t.Fatalf("the client sees %d bytes", c.Size())
	}
	if _, err := c.WriteAt(t.Context(), fill(1, 4096), 2<<20, 0); err != nil {
		t.Fatal(err)
	}
	r.synced()
	f, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	if img := r.drva.image(0, int64(len(f))); !bytes.Equal(img, f) {
		t.Error("the copy differs")
	}
	if err := os.Truncate(d.Path, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Resize(t.Context(), d.ID); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a disk without bytes: %v", err)
	}
	if err := r.Resize(t.Context(), dr.DiskID{UUID: dr.NewUUID()}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("a disk that is not there: %v", err)
	}
}

// TestChangesNeedARun: before and after Run nothing can be changed.
func TestChangesNeedARun(t *testing.T) {
	r := runFilter(t, 1<<20)
	vm := r.Protected()[0]
	cfg := vm.Config
	cfg.CPUs = 3
	if err := r.Reconfigure(cfg); err != nil || r.Protected()[0].Config.CPUs != 3 {
		t.Fatalf("%v", err)
	}
	if err := r.Sync(Target{VM: vm.Config.ID}, "quick"); !errs.Is(err, errs.Invalid) {
		t.Errorf("mode: %v", err)
	}
	if err := r.Pause(Target{VM: dr.VMID{UUID: dr.NewUUID()}}); !errs.Is(err, errs.NotFound) {
		t.Errorf("pause: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, un := r.Unprotect(ctx, vm.Config.ID, nil, UnprotectOptions{})
	for what, err := range map[string]error{
		"protect": r.Protect(ctx, r.vm("y", 1<<20)), "unprotect": un,
		"resize": r.Resize(ctx, vm.Disks[0].ID), "reconfigure": r.Reconfigure(cfg),
	} {
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestHeldDiskIsNotCopied: what somebody writes past the host component before
// a held disk is let go is in its copy, which no one takes for complete before;
// without the hold the copy lacks it.
func TestHeldDiskIsNotCopied(t *testing.T) {
	for _, held := range []bool{true, false} {
		r := runFilter(t)
		vm := r.vm("a", 4<<20)
		vm.Disks[0].Held = held
		if err := r.Protect(t.Context(), vm); err != nil {
			t.Fatal(err)
		}
		id := vm.Disks[0].ID
		if held {
			eventually(t, "the DRVA knows of it", func() bool {
				d, _ := r.disk(id)
				return d.State == Tracking && d.Cause == causeHeld
			})
		} else {
			r.synced()
		}
		f, err := os.OpenFile(vm.Disks[0].Path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(fill(7, dr.BlockSize), 1<<20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := r.Vouch(Target{Disks: []dr.DiskID{id}}, SyncBitmap); err != nil {
			t.Fatal(err)
		}
		r.synced()
		want, err := os.ReadFile(vm.Disks[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		if same := bytes.Equal(r.drva.image(0, int64(len(want))), want); same != held {
			t.Errorf("held %v: the copy is the disk's content: %v", held, same)
		}
	}
}

// TestHold: a disk that is about to be written behind our back counts for no
// checkpoint until it has been compared.
func TestHold(t *testing.T) {
	for _, mode := range []SyncMode{SyncBitmap, SyncHash, SyncFull} {
		t.Run(string(mode), func(t *testing.T) { hold(t, mode) })
	}
}

func hold(t *testing.T, mode SyncMode) {
	r := runFilter(t)
	vm := r.vm("a", 4<<20)
	if err := r.Protect(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	id := vm.Disks[0].ID
	target := Target{Disks: []dr.DiskID{id}}
	r.synced()
	complete := func() (yes bool) {
		r.drva.with(func() { yes = !r.drva.incomplete(id, 0) })
		return yes
	}
	if !complete() {
		t.Fatal("the copy is not complete: this test proves nothing")
	}
	if err := r.Hold(target); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the DRVA counts on it no more", func() bool {
		d, _ := r.disk(id)
		return d.State == Tracking && d.Cause == causeHeld && !complete()
	})
	content := append(fill(7, dr.BlockSize), make([]byte, 4<<20-dr.BlockSize)...)
	if err := os.WriteFile(vm.Disks[0].Path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Sync(target, mode); err != nil { // a person's word is not enough
		t.Fatal(err)
	}
	if d, _ := r.disk(id); d.Cause != causeHeld {
		t.Errorf("a sync let it go: %+v", d)
	}
	if err := r.Vouch(target, mode); err != nil {
		t.Fatal(err)
	}
	r.synced()
	if !complete() || !bytes.Equal(r.drva.image(0, 4<<20), content) {
		t.Error("the copy is not the disk's content, or not complete")
	}
	if err := r.Hold(Target{Disks: []dr.DiskID{{UUID: dr.NewUUID()}}}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a disk nobody knows: %v", err)
	}
}

// TestReleaseOfWhatCannotBeCompleted: a disk that is paused, or held because its
// guest goes on without the host component, is let go of at once, and not as
// complete.
func TestReleaseOfWhatCannotBeCompleted(t *testing.T) {
	for name, bar := range map[string]func(*Filter, Target) error{
		"held": (*Filter).Hold, "paused": (*Filter).Pause, "nothing": func(*Filter, Target) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := runFilter(t)
			vm := r.vm("a", 1<<20)
			if err := r.Protect(t.Context(), vm); err != nil {
				t.Fatal(err)
			}
			r.synced()
			if err := bar(r.Filter, Target{VM: vm.Config.ID}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			u, err := r.Unprotect(ctx, vm.Config.ID, nil, UnprotectOptions{Release: true})
			if err != nil || ctx.Err() != nil || u.Clean != (name == "nothing") {
				t.Errorf("%+v, %v; waited in vain: %v", u, err, ctx.Err() != nil)
			}
		})
	}
}
