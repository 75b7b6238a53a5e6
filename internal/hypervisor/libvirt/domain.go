package libvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"libvirt.org/go/libvirtxml"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// domain turns a checked spec into the description of a VM that has no
// definition: with its end it is gone.
type domain struct {
	spec *hypervisor.Spec
	dir  string         // the run's private directory
	used map[string]int // disks by the prefix of their names
}

// machines are the machine types we know how to furnish, at any version.
var machines = regexp.MustCompile(`^(pc|q35|pc-i440fx-[0-9.]+|pc-q35-[0-9.]+)$`)

// nicModels are the network cards a guest may have been given, and libvirt's
// words for them.
var nicModels = map[string]string{
	"virtio-net-pci": "virtio", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139", "vmxnet3": "vmxnet3",
}

func (d *domain) invalid(format string, args ...any) error {
	return errs.E("libvirt.Start", errs.Invalid, d.spec.Config.Name, fmt.Errorf(format, args...))
}

// build returns the description and what goes into its metadata. Kinds:
// Invalid, Unavailable (firmware, and what libvirt cannot give a guest).
func (d *domain) build() (string, *run, error) {
	cfg := &d.spec.Config
	if !machines.MatchString(cfg.Machine) {
		return "", nil, d.invalid("machine type %q is not supported; use pc or q35", cfg.Machine)
	}
	if strings.ContainsAny(cfg.Name, "/\n") {
		return "", nil, d.invalid("the VM's name has characters libvirt does not take")
	}
	x := &libvirtxml.Domain{
		Type: "qemu", Name: cfg.Name, UUID: cfg.ID.String(),
		Memory:   &libvirtxml.DomainMemory{Value: uint(cfg.MemoryMiB), Unit: "MiB"},
		VCPU:     &libvirtxml.DomainVCPU{Value: uint(cfg.CPUs)},
		CPU:      &libvirtxml.DomainCPU{Mode: "maximum"},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		OS: &libvirtxml.DomainOS{
			Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: cfg.Machine, Type: "hvm"},
		},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: d.devices(),
	}
	if d.spec.Accelerator == hypervisor.KVM {
		x.Type, x.CPU.Mode = "kvm", "host-passthrough"
	}
	if d.spec.ExitOnReset {
		x.OnReboot = "destroy"
	}
	if err := d.firmware(x.OS); err != nil {
		return "", nil, err
	}
	targets, err := d.disks(x.Devices)
	if err != nil {
		return "", nil, err
	}
	if err := d.nics(x.Devices); err != nil {
		return "", nil, err
	}
	r := newRun(d.spec, d.dir, targets)
	x.Metadata = &libvirtxml.DomainMetadata{XML: r.inDomain()}
	text, err := x.Marshal()
	if err != nil {
		return "", nil, d.invalid("it cannot be described: %w", err)
	}
	return text, r, nil
}

// devices returns what every VM has: no more than is asked for.
func (d *domain) devices() *libvirtxml.DomainDeviceList {
	list := &libvirtxml.DomainDeviceList{
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		MemBalloon:  &libvirtxml.DomainMemBalloon{Model: "none"},
		RNGs: []libvirtxml.DomainRNG{{
			Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
	}
	if d.spec.Screen {
		list.Videos = []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}}
	}
	if d.spec.Agent { // libvirt makes the socket, and talks by it
		list.Channels = []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: hypervisor.AgentPort}},
		}}
	}
	if d.spec.Serial {
		port := libvirtxml.DomainSerial{Source: &libvirtxml.DomainChardevSource{
			UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: serialPath(d.dir)},
		}}
		if d.spec.SerialLog != "" {
			port.Log = &libvirtxml.DomainChardevLog{File: d.spec.SerialLog, Append: "on"}
		}
		list.Serials = []libvirtxml.DomainSerial{port}
	}
	return list
}

func serialPath(dir string) string { return filepath.Join(dir, "serial") }

// firmware adds the machine's firmware. "bios" is QEMU's own default. The
// variable store lies in the run's directory, and begins empty at every start.
func (d *domain) firmware(os *libvirtxml.DomainOS) error {
	if d.spec.Config.Firmware != "uefi" {
		return nil
	}
	fw, err := hypervisor.FindFirmware()
	if err != nil {
		return err
	}
	d.uefi(os, fw)
	return nil
}

func (d *domain) uefi(os *libvirtxml.DomainOS, fw hypervisor.Firmware) {
	os.Loader = &libvirtxml.DomainLoader{Path: fw.Code, Readonly: "yes", Type: "pflash"}
	os.NVRam = &libvirtxml.DomainNVRam{Template: fw.Vars, NVRam: filepath.Join(d.dir, "uefi-vars.fd")}
}

// disks adds every disk, in boot order, and the controllers they need. It
// returns libvirt's names of the disks.
func (d *domain) disks(list *libvirtxml.DomainDeviceList) (targets []string, err error) {
	d.used = map[string]int{}
	scsi := false
	for i, disk := range d.spec.Config.Disks {
		bus, prefix, err := d.place(disk)
		if err != nil {
			return nil, err
		}
		if bus == "scsi" && !scsi {
			scsi = true
			list.Controllers = append(list.Controllers, libvirtxml.DomainController{Type: "scsi", Model: "virtio-scsi"})
		}
		target := prefix + string(rune('a'+d.used[prefix])) // MaxDisks is less than the letters
		d.used[prefix]++
		targets = append(targets, target)
		cache := "writeback"
		if d.spec.Direct {
			cache = "none"
		}
		list.Disks = append(list.Disks, libvirtxml.DomainDisk{
			Device: "disk",
			Driver: &libvirtxml.DomainDiskDriver{
				Name: "qemu", Type: "raw", Cache: cache, ErrorPolicy: "stop", RErrorPolicy: "stop", Discard: "unmap",
			},
			Source: source(d.spec.Sources[disk.ID]),
			Target: &libvirtxml.DomainDiskTarget{Dev: target, Bus: bus},
			Serial: strings.ReplaceAll(disk.ID.String(), "-", "")[:20],
			Boot:   &libvirtxml.DomainDeviceBoot{Order: uint(i + 1)},
		})
	}
	return targets, nil
}

// place says where a disk is plugged in: libvirt's bus, and how names of disks
// there begin.
func (d *domain) place(disk dr.VMDisk) (bus, prefix string, err error) {
	switch disk.Bus {
	case "virtio":
		return "virtio", "vd", nil
	case "scsi":
		return "scsi", "sd", nil
	case "ide":
		bus, prefix, room := "ide", "hd", 4
		if strings.Contains(d.spec.Config.Machine, "q35") {
			bus, prefix, room = "sata", "sd", 6
		}
		if d.used["ide"]++; d.used["ide"] > room {
			return "", "", d.invalid("a machine of type %s has room for %d IDE disks", d.spec.Config.Machine, room)
		}
		return bus, prefix, nil
	}
	return "", "", errs.New("libvirt.Start", errs.Unavailable, d.spec.Config.Name,
		fmt.Sprintf("disk %q is on bus %q, which libvirt cannot give a guest", disk.Name, disk.Bus)).
		WithRemedy("recover the VM with another bus for this disk, as scsi or virtio")
}

// source describes where a disk's bytes are. A disk that is going to move from
// its export to an image is described as the image from the start: the export
// is put in front of it before the guest runs, and then nothing libvirt knows
// changes when it is taken away.
func source(src hypervisor.Source) *libvirtxml.DomainDiskSource {
	if src.Path == "" {
		return &libvirtxml.DomainDiskSource{Network: &libvirtxml.DomainDiskSourceNetwork{
			Protocol: "nbd", Name: src.Export,
			// No <reconnect>: libvirt knows it from 9.6 on. Without, an export that goes
			// away pauses the VM at once, and Resume tries again.
			Hosts: []libvirtxml.DomainDiskSourceHost{{Transport: "unix", Socket: src.Socket}},
		}}
	}
	if fi, err := os.Stat(src.Path); err == nil && fi.Mode().Type() == os.ModeDevice {
		return &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: src.Path}}
	}
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: src.Path}}
}

// nics adds the network cards and what each is plugged into.
func (d *domain) nics(list *libvirtxml.DomainDeviceList) error {
	for _, n := range d.spec.Config.NICs {
		model := nicModels[n.Model]
		if model == "" {
			return d.invalid("network card %q is not supported", n.Model)
		}
		card := libvirtxml.DomainInterface{
			MAC:   &libvirtxml.DomainInterfaceMAC{Address: n.MAC},
			Model: &libvirtxml.DomainInterfaceModel{Type: model},
			ROM:   &libvirtxml.DomainROM{Enabled: "no"}, // disks boot, and the prompts of one cost seconds
		}
		switch to := d.spec.Networks[n.Network]; to.Kind {
		case hypervisor.Isolated:
			card.Source = onNetwork(d.scope() + bubbleOf(n.Network))
		case hypervisor.Named:
			card.Source = onNetwork(to.Name)
		default:
			return errs.New("libvirt.Start", errs.Unavailable, d.spec.Config.Name, "libvirt has no network that gives addresses and leads nowhere").
				WithRemedy("map network " + n.Network + " to an isolated one, or to one of libvirt's by name")
		}
		list.Interfaces = append(list.Interfaces, card)
	}
	return nil
}

func onNetwork(name string) *libvirtxml.DomainInterfaceSource {
	return &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: name}}
}
