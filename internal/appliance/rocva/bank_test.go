package rocva

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/journal"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// begun leaves the record of a run on the field's seeds below its appliance's directory.
func (f *field) begun(t *testing.T, state recovery.State, onto bool) {
	t.Helper()
	dir := f.s.path("r", "p", "erp", "2")
	must(t, os.MkdirAll(dir, 0o700))
	r, err := recovery.New(recovery.Options{}).Begin(dir, recovery.Disaster, recovery.Request{URL: "mem://erp", Mode: recovery.Full, Label: "erp"})
	must(t, err)
	must(t, r.Close())
	rec := *r.Record()
	rec.State = state
	for _, d := range f.rec.Disks {
		path := f.s.path("seeds", "erp", d.Source.String()+".raw")
		if onto {
			rec.Request.Onto = map[dr.DiskID]string{d.Source: path}
			break
		}
		d.Path = path
		rec.Disks = append(rec.Disks, d)
	}
	writeRecord(t, dir, &rec)
}

// TestSeedBank lists old disks and deletes them: never those of a recovery that is not
// over, and never while they are taken.
func TestSeedBank(t *testing.T) {
	f := newField(t)
	dir := f.s.opts.Dir
	if list, err := ListSeeds(t.Context(), dir); err != nil || len(list) != 0 {
		t.Fatalf("there are %v, %v", list, err)
	}
	must(t, f.s.sow(f.run, f.rec))
	elsewhere := filepath.Join(t.TempDir(), "old.raw")
	must(t, os.WriteFile(elsewhere, []byte("old"), 0o600))
	must(t, f.s.writeSeeds("mail", seeds{dr.DiskID{UUID: dr.NewUUID()}: elsewhere}))
	must(t, os.MkdirAll(f.s.path("seeds", "left"), 0o700))
	must(t, os.WriteFile(f.s.path("seeds", "left", "x.raw.copy"), []byte("left"), 0o600))
	list, err := ListSeeds(t.Context(), dir)
	must(t, err)
	if len(list) != 3 || list[0].Domain != "erp" || len(list[0].Disks) != 2 || list[0].Bytes == 0 || list[0].Written.IsZero() {
		t.Fatalf("there are %+v", list)
	}
	if m := list[2]; m.Domain != "mail" || m.Bytes != 0 || m.Disks[0].Own || m.Disks[0].Bytes == 0 {
		t.Errorf("of a VM of the platform there is %+v", m)
	}
	for _, onto := range []bool{false, true} {
		f.begun(t, recovery.BeforeCommit, onto)
		if _, err := DeleteSeeds(t.Context(), dir, "erp"); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
			t.Fatalf("the disks of a recovery were deleted: %v", err)
		}
		must(t, os.RemoveAll(f.s.path("r", "p", "erp", "2")))
	}
	lock, err := f.s.lockSeeds()
	must(t, err)
	if _, err := DeleteSeeds(t.Context(), dir, "erp"); !errs.Is(err, errs.Conflict) {
		t.Fatalf("they were deleted while they are taken: %v", err)
	}
	must(t, lock.Close())
	f.begun(t, recovery.RolledBack, false)
	for _, name := range []site.Name{"erp", "mail", "left"} {
		_, err := DeleteSeeds(t.Context(), dir, name)
		must(t, err)
	}
	if list, err := ListSeeds(t.Context(), dir); err != nil || len(list) != 0 {
		t.Errorf("there are %+v still, %v", list, err)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Errorf("a disk that is not the appliance's was deleted: %v", err)
	}
	for _, name := range []site.Name{"erp", "../r"} {
		if _, err := DeleteSeeds(t.Context(), dir, name); !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGivenImages: images that are given for all disks are seeds of the next recovery,
// copied unless they may be taken; else none is used.
func TestGivenImages(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(f *field, given []site.DiskSeed)
		taken int
	}{
		"they suit":         {func(*field, []site.DiskSeed) {}, 2},
		"they may be taken": {func(_ *field, g []site.DiskSeed) { g[0].Take, g[1].Take = true, true }, 2},
		"of another size":   {func(_ *field, g []site.DiskSeed) { os.WriteFile(g[1].Path, []byte("longer"), 0o600) }, 0},
		"of another disk":   {func(_ *field, g []site.DiskSeed) { g[1].Disk = "other" }, 0},
		"of another VM":     {func(_ *field, g []site.DiskSeed) { g[1].VM = "vm2" }, 0},
		"not there":         {func(_ *field, g []site.DiskSeed) { os.Remove(g[1].Path) }, 0},
		"a VM's, to be taken": {func(f *field, g []site.DiskSeed) {
			g[1].Take = true
			host := &fake.Host{}
			host.Add(hypervisor.VMInfo{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "other"}, Disks: []hypervisor.LiveDisk{{Name: "system", Path: g[1].Path, Format: "raw", Size: 4}}}, -1)
			f.s.parts.Store(&Parts{Site: fake.NewPlatform(host)})
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newField(t)
			var given []site.DiskSeed
			for _, disk := range []string{"system", "data"} {
				path := filepath.Join(t.TempDir(), disk+".img")
				must(t, os.WriteFile(path, []byte{0, 0, 0, 7}, 0o600))
				given = append(given, site.DiskSeed{VM: "vm1", Disk: disk, Path: path})
			}
			c.spoil(f, given)
			f.s.told = setup.Setup{RocVA: &setup.RocVA{Domains: []setup.Domain{{Name: "erp", Preseed: given}}}}
			n := f.next()
			err := f.s.plant(t.Context(), &operate.Act{Call: runs.NewCall(nil)}, n)
			if name != "a VM's, to be taken" {
				must(t, err)
			} else if !errs.Is(err, errs.Conflict) {
				t.Errorf("an image that a VM has may be taken: %v", err)
			}
			if c.taken == 0 { // nothing of the platform's stands in for them
				f.s.parts.Store(&Parts{})
			}
			got, err := f.s.reap(t.Context(), n, nil)
			must(t, err)
			if len(got) != c.taken {
				t.Fatalf("taken are %v", got)
			}
			for i, d := range n.Disks {
				if c.taken == 0 {
					break
				}
				b, err := os.ReadFile(got[d.Source])
				if err != nil || !bytes.Equal(b, []byte{0, 0, 0, 7}) || (got[d.Source] == given[i].Path) != given[i].Take {
					t.Errorf("%s holds %q, %v", got[d.Source], b, err)
				}
			}
		})
	}
}

// TestCopyImage leaves zeroes out, and nothing half-made.
func TestCopyImage(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "new", "to")
	want := make([]byte, 3*copyBlock+5)
	want[0], want[2*copyBlock+1], want[len(want)-1] = 1, 2, 3
	must(t, os.WriteFile(from, want, 0o600))
	must(t, os.MkdirAll(filepath.Dir(to), 0o700))
	must(t, os.WriteFile(to+".copy", bytes.Repeat([]byte{9}, 4*copyBlock), 0o600)) // of a life before
	must(t, copyImage(t.Context(), from, to))
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs: %v", err)
	}
	if err := copyImage(t.Context(), filepath.Join(dir, "none"), to+"2"); !errs.Is(err, errs.NotFound) {
		t.Errorf("of nothing: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "new", "*")); len(left) != 1 {
		t.Errorf("left is %v", left)
	}
}

// writeRecord changes a run behind its back.
func writeRecord(t *testing.T, dir string, rec *recovery.Record) {
	t.Helper()
	b, err := json.Marshal(rec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "run.json"), b, 0o600))
}

// TestPlacing puts an image where a standby's first build finds it, and touches nothing
// that is there.
func TestPlacing(t *testing.T) {
	f := newField(t)
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, []byte("data"), 0o600))
	vm := f.rec.VMs[0].Config
	f.s.told = setup.Setup{RocVA: &setup.RocVA{Domains: []setup.Domain{{Name: "erp", Preseed: []site.DiskSeed{{VM: "vm1", Disk: "system", Path: image}, {VM: "vm1", Disk: "data", Path: image}}}}}}
	dir := t.TempDir()
	half := filepath.Join(dir, vm.Disks[1].ID.String()+".raw.partial")
	must(t, os.WriteFile(half, []byte("half"), 0o600))
	img := &journal.Image{VMs: map[dr.VMID]dr.VMConfig{vm.ID: vm}}
	for _, d := range vm.Disks {
		img.Disks = append(img.Disks, journal.ImageDisk{CheckpointDisk: dr.CheckpointDisk{ID: d.ID, VM: vm.ID, Size: d.Size}})
	}
	targets, err := f.s.placing(t.Context(), "erp", dir)(img)
	if err != nil || len(targets) != 2 {
		t.Fatalf("%v, %v", targets, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, targets[0].Path)); err != nil || string(b) != "data" {
		t.Errorf("the image is not there: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, targets[1].Path)); err == nil {
		t.Error("an image was put beside a half-made disk")
	}
}
