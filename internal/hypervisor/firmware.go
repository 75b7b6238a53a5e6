package hypervisor

import (
	"os"

	"holdfast/internal/errs"
)

// Firmware is a UEFI build for virtual machines: paths of its code, and of the
// template of the variable store that goes with it.
type Firmware struct {
	Code string
	Vars string
}

// firmwares are the places where distributions put OVMF, best first.
var firmwares = []Firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

// FindFirmware returns the firmware of this host. Kinds: Unavailable.
func FindFirmware() (Firmware, error) { return findFirmware(firmwares) }

// findFirmware returns the first of places that is installed.
func findFirmware(places []Firmware) (Firmware, error) {
	for _, f := range places {
		if _, err := os.Stat(f.Code); err != nil {
			continue
		}
		if _, err := os.Stat(f.Vars); err == nil {
			return f, nil
		}
	}
	return Firmware{}, errs.New("hypervisor.FindFirmware", errs.Unavailable, "", "the VM boots by UEFI and no UEFI firmware is installed on this host").
		WithRemedy("install it: apt-get install ovmf")
}
