package recovery

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/warm"
)

// plan resolves the point and lays out VMs and disks. What it finds wrong it
// finds before anything is changed.
func (r *Run) plan(ctx context.Context) error {
	rec := r.Record()
	if rec.Hydrated {
		return nil // the store is not needed any more
	}
	h, err := r.history(ctx)
	if err != nil {
		return err
	}
	img, err := h.Resolve(ctx, *rec.Checkpoint)
	if err != nil {
		return err
	}
	old, err := r.oldPaths(ctx, rec)
	if err != nil {
		return err
	}
	vms, disks, err := r.layOut(img, rec, old)
	if err != nil {
		return err
	}
	if err := r.room(disks); err != nil {
		return err
	}
	r.image = img
	return r.change(func(rec *Record) { rec.VMs, rec.Disks = vms, disks })
}

// room demands that the disks' content, of all together, fits where they will be.
func (r *Run) room(disks []DiskRecord) error {
	content := map[string]int64{}
	for _, d := range disks {
		if !d.old() {
			content[r.diskPath(&d)] = d.Bytes
		}
	}
	return rocva.CheckRooms(content)
}

// layOut decides what each VM is built from and where its disks are.
func (r *Run) layOut(img *journal.Image, rec *Record, old map[dr.DiskID]string) (vms []VMRecord, disks []DiskRecord, err error) {
	const op = "recovery.plan"
	q := &rec.Request
	matched := map[string]bool{}
	for _, d := range img.Disks {
		cfg, known := img.VMs[d.VM]
		if !known {
			cfg = dr.VMConfig{ID: d.VM, Name: d.VM.String()}
		}
		if !q.wanted(&cfg) {
			continue
		}
		matched[cfg.Name], matched[cfg.ID.String()] = true, true
		here := r.identity(q.apply(cfg), rec)
		if !slices.ContainsFunc(vms, func(v VMRecord) bool { return v.Source == d.VM }) {
			vm := VMRecord{Source: d.VM, Config: here, Recorded: &cfg, Group: q.groupOf(&cfg)}
			if v := rec.VM(here.ID); v != nil {
				vm.State, vm.Started, vm.Serial, vm.Monitor, vm.Error, vm.Shot = v.State, v.Started, v.Serial, v.Monitor, v.Error, v.Shot
			}
			if !known {
				vm.Recorded, vm.Error = nil, "the container holds no configuration of this VM: its disks are built, and it is not started"
			}
			vms = append(vms, vm)
		}
		path := old[d.ID]
		if path == "" && q.Mode != Warm {
			path = filepath.Join("disks", fileName(here.Name, here.ID.UUID), diskName(&cfg, d.ID)+".raw")
		}
		if path == "" && q.Mode == Warm {
			return nil, nil, errs.New(op, errs.NotFound, d.ID.String(), "the standby has no such disk").WithRemedy("choose another point, or another mode")
		}
		disks = append(disks, DiskRecord{ID: r.diskID(d.ID, rec), Source: d.ID, VM: here.ID, Size: d.Size, Bytes: d.Bytes, Path: path})
	}
	for _, names := range append([][]string{q.VMs}, q.Groups...) {
		for _, n := range names {
			if !matched[n] {
				return nil, nil, errs.New(op, errs.NotFound, n, "no such VM at "+brief(rec.Checkpoint)).WithRemedy("see the VMs with: holdfast inspect")
			}
		}
	}
	if len(vms) == 0 || len(vms) > maxVMs {
		return nil, nil, errs.New(op, errs.NotFound, rec.Request.URL, fmt.Sprintf("%d VMs to recover at %s", len(vms), brief(rec.Checkpoint)))
	}
	slices.SortStableFunc(vms, func(a, b VMRecord) int { return a.Group - b.Group })
	return vms, disks, nil
}

// identity gives a clone's VM, disks and cards identities of their own, always
// the same ones of the same run.
func (r *Run) identity(cfg dr.VMConfig, rec *Record) dr.VMConfig {
	if rec.Operation != Clone {
		return cfg
	}
	cfg.ID = dr.VMID{UUID: derive(rec.ID, cfg.ID.UUID, "vm")}
	cfg.Disks = slices.Clone(cfg.Disks)
	for i := range cfg.Disks {
		cfg.Disks[i].ID = r.diskID(cfg.Disks[i].ID, rec)
	}
	for i := range cfg.NICs { // apply has cloned them
		u := derive(rec.ID, cfg.ID.UUID, "nic "+cfg.NICs[i].MAC)
		cfg.NICs[i].MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", u[0], u[1], u[2])
	}
	return cfg
}

func (r *Run) diskID(id dr.DiskID, rec *Record) dr.DiskID {
	if rec.Operation != Clone {
		return id
	}
	return dr.DiskID{UUID: derive(rec.ID, id.UUID, "disk")}
}

// derive makes a UUID of version 8: a hash.
func derive(run, of dr.UUID, what string) (u dr.UUID) {
	h := sha256.Sum256(append(append(run[:], of[:]...), what...))
	copy(u[:], h[:])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u
}

// fileName makes a directory name of a VM's name, which anyone may have chosen.
func fileName(name string, id dr.UUID) string {
	clean := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			return c
		}
		return '_'
	}, name)
	const longest = 48
	return clean[:min(len(clean), longest)] + "-" + id.String()[:8]
}

func diskName(cfg *dr.VMConfig, id dr.DiskID) string {
	for _, d := range cfg.Disks {
		if d.ID == id {
			return fileName(d.Name, id.UUID)
		}
	}
	return id.String()
}

// hydrate builds the disks, or makes them reachable while they are built.
func (r *Run) hydrate(ctx context.Context) error {
	rec := r.Record()
	if rec.Hydrated {
		return nil
	}
	for _, d := range rec.Disks {
		if err := durable.MkdirAll(r.s.fs, filepath.Dir(r.diskPath(&d))); err != nil {
			return err
		}
	}
	if len(rec.Request.Onto) > 0 {
		return r.onto(ctx)
	}
	switch rec.Request.Mode {
	case Full:
		return r.full(ctx)
	case Instant:
		return r.instant(ctx)
	case Warm:
		return r.standBy(ctx)
	}
	return errs.New("recovery.hydrate", errs.Invalid, string(rec.Request.Mode), "this mode is not known")
}

// onto makes old disks hold the point: what differs is found by hashes, since
// nobody knows what became of them, and only that is fetched.
func (r *Run) onto(ctx context.Context) error {
	rec := r.Record()
	h, err := r.history(ctx)
	if err != nil {
		return err
	}
	p := rocva.Plan{History: h, Checkpoint: *rec.Checkpoint}
	for _, d := range rec.Disks {
		p.Targets = append(p.Targets, rocva.UpdateTarget{Target: rocva.Target{Disk: d.Source, Path: r.diskPath(&d)}, Compare: true})
	}
	res, err := rocva.Update(ctx, r.container, p, r.rocvaOptions())
	if err != nil {
		return err
	}
	return r.change(func(rec *Record) { rec.Bytes += res.Fetched; rec.Hydrated, rec.Watch = true, Untouched })
}

func (r *Run) rocvaOptions() rocva.Options {
	return rocva.Options{
		FS: r.s.opts.FS, Logger: r.s.log, Force: len(r.Record().Request.Onto) > 0,
		Progress: func(p rocva.Progress) { r.progress(p.Bytes, p.BytesTotal) },
	}
}

// standBy brings a standby to the point and takes its disks. From then on they
// are the VMs': the standby follows nothing any more.
func (r *Run) standBy(ctx context.Context) error {
	rec := r.Record()
	s, err := r.standby(ctx)
	if err != nil {
		return err
	}
	if _, err := s.FailoverTo(ctx, fmt.Sprint(uint64(rec.Checkpoint.ID))); err != nil {
		return err
	}
	fetched := s.Status().Fetched
	return r.change(func(rec *Record) { rec.Bytes += fetched; rec.Hydrated, rec.Watch = true, Untouched })
}

// standby opens the standby once in this process's life.
func (r *Run) standby(ctx context.Context) (*warm.Standby, error) {
	if r.warm != nil {
		return r.warm, nil
	}
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	dir := r.Record().Request.Standby
	s, err := warm.Open(ctx, c, dir, warm.Options{Place: beside, FS: r.s.opts.FS, Logger: r.s.log})
	if errs.Is(err, errs.Conflict) {
		return nil, errs.E("recovery.standby", errs.Conflict, dir, err).WithRemedy("stop the process that keeps the standby, then repeat")
	}
	if err == nil {
		r.warm = s
	}
	return s, err
}

// beside lays disks out that a standby does not have yet: by their ids, in its directory.
func beside(img *journal.Image) (out []rocva.Target, err error) {
	for _, d := range img.Disks {
		out = append(out, rocva.Target{Disk: d.ID, Path: d.ID.String() + ".raw"})
	}
	return out, nil
}

// oldPaths are the disks that are there already, by their id in the container.
func (r *Run) oldPaths(ctx context.Context, rec *Record) (map[dr.DiskID]string, error) {
	if rec.Request.Mode != Warm {
		return rec.Request.Onto, nil
	}
	s, err := r.standby(ctx)
	if err != nil {
		return nil, err
	}
	out := map[dr.DiskID]string{}
	for _, d := range s.Status().Disks {
		path, err := filepath.Abs(d.Path)
		if err != nil {
			return nil, errs.E("recovery.standby", errs.Invalid, d.Path, err)
		}
		out[d.ID] = path
	}
	return out, nil
}

// full builds every disk before it returns. Disks that have their own names are
// whole; a VM may have written to them since.
func (r *Run) full(ctx context.Context) error {
	rec := r.Record()
	var targets []rocva.Target
	whole := true
	for _, d := range rec.Disks {
		path := r.diskPath(&d)
		targets = append(targets, rocva.Target{Disk: d.Source, Path: path})
		_, err := r.s.fs.Stat(path)
		whole = whole && err == nil
	}
	watch := Unwatched
	if !whole {
		watch = Untouched
		res, err := rocva.Full(ctx, r.container, r.image, targets, r.rocvaOptions())
		if err != nil {
			return err
		}
		r.progress(res.Written, res.Written)
		if err := r.change(func(rec *Record) { rec.Bytes += res.Fetched }); err != nil {
			return err
		}
	}
	return r.change(func(rec *Record) { rec.Hydrated, rec.Watch = true, watch })
}

// discard removes every file the run made for its VMs. Old disks stay.
func (r *Run) discard(ctx context.Context) error {
	if r.fill != nil {
		r.keepTraces(ctx, r.fill.set) // as after a test: the next boot is faster
		if err := r.fill.discard(); err != nil {
			return err
		}
		r.setFill(nil)
	}
	if err := r.s.fs.Remove(r.path(nbdName)); err != nil && !errs.Is(err, errs.NotFound) { // of a process that was killed
		return err
	}
	for _, name := range []string{"disks", "vms", "protect"} {
		if err := durable.RemoveTree(r.s.fs, r.path(name)); err != nil {
			return err
		}
	}
	r.image = nil
	return r.change(func(rec *Record) {
		rec.VMs, rec.Disks, rec.Hydrated, rec.Watch = keepEvidence(rec.VMs), nil, false, Unwatched
	})
}

// keepEvidence is what the report still tells of VMs that are gone.
func keepEvidence(vms []VMRecord) []VMRecord {
	for i := range vms {
		vms[i].State, vms[i].Serial, vms[i].Monitor = "gone", "", ""
	}
	return vms
}
