package live

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/iofilter"
)

// box is a scripted host component. It knows sockets as a hypervisor does: one
// that is not served cannot be attached.
type box struct {
	hv *fake.Host

	mu     sync.Mutex
	vms    map[dr.VMID]*iofilter.VM
	sizes  map[dr.DiskID]int64
	calls  []string
	broken map[string]error // by call
	mute   string           // a disk whose socket nobody answers on
	hashes bool             // it can compare
}

func (b *box) call(format string, a ...any) error {
	words := fmt.Sprintf(format, a...)
	b.calls = append(b.calls, words)
	name, _, _ := strings.Cut(words, " ")
	return b.broken[name]
}

func (b *box) Protect(_ context.Context, vm iofilter.VM) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.call("protect %s", vm.Config.Name); err != nil {
		return err
	}
	have := b.vms[vm.Config.ID]
	if have == nil {
		have = &iofilter.VM{}
		b.vms[vm.Config.ID] = have
	}
	have.Config = vm.Config
	for _, d := range vm.Disks {
		have.Disks = append(have.Disks, d)
		b.sizes[d.ID] = 1 << 20
		b.hv.Listen(d.Socket, d.Name != b.mute)
	}
	return nil
}

func (b *box) Unprotect(_ context.Context, vm dr.VMID, disks []dr.DiskID, o iofilter.UnprotectOptions) (iofilter.Unprotected, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.vms[vm]
	if have == nil {
		return iofilter.Unprotected{}, errs.New("box", errs.NotFound, vm.String(), "not here")
	}
	word := "remove"
	if o.Release {
		word = "release"
	}
	for _, id := range disks {
		i := slices.IndexFunc(have.Disks, func(d iofilter.Disk) bool { return d.ID == id })
		if err := b.call("unprotect %s %s", have.Disks[i].Name, word); err != nil {
			return iofilter.Unprotected{}, err
		}
		b.hv.Listen(have.Disks[i].Socket, false)
		have.Disks = slices.Delete(have.Disks, i, i+1)
	}
	if len(have.Disks) == 0 {
		delete(b.vms, vm)
	}
	return iofilter.Unprotected{Told: true}, nil
}

func (b *box) name(id dr.DiskID) string {
	for _, vm := range b.vms {
		for _, d := range vm.Disks {
			if d.ID == id {
				return d.Name
			}
		}
	}
	return "?"
}

func (b *box) Resize(_ context.Context, id dr.DiskID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sizes[id] = 2 << 20
	return b.call("resize %s", b.name(id))
}

func (b *box) Reach(_ context.Context, id dr.DiskID, s iofilter.Source) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	where := "nowhere"
	if s.Socket != "" {
		where = "source"
	}
	b.sizes[id] = s.Size
	return b.call("reach %s %s", b.name(id), where)
}

func (b *box) Hold(t iofilter.Target) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.call("hold %s", b.name(t.Disks[0]))
}

func (b *box) Reconfigure(c dr.VMConfig) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.call("reconfigure %s", c.Name)
}

func (b *box) Vouch(t iofilter.Target, mode iofilter.SyncMode) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if mode == iofilter.SyncHash && !b.hashes {
		return errs.New("box", errs.Unavailable, "", "cannot compare")
	}
	return b.call("sync %s %s", b.name(t.Disks[0]), mode)
}

func (b *box) Status() (s iofilter.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, vm := range b.vms {
		for _, d := range vm.Disks {
			s.Disks = append(s.Disks, iofilter.DiskStatus{ID: d.ID, Name: d.Name, Size: b.sizes[d.ID]})
		}
	}
	return s
}

// said returns the calls since the last time.
func (b *box) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.calls
	b.calls = nil
	return out
}

// rig is a Manager with a scripted hypervisor and host component.
type rig struct {
	t    *testing.T
	hv   *fake.Host
	p    *fake.Platform
	box  *box
	path string
	m    *Manager
	vm   *fake.LiveVM
	id   dr.VMID
}

func newRig(t *testing.T, disks ...string) *rig {
	r := &rig{t: t, hv: &fake.Host{}, path: filepath.Join(t.TempDir(), "live.json"), id: dr.VMID{UUID: dr.NewUUID()}}
	info := hypervisor.VMInfo{Running: true, Config: dr.VMConfig{ID: r.id, Name: "erp1", CPUs: 2}}
	for _, d := range disks {
		addDisk(&info, d)
	}
	r.vm = r.hv.Add(info, -1)
	r.vm.Pauses(3 * time.Millisecond)
	r.restart()
	return r
}

func addDisk(info *hypervisor.VMInfo, name string) {
	info.Config.Disks = append(info.Config.Disks, dr.VMDisk{Name: name, Size: 1 << 20})
	info.Disks = append(info.Disks, hypervisor.LiveDisk{Name: name, Path: "/vms/" + name + ".raw", Format: "raw", Size: 1 << 20})
}

// restart makes a Manager and a host component anew; the record and the
// hypervisor stay.
func (r *rig) restart() {
	r.t.Helper()
	rec, err := OpenRecord(durable.OS{}, r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.p = fake.NewPlatform(r.hv)
	r.box = &box{hv: r.hv, vms: map[dr.VMID]*iofilter.VM{}, sizes: map[dr.DiskID]int64{}, broken: map[string]error{}}
	r.m = New(Config{Platform: r.p, Host: r.box, Record: rec, Sockets: "/run/hf"})
}

func (r *rig) protect() Report {
	r.t.Helper()
	rep, err := r.m.Protect(r.t.Context(), "erp1", Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.box.said()
	return rep
}

// attached lists the disks that pass an export.
func (r *rig) attached() (out []string) {
	for _, d := range []string{"vda", "vdb", "vdc"} {
		if _, ok := r.vm.Attachment(d); ok {
			out = append(out, d)
		}
	}
	return out
}

func (r *rig) recorded() (out []string) {
	r.t.Helper()
	rec, err := OpenRecord(durable.OS{}, r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range rec.Entries() {
		for _, d := range e.Disks {
			word := d.Name
			if d.Unseen {
				word += " unseen"
			}
			out = append(out, word)
		}
	}
	return out
}

func (r *rig) want(what string, got []string, want ...string) {
	r.t.Helper()
	if !slices.Equal(got, want) {
		r.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// during runs the Manager inside a synctest bubble while do changes the world.
func (r *rig) during(do func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.m.Run(ctx, func() bool { return true }) }()
	synctest.Wait()
	do()
	synctest.Wait()
	cancel()
	if err := <-ran; err != nil {
		r.t.Error(err)
	}
}

func TestProtectAndUnprotect(t *testing.T) {
	r := newRig(t, "vda", "vdb")
	rep := r.protect()
	if len(rep.Disks) != 2 || rep.Disks[0].Pause != 3*time.Millisecond || rep.Disks[0].Route != "fake" || rep.Disks[1].ID.IsZero() {
		t.Errorf("report %+v", rep)
	}
	r.want("attached", r.attached(), "vda", "vdb")
	r.want("record", r.recorded(), "vda", "vdb")
	if vm := r.box.vms[r.id]; len(vm.Config.Disks) != 2 || vm.Config.Disks[0].ID != vm.Disks[0].ID {
		t.Errorf("the configuration does not name the disks: %+v", vm.Config)
	}
	if _, err := r.m.Protect(t.Context(), "erp1", Options{}); !errs.Is(err, errs.Conflict) {
		t.Errorf("protected twice: %v", err)
	}
	if _, err := r.m.Unprotect(t.Context(), r.id.String(), iofilter.UnprotectOptions{}); err != nil {
		t.Fatal(err)
	}
	r.want("attached", r.attached())
	r.want("record", r.recorded())
	if len(r.box.vms) != 0 {
		t.Error("the host component still serves it")
	}
	for _, name := range []string{"erp1", "none"} {
		if _, err := r.m.Unprotect(t.Context(), name, iofilter.UnprotectOptions{}); !errs.Is(err, errs.NotFound) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestProtectUndoesAll: whichever step fails, nothing is left of it.
func TestProtectUndoesAll(t *testing.T) {
	for name, harm := range map[string]func(*rig){
		"host":   func(r *rig) { r.box.broken["protect"] = errors.New("full") },
		"attach": func(r *rig) { r.box.mute = "vdb" },
		"platform": func(r *rig) {
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[1].Problem = "encrypted: decrypt it" })
		},
		"shared": func(r *rig) {
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[1].Shared = true })
		},
		"record": func(r *rig) { r.m.cfg.Record.path = "/nowhere/at/all" },
		"reach": func(r *rig) {
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[1].Format = "qcow2" })
			r.box.broken["reach"] = errors.New("no")
		},
		"attach a source": func(r *rig) {
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[1].Format = "qcow2" })
			r.box.mute = "vdb"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "vda", "vdb")
			harm(r)
			if _, err := r.m.Protect(t.Context(), "erp1", Options{}); err == nil {
				t.Fatal("no error")
			}
			r.want("attached", r.attached())
			r.want("record", r.recorded())
			if len(r.box.vms) != 0 {
				t.Error("the host component serves something")
			}
		})
	}
}

// TestSkip leaves out what cannot be captured, if it is told so.
func TestSkip(t *testing.T) {
	r := newRig(t, "vda", "vdb", "vdc")
	r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) {
		i.Disks[1].Problem = "no"
		i.Disks[2].ReadOnly = true
	})
	rep, err := r.m.Protect(t.Context(), "erp1", Options{Skip: []string{"vdb"}})
	if err != nil || len(rep.Disks) != 3 {
		t.Fatalf("%+v, %v", rep, err)
	}
	r.want("attached", r.attached(), "vda")
}

// TestUnprotectThatFailsStaysProtected: the disks that had been detached are
// attached again, and compared, because the guest wrote to them unseen.
func TestUnprotectThatFailsStaysProtected(t *testing.T) {
	r := newRig(t, "vda", "vdb")
	r.protect()
	r.m.cfg.Platform = &failing{Platform: r.p, detach: "vdb"}
	if _, err := r.m.Unprotect(t.Context(), "erp1", iofilter.UnprotectOptions{}); err == nil {
		t.Fatal("no error")
	}
	r.want("attached", r.attached(), "vda", "vdb")
	r.want("record", r.recorded(), "vda", "vdb")
	r.want("calls", r.box.said(), "hold vda", "hold vdb", "sync vda full", "sync vdb full")
}

// failing is a platform one of whose disks cannot be detached.
type failing struct {
	hypervisor.Platform
	detach string
}

func (f *failing) VM(ctx context.Context, name string) (hypervisor.LiveVM, error) {
	vm, err := f.Platform.VM(ctx, name)
	return &failingVM{vm, f}, err
}

type failingVM struct {
	hypervisor.LiveVM
	f *failing
}

func (v *failingVM) Detach(ctx context.Context, disk string) (hypervisor.Switch, error) {
	if disk == v.f.detach {
		return hypervisor.Switch{}, errs.New("fake", errs.Transient, disk, "busy")
	}
	return v.LiveVM.Detach(ctx, disk)
}

// TestFollowsTheVM: what happens to a protected VM happens to its protection.
func TestFollowsTheVM(t *testing.T) {
	change := func(r *rig, kind hypervisor.ChangeKind, do func(*hypervisor.VMInfo)) { r.vm.Change(kind, "", do) }
	for name, c := range map[string]struct {
		leaveNew bool
		do       func(*rig)
		calls    []string
		attached []string
	}{
		"disk added": {do: func(r *rig) {
			change(r, hypervisor.ChangedDisks, func(i *hypervisor.VMInfo) { addDisk(i, "vdc") })
		}, calls: []string{"protect erp1", "sync vdc bitmap"}, attached: []string{"vda", "vdb", "vdc"}},
		"disk added, not wanted": {leaveNew: true, do: func(r *rig) {
			change(r, hypervisor.ChangedDisks, func(i *hypervisor.VMInfo) { addDisk(i, "vdc") })
		}, attached: []string{"vda", "vdb"}},
		"disk added that cannot be captured": {do: func(r *rig) {
			change(r, hypervisor.ChangedDisks, func(i *hypervisor.VMInfo) { addDisk(i, "vdc"); i.Disks[2].Problem = "no" })
		}, attached: []string{"vda", "vdb"}},
		"disk removed": {do: func(r *rig) {
			change(r, hypervisor.ChangedDisks, func(i *hypervisor.VMInfo) {
				i.Disks, i.Config.Disks = i.Disks[:1], i.Config.Disks[:1]
			})
			time.Sleep(dropLooks * dropPause)
		}, calls: []string{"unprotect vdb remove", "reconfigure erp1"}, attached: []string{"vda", "vdb"}},
		"disks closed by a VM that ends": {do: func(r *rig) {
			var all []hypervisor.LiveDisk
			change(r, hypervisor.ChangedDisks, func(i *hypervisor.VMInfo) { all, i.Disks = i.Disks, i.Disks[:1] })
			synctest.Wait() // it has been seen without its disk
			change(r, hypervisor.ChangedState, func(i *hypervisor.VMInfo) { i.Running, i.Disks = false, all })
			time.Sleep(dropLooks * dropPause)
		}, attached: []string{"vda", "vdb"}},
		"disk resized": {do: func(r *rig) {
			change(r, hypervisor.ChangedDisks, func(i *hypervisor.VMInfo) { i.Disks[1].Size = 2 << 20 })
		}, calls: []string{"hold vdb", "resize vdb", "sync vdb full"}, attached: []string{"vda", "vdb"}},
		"renamed": {do: func(r *rig) {
			change(r, hypervisor.ChangedConfig, func(i *hypervisor.VMInfo) { i.Config.Name = "erp2" })
		}, calls: []string{"reconfigure erp2"}, attached: []string{"vda", "vdb"}},
		"started": {do: func(r *rig) {
			forget(r) // a VM that starts has its own disks
			change(r, hypervisor.ChangedState, func(i *hypervisor.VMInfo) { i.Running = false })
			synctest.Wait()
			change(r, hypervisor.ChangedState, func(i *hypervisor.VMInfo) { i.Running = true })
		}, calls: []string{"hold vda", "hold vdb", "sync vda full", "sync vdb full"}, attached: []string{"vda", "vdb"}},
		"nothing": {do: func(r *rig) { change(r, hypervisor.ChangedState, nil) }, attached: []string{"vda", "vdb"}},
		"a look now and then": {do: func(r *rig) {
			forget(r) // nobody told
			time.Sleep(lookAgain + time.Second)
		}, calls: []string{"hold vda", "hold vdb", "sync vda full", "sync vdb full"}, attached: []string{"vda", "vdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "vda", "vdb")
				r.m.cfg.LeaveNew = c.leaveNew
				r.protect()
				r.during(func() {
					r.box.said()
					c.do(r)
					synctest.Wait()
					r.want("calls", r.box.said(), c.calls...)
					r.want("attached", r.attached(), c.attached...)
				})
			})
		})
	}
}

// forget takes all exports out of the VM's paths, as its restart does.
func forget(r *rig) {
	vm, err := r.p.VM(r.t.Context(), r.id.String())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, d := range r.attached() {
		if _, err := vm.Detach(r.t.Context(), d); err != nil && !errs.Is(err, errs.Conflict) {
			r.t.Fatal(err)
		}
	}
}

// TestGoneIsReleased: a VM that left this host is somebody else's to protect.
func TestGoneIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.protect()
		r.during(func() {
			r.box.said()
			r.m.cfg.Platform = fake.NewPlatform(&fake.Host{}) // it knows no VM
			r.m.follow(t.Context(), r.id, hypervisor.ChangedDisks)
			r.want("calls", r.box.said())
			r.m.follow(t.Context(), r.id, hypervisor.VMGone)
			r.want("calls", r.box.said(), "unprotect vda release")
			r.want("record", r.recorded())
			r.m.cfg.Platform = r.p
		})
	})
}

// TestStepAside: a host component that ends leaves the guests with their own
// disks; the next one attaches them again and compares what they wrote.
func TestStepAside(t *testing.T) {
	for _, hashes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, "vda", "vdb")
			r.protect()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := r.m.Run(ctx, nil); err != nil {
				t.Fatal(err)
			}
			r.want("attached", r.attached())
			r.want("record", r.recorded(), "vda unseen", "vdb unseen")
			r.restart()
			r.box.hashes = hashes
			mode := "full"
			if hashes {
				mode = "hash"
			}
			r.during(func() {
				r.want("attached", r.attached(), "vda", "vdb")
				r.want("record", r.recorded(), "vda", "vdb")
				r.want("calls", r.box.said(), "protect erp1", "hold vda", "hold vdb", "sync vda "+mode, "sync vdb "+mode)
				for _, d := range r.box.vms[r.id].Disks {
					if !d.Unseen { // a sidecar would be believed
						t.Errorf("disk %s was written unseen, and the Filter was not told", d.Name)
					}
				}
			})
		})
	}
}

// TestTakesUpTheRecord: after a crash the guests are still attached, and
// nothing was written unseen.
func TestTakesUpTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.protect()
		r.restart()
		r.during(func() {
			r.want("calls", r.box.said(), "protect erp1")
			r.want("attached", r.attached(), "vda")
		})
	})
}

// TestPoweredOff: a VM that is off is served, attached when it starts, and
// compared then: it wrote before.
func TestPoweredOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = false })
		rep := r.protect()
		if !rep.Disks[0].Off {
			t.Errorf("report %+v", rep)
		}
		r.during(func() {
			r.want("attached", r.attached())
			r.box.said()
			r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = true })
			synctest.Wait()
			r.want("attached", r.attached(), "vda")
			r.want("calls", r.box.said(), "hold vda", "sync vda full")
		})
	})
}

// TestStartedUnprotected: as long as a guest that was started by somebody else
// cannot be attached, no checkpoint counts on its disk; one whose disks are just
// not to be seen may be about to end.
func TestStartedUnprotected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.protect()
		r.during(func() {
			forget(r)
			var all []hypervisor.LiveDisk
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { all, i.Disks = i.Disks, nil })
			synctest.Wait()
			r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running, i.Disks = false, all })
			time.Sleep(dropLooks * dropPause)
			synctest.Wait()
			r.want("calls of a VM that ends", r.box.said())
			r.vm.Fail(errors.New("busy"))
			r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = true })
			synctest.Wait()
			r.want("calls", r.box.said(), "hold vda")
			r.want("record", r.recorded(), "vda unseen")
			time.Sleep(lookAgain + time.Second)
			r.want("calls a minute later", r.box.said(), "hold vda")
			r.vm.Fail(nil)
			time.Sleep(lookAgain + time.Second)
			r.want("calls at last", r.box.said(), "hold vda", "sync vda full")
		})
	})
}

// exportedRig has one disk in a format that only the platform can open.
func exportedRig(t *testing.T) *rig {
	r := newRig(t, "vda")
	r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[0].Format = "qcow2" })
	return r
}

// TestOtherFormats: the Filter is told where the content is before the guest
// needs it; a mirrored disk is read only when the mirror stands.
func TestOtherFormats(t *testing.T) {
	for capture, mirror := range map[string]bool{"": false, "in-path": false, "mirror": true} {
		t.Run(capture, func(t *testing.T) {
			r := exportedRig(t)
			reached := false
			r.m.cfg.Platform = &watching{r.p, func(hypervisor.Attachment) {
				reached = slices.Contains(r.box.calls, "reach vda source")
			}}
			if _, err := r.m.Protect(t.Context(), "erp1", Options{Capture: capture}); err != nil {
				t.Fatal(err)
			}
			if reached == mirror {
				t.Errorf("read before the export was attached: %v", reached)
			}
			r.want("calls", r.box.said(), "protect erp1", "reach vda source", "sync vda bitmap")
			r.want("record", r.recorded(), "vda")
			d := r.box.vms[r.id].Disks[0]
			if d.Source == nil || d.Source.Size != 1<<20 || d.Source.Socket != "" || d.Mirror != mirror || d.Source.WriteThrough == mirror || d.Path != "/vms/vda.raw" {
				t.Errorf("the Filter was given %+v, %+v", d, d.Source)
			}
			if a, _ := r.vm.Attachment("vda"); (a.Capture == hypervisor.Mirror) != mirror {
				t.Errorf("attached %+v", a)
			}
			if _, err := r.m.Unprotect(t.Context(), "erp1", iofilter.UnprotectOptions{}); err != nil {
				t.Fatal(err)
			}
			r.want("attached", r.attached())
		})
	}
	r := newRig(t, "vda")
	if _, err := r.m.Protect(t.Context(), "erp1", Options{Capture: "sideways"}); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("an unknown way: %v", err)
	}
}

// watching is a platform that tells of each attach.
type watching struct {
	hypervisor.Platform
	attach func(hypervisor.Attachment)
}

func (w *watching) VM(ctx context.Context, name string) (hypervisor.LiveVM, error) {
	vm, err := w.Platform.VM(ctx, name)
	return &watchingVM{vm, w}, err
}

type watchingVM struct {
	hypervisor.LiveVM
	w *watching
}

func (v *watchingVM) Attach(ctx context.Context, disk string, a hypervisor.Attachment) (hypervisor.Switch, error) {
	v.w.attach(a)
	return v.LiveVM.Attach(ctx, disk, a)
}

// TestMirrorThatEnds is begun anew, and what was written meanwhile compared; a
// disk added later is mirrored as well.
func TestMirrorThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.m.cfg.Capture = hypervisor.Mirror
		r.protect()
		r.during(func() {
			r.box.said()
			forget(r)
			r.vm.Change(hypervisor.ChangedDisks, "", nil)
			synctest.Wait()
			r.want("calls", r.box.said(), "hold vda", "reach vda source", "sync vda full")
			r.want("record", r.recorded(), "vda")
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { addDisk(i, "vdb") })
			synctest.Wait()
			if a, ok := r.vm.Attachment("vdb"); !ok || a.Capture != hypervisor.Mirror {
				t.Errorf("the added disk: %+v", a)
			}
		})
	})
}

// TestOtherFormatAfterACrash: what the former process had started is gone, so
// the guest is taken off its export first; then all is as after any absence.
func TestOtherFormatAfterACrash(t *testing.T) {
	for _, c := range []hypervisor.Capture{hypervisor.InPath, hypervisor.Mirror} {
		synctest.Test(t, func(t *testing.T) {
			r := exportedRig(t)
			r.m.cfg.Capture = c
			r.protect()
			r.restart()
			r.during(func() {
				r.want("calls", r.box.said(), "protect erp1", "hold vda", "reach vda source", "sync vda full")
				r.want("attached", r.attached(), "vda")
				r.want("record", r.recorded(), "vda")
				if !r.box.vms[r.id].Disks[0].Unseen {
					t.Error("the guest wrote unseen, and the Filter was not told")
				}
				if a, _ := r.vm.Attachment("vda"); a.Capture != c {
					t.Errorf("the way of capture was forgotten: %v", a.Capture)
				}
			})
		})
	}
}

// TestOtherFormatFollows: resized, stalled because its content's server died,
// powered off and on.
func TestOtherFormatFollows(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(*rig)
		calls []string
	}{
		"resized": {func(r *rig) {
			r.vm.Change(hypervisor.ChangedDisks, "", func(i *hypervisor.VMInfo) { i.Disks[0].Size = 2 << 20 })
		}, []string{"hold vda", "reach vda source", "sync vda full"}},
		"stalled, told twice": {func(r *rig) {
			time.Sleep(time.Second)
			slow := r.m.cfg.Platform // so that the second one is there before the first is dealt with
			r.m.cfg.Platform = &watching{slow, func(hypervisor.Attachment) { time.Sleep(time.Second) }}
			r.vm.Change(hypervisor.DiskStalled, "vda", nil)
			r.vm.Change(hypervisor.DiskStalled, "vda", nil)
			time.Sleep(time.Minute / 2)
		}, []string{"hold vda", "reach vda source", "sync vda full"}},
		"power cycle": {func(r *rig) {
			forget(r)
			r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = false })
			synctest.Wait()
			r.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = true })
		}, []string{"reach vda nowhere", "hold vda", "reach vda source", "sync vda full"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := exportedRig(t)
				r.protect()
				r.during(func() {
					r.box.said()
					c.do(r)
					synctest.Wait()
					r.want("calls", r.box.said(), c.calls...)
					r.want("attached", r.attached(), "vda")
				})
			})
		})
	}
}
