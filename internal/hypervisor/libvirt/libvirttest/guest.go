package libvirttest

import (
	"fmt"
	"strings"
)

// Guest describes a VM for Define. The zero value of what is left out is a
// small emulated PC that boots one raw image.
type Guest struct {
	Name    string
	Disks   []Disk
	Serial  string // path of the serial port's socket; "": none
	Agent   bool   // it has the guest agent's channel
	Network string // of libvirt's, for its only card; "": no card
	MiB     int    // memory; 0: 128
	Kernel  string // paths of a kernel and its initial RAM file system, to boot instead of a disk; "": boot the disk
	Initrd  string
	Append  string // the kernel's command line
}

// Disk is a disk of a Guest.
type Disk struct {
	Path   string
	Format string // "": raw
	Driver string // further attributes of <driver>, as "discard='unmap'"
	Bus    string // "": virtio
	Block  bool   // Path is a block device
}

// XML returns the VM's definition. Disks stop the VM on errors unless Driver
// says otherwise.
func (g Guest) XML() string {
	var b strings.Builder
	if g.MiB == 0 {
		g.MiB = 128
	}
	boot := ""
	if g.Kernel != "" {
		boot = fmt.Sprintf("<kernel>%s</kernel><initrd>%s</initrd><cmdline>%s</cmdline>", g.Kernel, g.Initrd, g.Append)
	}
	fmt.Fprintf(&b, `<domain type='qemu'><name>%s</name><memory unit='MiB'>%d</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type>%s</os><features><acpi/></features><cpu mode='maximum'/>
<iothreads>1</iothreads><devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/>
`, g.Name, g.MiB, boot)
	for i, d := range g.Disks {
		typ, attr, prefix := "file", "file", "vd"
		if d.Block {
			typ, attr = "block", "dev"
		}
		if d.Format == "" {
			d.Format = "raw"
		}
		if d.Bus == "" {
			d.Bus = "virtio"
		} else if d.Bus != "virtio" {
			prefix = "sd"
		}
		if !strings.Contains(d.Driver, "error_policy") {
			d.Driver += " error_policy='stop' rerror_policy='stop'"
		}
		fmt.Fprintf(&b, `<disk type='%s' device='disk'><driver name='qemu' type='%s' cache='none' %s/><source %s='%s'/>
<target dev='%s%c' bus='%s'/><serial>disk%d</serial></disk>
`, typ, d.Format, d.Driver, attr, d.Path, prefix, 'a'+i, d.Bus, i)
	}
	if g.Serial != "" {
		fmt.Fprintf(&b, "<serial type='unix'><source mode='bind' path='%s'/></serial>\n", g.Serial)
	}
	if g.Agent {
		b.WriteString("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\n")
	}
	if g.Network != "" {
		fmt.Fprintf(&b, "<interface type='network'><source network='%s'/><model type='virtio'/></interface>\n", g.Network)
	}
	b.WriteString("</devices></domain>\n")
	return b.String()
}
