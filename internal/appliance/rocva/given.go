package rocva

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
	"holdfast/internal/rocva"
)

// Images that were brought to the recovery appliance, on a truck say, and named for a
// domain's disks: a standby's first build, and recoveries whose disks are built as a whole,
// begin from them. Whatever they hold, they are compared by hashes.

// givenFor is the image that is given for a VM's disk; nil: none is.
func givenFor(d *setup.Domain, vm *dr.VMConfig, disk dr.DiskID) *site.DiskSeed {
	for _, have := range vm.Disks {
		if have.ID != disk {
			continue
		}
		for i := range d.Preseed {
			if p := &d.Preseed[i]; string(p.VM) == vm.Name && p.Disk == have.Name {
				return p
			}
		}
	}
	return nil
}

// plant makes images that are given for a run's disks seeds of its domain, where there is
// none yet: one that may be taken as it is, others as copies. None is when there is not
// something for each disk: then they could not be used.
func (s *Appliance) plant(ctx context.Context, a *operate.Act, rec *recovery.Record) error {
	domain := site.Name(rec.Request.Label)
	d, err := s.domain(domain)
	if err != nil || len(d.Preseed) == 0 {
		return err
	}
	known, err := s.readSeeds(domain)
	if err != nil {
		return err
	}
	own := s.path("seeds", string(domain))
	copies := map[string]string{}
	for _, disk := range rec.Disks {
		if path := known[disk.Source]; path != "" && sized(path, disk.Size) {
			continue
		}
		v := rec.VM(disk.VM)
		if v == nil || v.Recorded == nil {
			return nil
		}
		g := givenFor(d, v.Recorded, disk.Source)
		if g == nil || !sized(g.Path, disk.Size) {
			a.Warn("no image of its size is given for a disk of " + v.Config.Name + ": none of those that are given is used")
			return nil
		}
		known[disk.Source] = g.Path
		if g.Take {
			if err := s.free(ctx, g.Path); err != nil {
				return err
			}
		} else {
			known[disk.Source] = filepath.Join(own, disk.Source.String()+".raw")
			copies[g.Path] = known[disk.Source]
		}
	}
	for from, to := range copies {
		if err := copyImage(ctx, from, to); err != nil {
			return err
		}
	}
	lock, err := s.lockSeeds()
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.writeSeeds(domain, known)
}

// free demands that no VM of the site's platform has an image: who takes it writes to it.
func (s *Appliance) free(ctx context.Context, path string) error {
	if s.platform() == nil {
		return nil
	}
	vms, err := s.platform().VMs(ctx)
	if err != nil {
		return err
	}
	for _, v := range vms {
		info, err := v.Info(ctx)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for _, d := range info.Disks {
			if d.Path == path {
				return errs.New("rocva.preseed", errs.Conflict, path, "it is a disk of "+info.Config.Name).WithRemedy("name another image, or remove take")
			}
		}
	}
	return nil
}

// placing is placed, with images that are given for disks the standby does not have put
// there first: the first build compares what it finds. What cannot be put there is built
// whole.
func (s *Appliance) placing(ctx context.Context, name site.Name, dir string) func(*journal.Image) ([]rocva.Target, error) {
	return func(img *journal.Image) ([]rocva.Target, error) {
		targets, err := placed(img)
		d, derr := s.domain(name)
		if err != nil || derr != nil || len(d.Preseed) == 0 {
			return targets, err //nolint:nilerr // no setup any more: there are no images
		}
		for _, disk := range img.Disks {
			vm, ok := img.VMs[disk.VM]
			if !ok {
				continue
			}
			g := givenFor(d, &vm, disk.ID)
			path := filepath.Join(dir, disk.ID.String()+".raw")
			if g == nil || !sized(g.Path, disk.Size) || exists(path) || exists(path+".partial") {
				continue
			}
			if err := copyImage(ctx, g.Path, path); err != nil {
				s.log.Warn("an image that is given for a disk cannot be used", "domain", name, "vm", vm.Name, "image", g.Path, "err", err)
			}
		}
		return targets, ctx.Err()
	}
}

func exists(path string) bool {
	_, err := durable.OS{}.Stat(path)
	return err == nil
}

// copyImage copies a raw image, without its zeroes. The copy is whole and durable when it
// has its name.
func copyImage(ctx context.Context, from, to string) (err error) {
	fs := durable.OS{}
	if err := durable.MkdirAll(fs, filepath.Dir(to)); err != nil {
		return err
	}
	src, err := fs.OpenFile(from, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	part := to + ".copy"
	dst, err := fs.OpenFile(part, durable.Write|durable.Create)
	if err != nil {
		return err
	}
	err = copyInto(ctx, dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return errors.Join(err, durable.Remove(fs, part))
	}
	if err := fs.Rename(part, to); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(to))
}

func copyInto(ctx context.Context, dst, src durable.File) error {
	size, err := src.Size()
	if err == nil {
		err = errors.Join(dst.Truncate(0), dst.Truncate(size)) // a copy that was cut off may be there
	}
	block, zero := make([]byte, copyBlock), make([]byte, copyBlock)
	for off := int64(0); off < size && err == nil; off += copyBlock {
		if ctx.Err() != nil {
			return errs.E("rocva.copy", errs.Canceled, "image", context.Cause(ctx))
		}
		b := block[:min(copyBlock, size-off)]
		if _, err = src.ReadAt(b, off); errors.Is(err, io.EOF) {
			err = nil
		}
		if err == nil && !bytes.Equal(b, zero[:len(b)]) {
			err = dst.WriteAtv([][]byte{b}, off)
		}
	}
	return err
}
