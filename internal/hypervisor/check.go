package hypervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Check reports what is wrong with a spec, before any driver looks at it. The
// error's kind is Invalid.
func (s *Spec) Check() error {
	c := &s.Config
	var fault error
	switch {
	case c.ID.IsZero():
		fault = fmt.Errorf("the VM has no identity")
	case c.Name == "" || len(c.Name) > 255:
		fault = fmt.Errorf("the VM's name %q is empty or too long", c.Name)
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		fault = fmt.Errorf("%d processors are not in 1…%d", c.CPUs, MaxCPUs)
	case c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > MaxMemoryMiB:
		fault = fmt.Errorf("%d MiB of memory are not in %d…%d", c.MemoryMiB, MinMemoryMiB, MaxMemoryMiB)
	case c.Firmware != "bios" && c.Firmware != "uefi":
		fault = fmt.Errorf(`firmware %q is neither "bios" nor "uefi"`, c.Firmware)
	case !slices.Contains([]Accelerator{AutoAccelerator, KVM, TCG}, s.Accelerator):
		fault = fmt.Errorf("accelerator %q is not known", s.Accelerator)
	case s.Keep && s.WorkDir == "":
		fault = fmt.Errorf("a VM that is kept needs a work directory, where it is found again")
	case s.SerialLog != "" && !s.Serial:
		fault = fmt.Errorf("a log of the serial port needs one")
	default:
		fault = s.checkDisks()
		if fault == nil {
			fault = s.checkNICs()
		}
	}
	if fault != nil {
		return errs.E("hypervisor.Check", errs.Invalid, c.Name, fault)
	}
	return nil
}

func (s *Spec) checkDisks() error {
	disks := s.Config.Disks
	if len(disks) == 0 || len(disks) > MaxDisks {
		return fmt.Errorf("%d disks are not in 1…%d", len(disks), MaxDisks)
	}
	seen := map[dr.DiskID]bool{}
	for _, d := range disks {
		src, ok := s.Sources[d.ID]
		switch {
		case d.ID.IsZero() || seen[d.ID]:
			return fmt.Errorf("disk %q has no identity of its own", d.Name)
		case d.Size <= 0 || d.Size > dr.MaxDiskSize:
			return fmt.Errorf("disk %q of %d bytes", d.Name, d.Size)
		case !slices.Contains([]string{"virtio", "scsi", "nvme", "ide"}, d.Bus):
			return fmt.Errorf("disk %q is on unknown bus %q", d.Name, d.Bus)
		case !ok:
			return fmt.Errorf("disk %q has no source", d.Name)
		case src.Path == "" && src.Socket == "":
			return fmt.Errorf("disk %q needs a path or a socket", d.Name)
		case src.Socket == "" && src.Export != "":
			return fmt.Errorf("disk %q is a file and has no export", d.Name)
		}
		seen[d.ID] = true
	}
	if len(s.Sources) != len(disks) {
		return fmt.Errorf("%d sources for %d disks", len(s.Sources), len(disks))
	}
	return nil
}

func (s *Spec) checkNICs() error {
	nics := s.Config.NICs
	if len(nics) > MaxNICs {
		return fmt.Errorf("%d network cards are more than %d", len(nics), MaxNICs)
	}
	for i, n := range nics {
		if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("network card %d: %q is not a card's address", i, n.MAC)
		}
		target, ok := s.Networks[n.Network]
		if !ok {
			return fmt.Errorf("network card %d: network %q is mapped to nothing", i, n.Network)
		}
		if target.Kind > Named {
			return fmt.Errorf("network card %d: unknown kind of network", i)
		}
		if (target.Kind == Named) != (target.Name != "") {
			return fmt.Errorf("network card %d: a named network, and no other, has a name", i)
		}
	}
	return nil
}

// CheckSources reports a source that is not there or of another size than its
// disk, before a platform says it worse. Kinds: NotFound, Invalid, Unavailable.
func (s *Spec) CheckSources() error {
	for _, d := range s.Config.Disks {
		src := s.Sources[d.ID]
		if src.Socket != "" {
			if err := checkSocket(src.Socket); err != nil {
				return err
			}
		}
		if src.Path != "" {
			if err := CheckImage(src.Path, d.Name, d.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkSocket reports a socket that is none.
func checkSocket(path string) error {
	fi, err := stat(path)
	if err == nil && fi.Mode().Type() != os.ModeSocket {
		err = errs.New("hypervisor.CheckSources", errs.Invalid, path, "is not a unix socket")
	}
	return err
}

// CheckImage reports an image that is not there, or of another size in bytes
// than its disk. Kinds: NotFound, Invalid, Unavailable.
func CheckImage(path, disk string, size int64) error {
	fi, err := stat(path)
	if err == nil && fi.Mode().IsRegular() && fi.Size() != size {
		err = errs.New("hypervisor.CheckSources", errs.Invalid, path, fmt.Sprintf("has %d bytes and disk %q should have %d", fi.Size(), disk, size))
	}
	return err
}

func stat(path string) (os.FileInfo, error) {
	const op = "hypervisor.CheckSources"
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errs.E(op, errs.NotFound, path, err)
	case err != nil:
		return nil, errs.E(op, errs.Unavailable, path, err)
	}
	return fi, nil
}
