package rocva

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// Seed is a disk that held a domain before.
type Seed struct {
	Disk    dr.DiskID `json:"disk"`
	Path    string    `json:"path"`
	Own     bool      `json:"own"`                 // it is the appliance's; else it is only noted
	Bytes   int64     `json:"bytes"`               // of room that it takes; 0: it is not there
	Written time.Time `json:"written_at,omitzero"` // last, by whoever had it
	UsedBy  string    `json:"used_by,omitempty"`   // directory of a recovery that is not over
}

// DomainSeeds are the old disks of a domain.
type DomainSeeds struct {
	Domain  site.Name `json:"domain"`
	Bytes   int64     `json:"bytes"`               // that are given back when they are deleted
	Written time.Time `json:"written_at,omitzero"` // the newest
	Disks   []Seed    `json:"disks,omitempty"`
}

// usedBy is a recovery that is not over and uses one of them; "": none.
func (d *DomainSeeds) usedBy() string {
	for _, s := range d.Disks {
		if s.UsedBy != "" {
			return s.UsedBy
		}
	}
	return ""
}

// ListSeeds lists the old disks below an appliance's directory, whether its agent runs or
// not. What cannot be read is told beside the others.
func ListSeeds(ctx context.Context, dir string) (list []DomainSeeds, err error) {
	entries, err := durable.OS{}.ReadDir(filepath.Join(dir, "seeds"))
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	used, err := usedBelow(ctx, dir)
	if err != nil {
		return nil, err
	}
	var names []site.Name
	for _, e := range entries {
		name, file := strings.CutSuffix(e.Name, ".json")
		if (file || e.Dir) && !slices.Contains(names, site.Name(name)) && !durable.IsTemp(e.Name) {
			names = append(names, site.Name(name))
		}
	}
	slices.Sort(names)
	for _, n := range names {
		d, derr := seedsOf(dir, n, used)
		err = errors.Join(err, derr)
		list = append(list, d)
	}
	return list, err
}

// DeleteSeeds deletes the old disks of a domain that are the appliance's, and forgets the
// others. They are gone on return; disks of the next recovery are built anew. Kinds:
// NotFound, Conflict (a recovery that is not over uses one, or takes them just now).
func DeleteSeeds(ctx context.Context, dir string, domain site.Name) (*DomainSeeds, error) {
	const op = "rocva.DeleteSeeds"
	lock, err := lockSeeds(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	used, err := usedBelow(ctx, dir)
	if err != nil {
		return nil, err
	}
	d, err := seedsOf(dir, domain, used)
	if err != nil && !errs.Is(err, errs.Corrupt) { // what says nothing may go
		return nil, err
	}
	if by := d.usedBy(); by != "" {
		return nil, errs.New(op, errs.Conflict, "domain "+string(domain), "they are the disks of "+by).WithRemedy("end that recovery first: holdfast recover status " + by)
	}
	s := Appliance{opts: Options{Dir: dir}}
	if _, err := (durable.OS{}).Stat(s.seedsPath(domain)); errs.Is(err, errs.NotFound) && len(d.Disks) == 0 {
		return nil, errs.New(op, errs.NotFound, "domain "+string(domain), "there are no old disks of it").WithRemedy("see which there are: holdfast appliance seeds list " + dir)
	}
	if err := durable.Remove(durable.OS{}, s.seedsPath(domain)); err != nil {
		return nil, err
	}
	return &d, durable.RemoveTree(durable.OS{}, s.path("seeds", string(domain)))
}

// lockSeeds keeps seeds from being deleted while they are taken, and the other way round.
// Kind Conflict.
func lockSeeds(dir string) (io.Closer, error) {
	parent := filepath.Join(dir, "seeds")
	if err := durable.MkdirAll(durable.OS{}, parent); err != nil {
		return nil, err
	}
	return durable.LockDir(durable.OS{}, parent)
}

// seedLock is lockSeeds, and the turn among the appliance's own.
type seedLock struct {
	s    *Appliance
	file io.Closer
}

func (l *seedLock) Close() error {
	defer l.s.seeding.Unlock()
	return l.file.Close()
}

// lockSeeds waits for others of this process. Kind Transient: another process deletes some.
func (s *Appliance) lockSeeds() (io.Closer, error) {
	s.seeding.Lock()
	file, err := lockSeeds(s.opts.Dir)
	if err != nil {
		s.seeding.Unlock()
		if errs.Is(err, errs.Conflict) {
			err = errs.New("rocva.seeds", errs.Transient, s.path("seeds"), "somebody deletes old disks just now")
		}
		return nil, err
	}
	return &seedLock{s, file}, nil
}

// seedsOf are the old disks of a domain: those that are noted, and what lies beside.
func seedsOf(dir string, domain site.Name, used map[string]string) (DomainSeeds, error) {
	s := Appliance{opts: Options{Dir: dir}}
	d := DomainSeeds{Domain: domain}
	if !filepath.IsLocal(string(domain)) || strings.ContainsRune(string(domain), filepath.Separator) {
		return d, errs.New("rocva.seeds", errs.Invalid, string(domain), "this is no domain's name")
	}
	list, err := s.readSeeds(domain)
	own := s.path("seeds", string(domain))
	for id, path := range list {
		d.add(Seed{Disk: id, Path: path, Own: filepath.Dir(path) == own, UsedBy: used[path]})
	}
	entries, derr := durable.OS{}.ReadDir(own)
	if derr != nil && !errs.Is(derr, errs.NotFound) {
		err = errors.Join(err, derr)
	}
	for _, e := range entries {
		path := filepath.Join(own, e.Name)
		if !slices.ContainsFunc(d.Disks, func(s Seed) bool { return s.Path == path }) {
			d.add(Seed{Path: path, Own: true, UsedBy: used[path]})
		}
	}
	slices.SortFunc(d.Disks, func(a, b Seed) int { return strings.Compare(a.Path, b.Path) })
	return d, err
}

// add adds one, with what its file tells.
func (d *DomainSeeds) add(s Seed) {
	if st, err := os.Stat(s.Path); err == nil {
		s.Written = st.ModTime().UTC()
		if x, ok := st.Sys().(*syscall.Stat_t); ok {
			s.Bytes = x.Blocks * 512
		}
	}
	if s.Own {
		d.Bytes += s.Bytes
	}
	if s.Written.After(d.Written) {
		d.Written = s.Written
	}
	d.Disks = append(d.Disks, s)
}

// usedBelow are the old disks that recoveries of an appliance use which are not over, and
// whose they are.
func usedBelow(ctx context.Context, dir string) (map[string]string, error) {
	used := map[string]string{}
	parents, err := filepath.Glob(filepath.Join(dir, "r", "*", "*"))
	if err != nil {
		return nil, errs.E("rocva.seeds", errs.Invalid, dir, err)
	}
	service := recovery.New(recovery.Options{})
	for _, parent := range parents {
		runs, err := service.List(ctx, parent)
		if err != nil {
			return nil, err // it might use one
		}
		for _, st := range runs {
			if over(st.State) {
				continue
			}
			for _, path := range oldOf(&st.Record) {
				used[path] = st.Dir
			}
		}
	}
	return used, nil
}

// oldOf are the disks that a run takes, or has taken, which were there before.
func oldOf(rec *recovery.Record) (paths []string) {
	for _, d := range rec.Disks {
		if filepath.IsAbs(d.Path) {
			paths = append(paths, d.Path)
		}
	}
	for _, path := range rec.Request.Onto {
		paths = append(paths, path)
	}
	return paths
}
