package rocva

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// Seeds are disks that held a domain before it moved away: when it comes back only what
// differs is fetched. They are kept where they are, but those inside a recovery's
// directory, which move out of it before it is cleaned up.

// seeds are the old disks of a domain, by their id in the container.
type seeds map[dr.DiskID]string

func (s *Appliance) seedsPath(domain site.Name) string {
	return s.path("seeds", string(domain)+".json")
}

// readSeeds returns the old disks of a domain that are noted; none is no error.
func (s *Appliance) readSeeds(domain site.Name) (seeds, error) {
	path := s.seedsPath(domain)
	b, err := durable.ReadFile(durable.OS{}, path, maxSeeds)
	if errs.Is(err, errs.NotFound) {
		return seeds{}, nil
	}
	if err != nil {
		return nil, err
	}
	out := seeds{}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, errs.E("rocva.seeds", errs.Corrupt, path, err).WithRemedy("remove the file: disks are built anew then")
	}
	for id, p := range out {
		if !filepath.IsAbs(p) {
			return nil, errs.New("rocva.seeds", errs.Corrupt, path, "disk "+id.String()+" is at no absolute path").WithRemedy("remove the file: disks are built anew then")
		}
	}
	return out, nil
}

// writeSeeds notes where old disks are. Durable on return.
func (s *Appliance) writeSeeds(domain site.Name, list seeds) error {
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return errs.E("rocva.seeds", errs.Internal, string(domain), err)
	}
	if err := durable.MkdirAll(durable.OS{}, s.path("seeds")); err != nil {
		return err
	}
	return durable.WriteFile(durable.OS{}, s.seedsPath(domain), append(b, '\n'))
}

// sow makes the disks of the run in a directory seeds of its domain: where they will be is noted before they
// are moved there. To be done again after a crash anywhere in it.
func (s *Appliance) sow(run string, rec *recovery.Record) error {
	lock, err := s.lockSeeds()
	if err != nil {
		return err
	}
	defer lock.Close()
	domain := site.Name(rec.Request.Label)
	list, err := s.readSeeds(domain)
	if err != nil {
		return err
	}
	dir := s.path("seeds", string(domain))
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return err
	}
	moves := map[string]string{}
	for _, d := range rec.Disks {
		path := d.Path
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, d.Source.String()+".raw")
			moves[filepath.Join(run, d.Path)] = path
		}
		list[d.Source] = path
	}
	if err := s.writeSeeds(domain, list); err != nil {
		return err
	}
	for from, to := range moves {
		if err := (durable.OS{}).Rename(from, to); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if err := errors.Join(durable.OS{}.SyncDir(filepath.Dir(from)), durable.OS{}.SyncDir(dir)); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// reap returns old disks on which a run can build its own: one for each of its disks, of
// its size, that none of all runs uses; nil if there are not all of them. Those of a VM of the
// site's platform are noted, so that they are found again when its definition is gone.
func (s *Appliance) reap(ctx context.Context, rec *recovery.Record, all []*recovery.Record) (seeds, error) {
	domain := site.Name(rec.Request.Label)
	known, err := s.readSeeds(domain)
	if err != nil {
		return nil, err
	}
	used := inUse(all, rec.ID)
	found := seeds{}
	for _, d := range rec.Disks {
		path := known[d.Source]
		if path == "" {
			if path, err = s.strangersDisk(ctx, rec, &d); err != nil {
				return nil, err
			}
		}
		if path == "" || used[path] || !sized(path, d.Size) {
			return nil, nil
		}
		found[d.Source] = path
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found, s.writeSeeds(domain, found)
}

// sized reports whether there is an image of just that size.
func sized(path string, size int64) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() == size
}

// inUse lists the disks of runs that are not over, but those of one.
func inUse(all []*recovery.Record, but dr.UUID) map[string]bool {
	used := map[string]bool{}
	for _, rec := range all {
		if rec.ID == but || over(rec.State) {
			continue
		}
		for _, path := range oldOf(rec) {
			used[path] = true
		}
	}
	return used
}

// records are those of all runs that are owned.
func (s *Appliance) records() (all []*recovery.Record) {
	for _, o := range s.all() {
		if rec := o.record(); rec != nil {
			all = append(all, rec)
		}
	}
	return all
}

// strangersDisk finds a disk of the run at the VM of the site's platform that it is
// about, if that is off.
func (s *Appliance) strangersDisk(ctx context.Context, rec *recovery.Record, d *recovery.DiskRecord) (string, error) {
	v := rec.VM(d.VM)
	if s.platform() == nil || v == nil || v.Recorded == nil {
		return "", nil
	}
	old, err := s.platform().VM(ctx, v.Source.String())
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Conflict) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	info, err := old.Info(ctx)
	if errs.Is(err, errs.NotFound) {
		return "", nil
	}
	if err != nil || info.Running || !info.Place.For.IsZero() {
		return "", err
	}
	return diskAt(v.Recorded, d.Source, &info), nil
}

// diskAt is the image of a disk at the VM it was recorded of; empty: it cannot be told,
// or is no plain image.
func diskAt(recorded *dr.VMConfig, id dr.DiskID, info *hypervisor.VMInfo) string {
	for _, d := range recorded.Disks {
		if d.ID != id {
			continue
		}
		for _, l := range info.Disks {
			if l.Name == d.Name && l.Format == "raw" && !l.Shared && !l.ReadOnly {
				return l.Path
			}
		}
	}
	return ""
}
