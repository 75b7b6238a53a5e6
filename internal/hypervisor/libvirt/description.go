package libvirt

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// vmXML is what we read of a VM's description.
type vmXML struct {
	Name   string `xml:"name"`
	UUID   string `xml:"uuid"`
	Memory struct {
		Unit  string `xml:"unit,attr"`
		Value string `xml:",chardata"`
	} `xml:"memory"`
	VCPU struct {
		Current string `xml:"current,attr"`
		Value   string `xml:",chardata"`
	} `xml:"vcpu"`
	OS struct {
		Firmware string `xml:"firmware,attr"`
		Type     struct {
			Machine string `xml:"machine,attr"`
		} `xml:"type"`
		Loader struct {
			Type string `xml:"type,attr"`
		} `xml:"loader"`
	} `xml:"os"`
	Devices struct {
		Disks    []diskXML    `xml:"disk"`
		NICs     []nicXML     `xml:"interface"`
		Channels []channelXML `xml:"channel"`
	} `xml:"devices"`
	Metadata struct {
		Protection *protection `xml:"urn:holdfast:libvirt:1 protection"`
		Run        *run        `xml:"urn:holdfast:run:1 run"`
		Place      *placeXML   `xml:"urn:holdfast:place:1 place"`
	} `xml:"metadata"`
}

// diskXML is one <disk>.
type diskXML struct {
	Type   string     `xml:"type,attr"`
	Device string     `xml:"device,attr"`
	Attrs  []xml.Attr `xml:",any,attr"`
	Driver struct {
		Type    string `xml:"type,attr"`
		Cache   string `xml:"cache,attr"`
		WError  string `xml:"error_policy,attr"`
		RError  string `xml:"rerror_policy,attr"`
		Discard string `xml:"discard,attr"`
		IO      string `xml:"io,attr"`
		Thread  string `xml:"iothread,attr"`
	} `xml:"driver"`
	Source  sourceXML `xml:"source"`
	Backing struct {
		Source *struct{} `xml:"source"`
	} `xml:"backingStore"`
	Target struct {
		Dev string `xml:"dev,attr"`
		Bus string `xml:"bus,attr"`
	} `xml:"target"`
	Boot struct {
		Order string `xml:"order,attr"`
	} `xml:"boot"`
	Alias struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	Mirror *struct {
		Job   string `xml:"job,attr"`
		Ready string `xml:"ready,attr"`
	} `xml:"mirror"`
	ReadOnly  *struct{} `xml:"readonly"`
	Shareable *struct{} `xml:"shareable"`
	Transient *struct{} `xml:"transient"`
	Inner     string    `xml:",innerxml"`
}

// sourceXML is a disk's <source>, whatever the disk's type.
type sourceXML struct {
	File     string `xml:"file,attr"`
	Dev      string `xml:"dev,attr"`
	Protocol string `xml:"protocol,attr"`
	Name     string `xml:"name,attr"`
	Index    string `xml:"index,attr"`
	Hosts    []struct {
		Transport string `xml:"transport,attr"`
		Socket    string `xml:"socket,attr"`
	} `xml:"host"`
	Encryption *struct{} `xml:"encryption"`
	Slices     *struct{} `xml:"slices"`
}

// nicXML is one <interface>.
type nicXML struct {
	Type string `xml:"type,attr"`
	MAC  struct {
		Address string `xml:"address,attr"`
	} `xml:"mac"`
	Source struct {
		Network string `xml:"network,attr"`
		Bridge  string `xml:"bridge,attr"`
		Dev     string `xml:"dev,attr"`
	} `xml:"source"`
	Model struct {
		Type string `xml:"type,attr"`
	} `xml:"model"`
}

// channelXML is one <channel>.
type channelXML struct {
	Target struct {
		Name  string `xml:"name,attr"`
		State string `xml:"state,attr"`
	} `xml:"target"`
}

// agentChannel is the name guests look for.
const agentChannel = hypervisor.AgentPort

// parseVM reads a description. The error's kind is Corrupt.
func parseVM(text string) (*vmXML, error) {
	if len(text) > maxXML {
		return nil, errs.New("libvirt.parseVM", errs.Corrupt, "", fmt.Sprintf("a description of %d bytes", len(text)))
	}
	d := new(vmXML)
	if err := xml.Unmarshal([]byte(text), d); err != nil {
		return nil, errs.E("libvirt.parseVM", errs.Corrupt, "", err)
	}
	if _, err := dr.ParseUUID(d.UUID); err != nil || d.Name == "" {
		return nil, errs.New("libvirt.parseVM", errs.Corrupt, d.Name, "a description without name or identity")
	}
	if p := d.Metadata.Protection; p != nil {
		for i := range p.Disks {
			source, err := plain(p.Disks[i].Source)
			if err != nil {
				return nil, err
			}
			p.Disks[i].Source = source
		}
	}
	return d, nil
}

// id returns the VM's identity, which parseVM has checked.
func (d *vmXML) id() dr.VMID {
	u, err := dr.ParseUUID(d.UUID)
	if err != nil {
		return dr.VMID{}
	}
	return dr.VMID{UUID: u}
}

// disks returns the hard disks in boot order: those with a place in it first,
// then the others as they stand.
func (d *vmXML) disks() []*diskXML {
	var all []*diskXML
	for i := range d.Devices.Disks {
		if x := &d.Devices.Disks[i]; x.Target.Dev != "" && (x.Device == "disk" || x.Device == "lun" || x.Device == "") {
			all = append(all, x)
		}
	}
	slices.SortStableFunc(all, func(a, b *diskXML) int { return a.place() - b.place() })
	if len(all) > hypervisor.MaxDisks {
		all = all[:hypervisor.MaxDisks]
	}
	return all
}

// place returns the disk's place in the boot order; one without comes last.
func (x *diskXML) place() int {
	if n, err := strconv.Atoi(x.Boot.Order); err == nil && n > 0 && n < 1<<16 {
		return n
	}
	return 1 << 16
}

// disk returns the disk with a target name, or nil.
func (d *vmXML) disk(name string) *diskXML {
	for _, x := range d.disks() {
		if x.Target.Dev == name {
			return x
		}
	}
	return nil
}

// agent reports whether a guest agent is connected.
func (d *vmXML) agent() bool {
	for _, c := range d.Devices.Channels {
		if c.Target.Name == agentChannel && c.Target.State == "connected" {
			return true
		}
	}
	return false
}

// config returns the configuration, with the sizes of disks still to come.
func (d *vmXML) config() dr.VMConfig {
	c := dr.VMConfig{
		ID: d.id(), Name: d.Name, CPUs: number(d.VCPU.Current), MemoryMiB: mebibytes(d.Memory.Value, d.Memory.Unit),
		Machine: d.OS.Type.Machine, Firmware: "bios",
	}
	if c.CPUs == 0 {
		c.CPUs = max(1, number(d.VCPU.Value))
	}
	if d.OS.Firmware == "efi" || d.OS.Loader.Type == "pflash" {
		c.Firmware = "uefi"
	}
	for _, x := range d.disks() {
		c.Disks = append(c.Disks, dr.VMDisk{Name: x.Target.Dev, Bus: bus(x.Target.Bus)})
	}
	for _, n := range d.Devices.NICs[:min(len(d.Devices.NICs), hypervisor.MaxNICs)] {
		c.NICs = append(c.NICs, dr.NIC{MAC: n.MAC.Address, Model: nicModel(n.Model.Type), Network: n.network()})
	}
	return c
}

// number reads a small decimal number; 0 for anything else.
func number(s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// units of <memory>, in bytes; libvirt itself always writes KiB.
var units = map[string]uint64{
	"": 1 << 10, "b": 1, "bytes": 1, "KB": 1e3, "k": 1 << 10, "KiB": 1 << 10, "MB": 1e6, "M": 1 << 20, "MiB": 1 << 20,
	"GB": 1e9, "G": 1 << 30, "GiB": 1 << 30, "TB": 1e12, "T": 1 << 40, "TiB": 1 << 40,
}

// mebibytes converts an amount of memory; 0 for what is none.
func mebibytes(value, unit string) int64 {
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
	size := units[unit]
	if err != nil || size == 0 || n > uint64(hypervisor.MaxMemoryMiB)<<20/size {
		return 0
	}
	return int64(n * size >> 20)
}

// bus translates libvirt's word for how a disk is plugged in.
func bus(s string) string {
	if s == "sata" {
		return "ide" // on the machines that have it, QEMU's IDE bus is SATA
	}
	return s
}

// nicModel translates libvirt's word for a network card.
func nicModel(s string) string {
	if s == "virtio" || s == "virtio-non-transitional" || s == "virtio-transitional" {
		return "virtio-net-pci"
	}
	return s
}

// network names what a card is plugged into.
func (n *nicXML) network() string {
	for _, s := range []string{n.Source.Network, n.Source.Bridge, n.Source.Dev} {
		if s != "" {
			return s
		}
	}
	return n.Type
}

// socket returns the unix socket of the NBD export that is the disk's source.
func (s *sourceXML) socket() string {
	if s.Protocol == "nbd" && len(s.Hosts) == 1 && s.Hosts[0].Transport == "unix" {
		return s.Hosts[0].Socket
	}
	return ""
}

// format returns what QEMU calls the disk's format. Without a driver's word
// libvirt takes it for raw.
func (x *diskXML) format() string {
	if x.Driver.Type == "" {
		return "raw"
	}
	return x.Driver.Type
}

// path returns where the disk's image is on this host, or "".
func (x *diskXML) path() string {
	switch x.Type {
	case "file":
		return x.Source.File
	case "block":
		return x.Source.Dev
	}
	return ""
}

// problem says why a disk cannot be captured in any way, or "".
func (x *diskXML) problem() string {
	switch {
	case x.Device == "lun":
		return `the guest talks to the device itself (device='lun'): make it device='disk'`
	case x.Type == "vhostuser" || x.Type == "nvme" || x.Type == "vhostvdpa":
		return "its I/O does not pass QEMU's block layer (type='" + x.Type + "'): move it to an image or block device"
	case x.Transient != nil:
		return "what is written to it is thrown away at power off (<transient/>): nothing there can be kept"
	case x.path() == "" && x.Type != "network" && x.Type != "volume":
		return "it has no source"
	}
	return ""
}
