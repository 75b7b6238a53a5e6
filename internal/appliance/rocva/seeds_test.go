package rocva

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/recovery"
)

// field is an appliance with a run of two disks that its domain has left.
type field struct {
	s   *Appliance
	run string
	rec *recovery.Record
	// others are the appliance's runs.
	others []*recovery.Record
}

func newField(t *testing.T) *field {
	t.Helper()
	f := &field{s: &Appliance{opts: Options{Dir: t.TempDir()}, runs: map[string]*owned{}}}
	f.run = f.s.path("r", "p", "erp", "1")
	must(t, os.MkdirAll(filepath.Join(f.run, "disks", "vm1"), 0o700))
	vm := dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "vm1"}
	f.rec = &recovery.Record{ID: dr.NewUUID(), Request: recovery.Request{Label: "erp"}}
	for _, name := range []string{"system", "data"} {
		d := dr.DiskID{UUID: dr.NewUUID()}
		vm.Disks = append(vm.Disks, dr.VMDisk{ID: d, Name: name, Size: 4})
		path := filepath.Join("disks", "vm1", name+".raw")
		must(t, os.WriteFile(filepath.Join(f.run, path), []byte(name[:4]), 0o600))
		f.rec.Disks = append(f.rec.Disks, recovery.DiskRecord{ID: d, Source: d, VM: vm.ID, Size: 4, Path: path})
	}
	f.rec.VMs = []recovery.VMRecord{{Source: vm.ID, Config: vm, Recorded: &vm}}
	return f
}

// next is the record of the next recovery of the domain.
func (f *field) next() *recovery.Record {
	n := *f.rec
	n.ID = dr.NewUUID()
	return &n
}

// TestSow moves disks out of a run, which is cut off behind every step of it and done
// again: the seeds are whole.
func TestSow(t *testing.T) {
	for cut := range 4 {
		f := newField(t)
		dir := f.s.path("seeds", "erp")
		if cut > 0 { // the note is written, and nothing moved, or one disk, or all
			list := seeds{}
			for _, d := range f.rec.Disks {
				list[d.Source] = filepath.Join(dir, d.Source.String()+".raw")
			}
			must(t, f.s.writeSeeds("erp", list))
			must(t, os.MkdirAll(dir, 0o700))
			for _, d := range f.rec.Disks[:cut-1] {
				must(t, os.Rename(filepath.Join(f.run, d.Path), list[d.Source]))
			}
		}
		must(t, f.s.sow(f.run, f.rec))
		got, err := f.s.reap(t.Context(), f.next(), f.others)
		if err != nil || len(got) != 2 {
			t.Fatalf("cut off at %d: %v, %v", cut, got, err)
		}
		for i, want := range []string{"syst", "data"} {
			if b, err := os.ReadFile(got[f.rec.Disks[i].Source]); err != nil || !bytes.Equal(b, []byte(want)) {
				t.Errorf("cut off at %d: %q, %v", cut, b, err)
			}
		}
	}
}

// TestReap takes seeds that suit, and no others.
func TestReap(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(f *field, n *recovery.Record)
		taken bool
	}{
		"they suit":    {func(*field, *recovery.Record) {}, true},
		"another size": {func(_ *field, n *recovery.Record) { n.Disks[1].Size = 5 }, false},
		"one is missing": {func(f *field, n *recovery.Record) {
			os.Remove(f.s.path("seeds", "erp", n.Disks[0].Source.String()+".raw"))
		}, false},
		"a disk more": {func(_ *field, n *recovery.Record) {
			n.Disks = append(n.Disks, recovery.DiskRecord{Source: dr.DiskID{UUID: dr.NewUUID()}, Size: 4})
		}, false},
		"another domain":     {func(_ *field, n *recovery.Record) { n.Request.Label = "crm" }, false},
		"another has them":   {func(f *field, n *recovery.Record) { f.another(n, recovery.BeforeCommit) }, false},
		"another is over":    {func(f *field, n *recovery.Record) { f.another(n, recovery.RolledBack) }, true},
		"they are one's own": {func(f *field, n *recovery.Record) { f.inUseBy(n) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newField(t)
			must(t, f.s.sow(f.run, f.rec))
			n := f.next()
			n.Disks = append([]recovery.DiskRecord(nil), n.Disks...)
			c.spoil(f, n)
			got, err := f.s.reap(t.Context(), n, f.others)
			if err != nil || (len(got) == len(n.Disks)) != c.taken {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	f := newField(t)
	must(t, os.MkdirAll(f.s.path("seeds"), 0o700))
	for _, bad := range []string{"{", "{\"x\":1}", `{"` + dr.NewUUID().String() + `":"relative"}`} {
		must(t, os.WriteFile(f.s.seedsPath("erp"), []byte(bad), 0o600))
		if _, err := f.s.reap(t.Context(), f.next(), f.others); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// another is a recovery that is on the seeds.
func (f *field) another(n *recovery.Record, state recovery.State) {
	o := *n
	o.ID, o.State, o.Disks = dr.NewUUID(), state, append([]recovery.DiskRecord(nil), n.Disks...)
	f.inUseBy(&o)
}

func (f *field) inUseBy(rec *recovery.Record) {
	on := *rec
	on.Disks = append([]recovery.DiskRecord(nil), rec.Disks...)
	for i := range on.Disks {
		on.Disks[i].Path = f.s.path("seeds", "erp", on.Disks[i].Source.String()+".raw")
	}
	f.others = append(f.others, &on)
}

// TestStrangersDisks takes disks of the same VM on the platform, while it is off.
func TestStrangersDisks(t *testing.T) {
	f := newField(t)
	v := f.rec.VMs[0].Config
	var disks []hypervisor.LiveDisk
	for _, d := range v.Disks {
		path := filepath.Join(t.TempDir(), d.Name)
		must(t, os.WriteFile(path, make([]byte, 4), 0o600))
		disks = append(disks, hypervisor.LiveDisk{Name: d.Name, Path: path, Format: "raw", Size: 4})
	}
	for name, c := range map[string]struct {
		spoil func(*hypervisor.VMInfo)
		taken bool
	}{
		"off":         {func(*hypervisor.VMInfo) {}, true},
		"runs":        {func(i *hypervisor.VMInfo) { i.Running = true }, false},
		"qcow2":       {func(i *hypervisor.VMInfo) { i.Disks[0].Format = "qcow2" }, false},
		"shared":      {func(i *hypervisor.VMInfo) { i.Disks[1].Shared = true }, false},
		"placeholder": {func(i *hypervisor.VMInfo) { i.Place.For = dr.VMID{UUID: dr.NewUUID()} }, false},
		"other names": {func(i *hypervisor.VMInfo) { i.Disks[0].Name = "vda" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			f.s.opts.Dir = t.TempDir()
			host := &fake.Host{}
			info := hypervisor.VMInfo{Config: v, Disks: append([]hypervisor.LiveDisk(nil), disks...)}
			c.spoil(&info)
			host.Add(info, -1)
			p := fake.NewPlatform(host)
			defer p.Close()
			f.s.parts.Store(&Parts{Site: p})
			got, err := f.s.reap(t.Context(), f.next(), f.others)
			if err != nil || (len(got) == 2) != c.taken {
				t.Errorf("%v, %v", got, err)
			}
			again, err := f.s.readSeeds("erp")
			if err != nil || len(again) != len(got) {
				t.Errorf("noted are %v, %v", again, err)
			}
		})
	}
}
