package qemu

import (
	"path/filepath"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// copyVars makes a run's own variable store in dir and returns its path. It
// begins empty at every start: disks boot by their default path.
func copyVars(f hypervisor.Firmware, dir string) (string, error) {
	b, err := durable.ReadFile(durable.OS{}, f.Vars, maxFirmware)
	if err != nil {
		return "", errs.E("qemu.Start", errs.Unavailable, f.Vars, err)
	}
	path := filepath.Join(dir, "uefi-vars.fd")
	if err := durable.WriteFile(durable.OS{}, path, b); err != nil {
		return "", errs.E("qemu.Start", errs.Unavailable, path, err)
	}
	return path, nil
}
