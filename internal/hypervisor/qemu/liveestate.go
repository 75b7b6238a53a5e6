package qemu

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var _ hypervisor.Surveyor = (*Platform)(nil)

// Survey tells of this host: QEMU processes have no management layer that knows
// more. Networks are the back ends of their cards, datastores the directories of
// their disks.
func (p *Platform) Survey(ctx context.Context) (hypervisor.Estate, error) {
	const op = "qemu.Survey"
	if err := p.usable(ctx, op); err != nil {
		return hypervisor.Estate{}, err
	}
	name, err := os.Hostname()
	if err != nil {
		return hypervisor.Estate{}, errs.E(op, errs.Unavailable, "", err)
	}
	e := hypervisor.Estate{Host: hypervisor.EstateHost{Name: name, CPUs: runtime.NumCPU()}}
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err == nil {
		e.Host.MemoryMiB = int64(mem.Totalram * uint64(mem.Unit) >> 20)
	}
	networks, dirs := map[string]bool{}, map[string]bool{}
	for _, v := range p.vms {
		v.mu.Lock()
		info := v.last
		v.mu.Unlock()
		if info.Config.Name == "" {
			// Nobody has looked yet; one that cannot be asked has nothing to tell.
			if info, err = v.Info(ctx); err != nil {
				continue
			}
		}
		for _, n := range info.Config.NICs {
			networks[n.Network] = n.Network != ""
		}
		for _, d := range info.Disks {
			dirs[filepath.Dir(d.Path)] = filepath.IsAbs(d.Path)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(networks)) {
		if networks[n] {
			e.Networks = append(e.Networks, hypervisor.EstateNetwork{Name: n})
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if dirs[dir] {
			e.Datastores = append(e.Datastores, directory(dir))
		}
	}
	return e, nil
}

// directory is a datastore that is a directory, with its file system's room.
func directory(dir string) hypervisor.EstateDatastore {
	d := hypervisor.EstateDatastore{Name: dir, Path: dir}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		d.Size, d.Free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	}
	return d
}
