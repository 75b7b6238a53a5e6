package libvirt

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

func number16(n byte) (u dr.UUID) { u[15] = n; return u }

// everything is a spec that uses all a description can say.
func everything() *hypervisor.Spec {
	ids := []dr.DiskID{{UUID: number16(1)}, {UUID: number16(2)}, {UUID: number16(3)}, {UUID: number16(4)}}
	return &hypervisor.Spec{
		Config: dr.VMConfig{
			ID: dr.VMID{UUID: number16(9)}, Name: "web <&' 1", CPUs: 2, MemoryMiB: 512, Machine: "q35", Firmware: "bios",
			Disks: []dr.VMDisk{
				{ID: ids[0], Name: "system", Size: 1 << 30, Bus: "virtio"}, {ID: ids[1], Name: "data", Size: 1 << 30, Bus: "scsi"},
				{ID: ids[2], Name: "old", Size: 1 << 30, Bus: "ide"}, {ID: ids[3], Name: "far", Size: 1 << 30, Bus: "scsi"},
			},
			NICs: []dr.NIC{
				{MAC: "52:54:00:00:00:01", Model: "virtio-net-pci", Network: "production"},
				{MAC: "52:54:00:00:00:02", Model: "e1000", Network: "backup"},
			},
		},
		Sources: map[dr.DiskID]hypervisor.Source{
			ids[0]: {Path: "/images/system' .raw", Socket: "/run/s", Export: "vm/system"}, ids[1]: {Path: "/images/data.raw"},
			ids[2]: {Path: "/images/old.raw"}, ids[3]: {Socket: "/run/f", Export: "far"},
		},
		StartOptions: hypervisor.StartOptions{
			WorkDir: "/vms", Keep: true, Serial: true, SerialLog: "/vms/console.log", Screen: true, Agent: true, Direct: true, ExitOnReset: true,
			Networks: map[string]hypervisor.Network{"production": {}, "backup": {Kind: hypervisor.Named, Name: "bubble"}},
		},
	}
}

// TestDomain compares a description with the one on file. The file changes
// by hand: libvirt 9.0 found it valid.
func TestDomain(t *testing.T) {
	text, r, err := (&domain{spec: everything(), dir: "/vms/holdfast-lv-1"}).build()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "domain.golden.xml")
	want, err := os.ReadFile(golden)
	if err != nil || text+"\n" != string(want) {
		t.Errorf("%v; the description is now\n%s", err, text)
	}
	d, err := parseVM(text)
	if err != nil {
		t.Fatal(err)
	}
	got := d.Metadata.Run
	if got == nil || got.Disks == nil || got.WorkDir != "/vms" || got.Dir != r.Dir || got.State != starting || !got.Keep || !got.Screen {
		t.Fatalf("the metadata say %+v", got)
	}
	for i, want := range r.Disks {
		if got.Disks[i] != want {
			t.Errorf("disk %d is remembered as %+v, want %+v", i, got.Disks[i], want)
		}
	}
	if !got.onExport("vda") || got.onExport("sda") || got.onExport("sdc") || (*run)(nil).onExport("vda") {
		t.Errorf("disks on exports in front of images: %+v", got.Disks)
	}
	if got.nameOf("sdb") != "old" || got.disk(dr.DiskID{UUID: number16(4)}).Target != "sdc" || got.disk(dr.DiskID{}) != nil {
		t.Errorf("disks are named %+v", got.Disks)
	}
	var again libvirtxml.Domain
	if err := again.Unmarshal(text); err != nil || again.Name != "web <&' 1" {
		t.Errorf("read again, the VM is %q, %v", again.Name, err)
	}
}

func TestDomainRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*hypervisor.Spec)
		kind  errs.Kind
	}{
		"machine": {func(s *hypervisor.Spec) { s.Config.Machine = "microvm" }, errs.Invalid},
		"name":    {func(s *hypervisor.Spec) { s.Config.Name = "a/b" }, errs.Invalid},
		"bus":     {func(s *hypervisor.Spec) { s.Config.Disks[0].Bus = "nvme" }, errs.Unavailable},
		"card":    {func(s *hypervisor.Spec) { s.Config.NICs[0].Model = "ne2000" }, errs.Invalid},
		"network": {func(s *hypervisor.Spec) { s.Networks["production"] = hypervisor.Network{Kind: hypervisor.User} }, errs.Unavailable},
		"seven IDE disks": {func(s *hypervisor.Spec) {
			for i := range byte(7) {
				id := dr.DiskID{UUID: number16(20 + i)}
				s.Config.Disks = append(s.Config.Disks, dr.VMDisk{ID: id, Name: "more", Size: 1, Bus: "ide"})
			}
		}, errs.Invalid},
	} {
		s := everything()
		c.spoil(s)
		if _, _, err := (&domain{spec: s, dir: "/d"}).build(); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want kind %v", name, err, c.kind)
		}
	}
}

// TestUEFI: the variable store is the run's own.
func TestUEFI(t *testing.T) {
	var os libvirtxml.DomainOS
	(&domain{dir: "/vms/run"}).uefi(&os, hypervisor.Firmware{Code: "/fw/CODE.fd", Vars: "/fw/VARS.fd"})
	text, err := (&libvirtxml.Domain{Type: "qemu", OS: &os}).Marshal()
	if err != nil || !strings.Contains(text, `<loader readonly="yes" type="pflash">/fw/CODE.fd</loader>`) ||
		!strings.Contains(text, `<nvram template="/fw/VARS.fd">/vms/run/uefi-vars.fd</nvram>`) {
		t.Errorf("%v: %s", err, text)
	}
}

// TestBubbles: isolated networks of one test, by their recorded names, are apart
// from each other and from another test's; a VM that is not kept has its own.
func TestBubbles(t *testing.T) {
	name := func(keep bool, dir string, vm byte, network string) string {
		s := &hypervisor.Spec{Config: dr.VMConfig{ID: dr.VMID{UUID: number16(vm)}}}
		s.Keep, s.WorkDir = keep, dir
		return (&domain{spec: s}).scope() + bubbleOf(network)
	}
	if a, b := name(true, "/t", 1, "lan"), name(true, "/t", 2, "lan"); a != b || !isBubble(a) {
		t.Errorf("two VMs of a test are on %q and %q", a, b)
	}
	seen := map[string]bool{}
	for _, n := range []string{
		name(true, "/t", 1, "lan"), name(true, "/t", 1, "dmz"), name(true, "/u", 1, "lan"), name(false, "/t", 1, "lan"), name(false, "/t", 2, "lan"),
	} {
		if seen[n] {
			t.Errorf("%q is two networks", n)
		}
		seen[n] = true
	}
	for _, foreign := range []string{"default", "holdfast", "holdfast-x-y", "holdfast-" + strings.Repeat("a", 17)} {
		if isBubble(foreign) {
			t.Errorf("%q is taken for one of ours", foreign)
		}
	}
}

func TestPicturesBecomePNG(t *testing.T) {
	ppm := []byte("P6\n# a comment\n2 1\n255\n\x01\x02\x03\xff\xfe\xfd")
	b, err := asPNG(ppm)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if r, g, b, _ := picture.At(1, 0).RGBA(); picture.Bounds().Dx() != 2 || r != 0xffff || g != 0xfefe || b != 0xfdfd {
		t.Errorf("the picture is %v, its last point %x %x %x", picture.Bounds(), r, g, b)
	}
	if same, err := asPNG(b); err != nil || !bytes.Equal(same, b) {
		t.Errorf("a PNG was changed, %v", err)
	}
	if _, err := asPNG(b[:len(b)-14]); err == nil {
		t.Error("a PNG that was cut short is taken for one")
	}
	for _, bad := range []string{"", "P6", "P5 1 1 255\nx", "P6 1 1 255\nab", "P6 0 1 255\n", "P6 1 1 65535\nabcdef",
		"P6 99999999 99999999 255\n", "P6 9999999 9999999 255\n", "P6 -1 1 255\n", "P6 1 1 255\nabcd"} {
		if _, err := asPNG([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a picture", bad)
		}
	}
}

func FuzzDecodePPM(f *testing.F) {
	f.Add([]byte("P6\n# a comment\n2 1\n255\n\x01\x02\x03\xff\xfe\xfd"))
	f.Add([]byte("P6 1 1 255\nabc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		picture, err := decodePPM(b)
		if err == nil && len(picture.Pix)/4*3 > len(b) {
			t.Errorf("%d bytes became %v", len(b), picture.Bounds())
		}
	})
}
