package hypervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/errs"
)

func TestFindFirmware(t *testing.T) {
	dir := t.TempDir()
	fw := Firmware{Code: filepath.Join(dir, "CODE.fd"), Vars: filepath.Join(dir, "VARS.fd")}
	if _, err := findFirmware([]Firmware{fw}); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.RemedyOf(err), "ovmf") {
		t.Errorf("no firmware: %v, want kind unavailable and a remedy naming the package", err)
	}
	for _, path := range []string{fw.Code, fw.Vars} {
		if err := os.WriteFile(path, []byte(path), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	got, err := findFirmware([]Firmware{{Code: "/nowhere/CODE.fd", Vars: "/nowhere/VARS.fd"}, fw})
	if err != nil || got != fw {
		t.Fatalf("findFirmware = %+v, %v", got, err)
	}
}
