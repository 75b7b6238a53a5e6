package libvirt_test

import (
	"strings"
	"testing"

	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// TestPower: a VM that somebody defined is switched on and off, and retired.
func TestPower(t *testing.T) {
	site := libvirttest.Start(t)
	site.Define(libvirttest.Guest{Name: "erp1", MiB: 32})
	site.Virsh("autostart", "erp1")
	p, err := libvirt.Connect(t.Context(), libvirt.Options{Socket: site.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	id := hypervisortest.RunPower(t, p, "erp1")
	if got := site.Virsh("dominfo", id.String()); !strings.Contains(got, "erp1.retired-"+id.String()[:8]) || !strings.Contains(got, "disable") {
		t.Errorf("retired:\n%s", got)
	}
	// Its name is another's to have.
	site.Define(libvirttest.Guest{Name: "erp1", MiB: 32})
}
