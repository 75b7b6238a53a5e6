package qemu

import (
	"os"
	"path/filepath"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// firmware is a UEFI build for virtual machines: code, and the template of the
// variable store that goes with it.
type firmware struct {
	code string
	vars string
}

// firmwares are the places where distributions put OVMF, best first.
var firmwares = []firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

// findFirmware returns the first of places that is installed.
func findFirmware(places []firmware) (firmware, error) {
	for _, f := range places {
		if _, err := os.Stat(f.code); err != nil {
			continue
		}
		if _, err := os.Stat(f.vars); err == nil {
			return f, nil
		}
	}
	return firmware{}, errs.New("qemu.Start", errs.Unavailable, "", "the VM boots by UEFI and no UEFI firmware is installed on this host").
		WithRemedy("install it: apt-get install ovmf")
}

// copyVars makes a run's own variable store in dir and returns its path. It
// begins empty at every start: disks boot by their default path.
func (f firmware) copyVars(dir string) (string, error) {
	b, err := durable.ReadFile(durable.OS{}, f.vars, maxFirmware)
	if err != nil {
		return "", errs.E("qemu.Start", errs.Unavailable, f.vars, err)
	}
	path := filepath.Join(dir, "uefi-vars.fd")
	if err := durable.WriteFile(durable.OS{}, path, b); err != nil {
		return "", errs.E("qemu.Start", errs.Unavailable, path, err)
	}
	return path, nil
}
