package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// commandLine turns a checked spec into QEMU's arguments. Everything that came
// from outside goes in as JSON, or escaped, so that no name can add an option.
type commandLine struct {
	spec *hypervisor.Spec
	dir  string // the run's private directory
	args []string
}

// qmpFD is the descriptor on which QEMU finds its end of the QMP socket pair:
// the first one after the standard three.
const qmpFD = 3

// machines are the machine types we know how to furnish, at any version.
var machines = regexp.MustCompile(`^(pc|q35|pc-i440fx-[0-9.]+|pc-q35-[0-9.]+)$`)

// nicModels are the network cards a guest may have been given.
var nicModels = map[string]bool{
	"virtio-net-pci": true, "e1000": true, "e1000e": true, "rtl8139": true, "vmxnet3": true,
}

// build returns the arguments. Kinds: Invalid, Unavailable (firmware).
func (c *commandLine) build() ([]string, error) {
	cfg := &c.spec.Config
	if !machines.MatchString(cfg.Machine) {
		return nil, c.invalid("machine type %q is not supported; use pc or q35", cfg.Machine)
	}
	c.add("-no-user-config", "-nodefaults", "-nographic", "-S")
	c.add("-name", "guest="+escape(cfg.Name), "-uuid", cfg.ID.String())
	cpu := "max"
	if c.spec.Accelerator == hypervisor.KVM {
		cpu = "host"
	}
	c.add("-accel", string(c.spec.Accelerator), "-cpu", cpu)
	c.add("-smp", strconv.Itoa(cfg.CPUs), "-m", fmt.Sprintf("%dM", cfg.MemoryMiB))
	if c.spec.ExitOnReset {
		c.add("-no-reboot")
	}
	c.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control")
	if err := c.monitors(); err != nil {
		return nil, err
	}
	if err := c.machine(); err != nil {
		return nil, err
	}
	if c.spec.Screen {
		c.json("-device", object{"driver": "VGA", "id": "screen"})
	}
	if err := c.serial(); err != nil {
		return nil, err
	}
	c.add("-object", `{"qom-type":"rng-random","id":"rng","filename":"/dev/urandom"}`)
	c.json("-device", object{"driver": "virtio-rng-pci", "rng": "rng"})
	if err := c.disks(); err != nil {
		return nil, err
	}
	if err := c.nics(); err != nil {
		return nil, err
	}
	return c.args, c.agent() // last, so that nothing a guest knew before has another place
}

// object is a JSON object on the command line.
type object map[string]any

func (c *commandLine) add(args ...string) { c.args = append(c.args, args...) }

func (c *commandLine) json(option string, o object) {
	b, err := json.Marshal(o)
	if err != nil {
		panic("qemu: strings, numbers and maps of them always marshal: " + err.Error())
	}
	c.add(option, string(b))
}

func (c *commandLine) invalid(format string, args ...any) error {
	return errs.E("qemu.Start", errs.Invalid, c.spec.Config.Name, fmt.Errorf(format, args...))
}

// escape doubles commas, which end a value in QEMU's key=value options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// machine adds the machine and its firmware. "bios" is QEMU's own default.
func (c *commandLine) machine() error {
	if c.spec.Config.Firmware != "uefi" {
		c.add("-machine", c.spec.Config.Machine)
		return nil
	}
	fw, err := hypervisor.FindFirmware()
	if err != nil {
		return err
	}
	vars, err := copyVars(fw, c.dir)
	if err != nil {
		return err
	}
	c.json("-blockdev", object{"driver": "file", "node-name": "pflash-code", "filename": fw.Code, "read-only": true})
	c.json("-blockdev", object{"driver": "file", "node-name": "pflash-vars", "filename": vars})
	c.add("-machine", c.spec.Config.Machine+",pflash0=pflash-code,pflash1=pflash-vars")
	return nil
}

// monitors adds the QMP monitors of a VM that is kept: one for whoever adopts
// it, one for the host component.
func (c *commandLine) monitors() error {
	if !c.spec.Keep {
		return nil
	}
	for _, name := range []string{adoptSocket, monitorSocket} {
		path := filepath.Join(c.dir, name)
		if err := checkSocketPath(path); err != nil {
			return err
		}
		c.add("-chardev", "socket,id="+name+",server=on,wait=off,path="+escape(path), "-mon", "mode=control,chardev="+name)
	}
	return nil
}

// serialPath returns where the serial port's socket is, or "".
func (c *commandLine) serialPath() string {
	if !c.spec.Serial {
		return ""
	}
	return filepath.Join(c.dir, serialSocket)
}

// serial adds the serial port.
func (c *commandLine) serial() error {
	path := c.serialPath()
	if path == "" {
		return nil
	}
	if err := checkSocketPath(path); err != nil {
		return err
	}
	port := "socket,id=serial0,server=on,wait=off,path=" + escape(path)
	if c.spec.SerialLog != "" {
		port += ",logappend=on,logfile=" + escape(c.spec.SerialLog)
	}
	c.add("-chardev", port, "-serial", "chardev:serial0")
	return nil
}

// agent adds the port of the guest's agent.
func (c *commandLine) agent() error {
	if !c.spec.Agent {
		return nil
	}
	path := filepath.Join(c.dir, agentSocket)
	if err := checkSocketPath(path); err != nil {
		return err
	}
	c.add("-chardev", "socket,id=agent,server=on,wait=off,path="+escape(path))
	c.json("-device", object{"driver": "virtio-serial-pci", "id": "ports"})
	c.json("-device", object{"driver": "virtserialport", "bus": "ports.0", "chardev": "agent", "name": hypervisor.AgentPort})
	return nil
}

// checkSocketPath reports a path too long for a unix socket.
func checkSocketPath(path string) error {
	if len(path) <= maxSocketPath {
		return nil
	}
	return errs.New("qemu.Start", errs.Invalid, path,
		fmt.Sprintf("a unix socket's path has at most %d bytes and this one has %d", maxSocketPath, len(path))).
		WithRemedy("use a directory with a shorter path")
}

// disks adds every disk, in boot order, and the controllers they need.
func (c *commandLine) disks() error {
	ide, scsi := 0, 0
	for i, d := range c.spec.Config.Disks {
		node := "disk" + strconv.Itoa(i)
		protocol, err := c.protocol(node, c.spec.Sources[d.ID])
		if err != nil {
			return err
		}
		c.json("-blockdev", guestNode(node, protocol))
		hex := strings.ReplaceAll(d.ID.String(), "-", "")
		dev := object{"id": node + "-dev", "drive": node, "bootindex": i + 1, "serial": hex[:20]}
		switch d.Bus {
		case "virtio":
			dev["driver"] = "virtio-blk-pci"
		case "nvme":
			dev["driver"] = "nvme"
		case "scsi":
			if scsi == 0 {
				c.json("-device", object{"driver": "virtio-scsi-pci", "id": "scsi"})
			}
			dev["driver"], dev["bus"], dev["lun"] = "scsi-hd", "scsi.0", scsi
			scsi++
		case "ide":
			if err := c.ide(dev, ide); err != nil {
				return err
			}
			ide++
		}
		if d.Bus != "nvme" { // which has no such choice: the guest sees its errors
			dev["werror"], dev["rerror"] = "stop", "stop"
		}
		c.json("-device", dev)
	}
	return nil
}

// guestNode describes what the guest's device is on.
func guestNode(node string, file any) object {
	return object{"driver": "raw", "node-name": node, "file": file, "discard": "unmap"}
}

// ide places the nth disk on the machine's own controller: two cables of two
// on pc, six of one on q35.
func (c *commandLine) ide(dev object, n int) error {
	cables, units := 2, 2
	if strings.Contains(c.spec.Config.Machine, "q35") {
		cables, units = 6, 1
	}
	if n >= cables*units {
		return c.invalid("a machine of type %s has room for %d IDE disks", c.spec.Config.Machine, cables*units)
	}
	dev["driver"], dev["bus"], dev["unit"] = "ide-hd", "ide."+strconv.Itoa(n/units), n%units
	return nil
}

// protocol describes where a disk's bytes are.
func (c *commandLine) protocol(node string, src hypervisor.Source) (object, error) {
	node += "-file"
	if src.Socket != "" {
		if err := checkSocketPath(src.Socket); err != nil {
			return nil, err
		}
		return object{
			"driver": "nbd", "node-name": node, "export": src.Export, "reconnect-delay": reconnectSeconds,
			"server": object{"type": "unix", "path": src.Socket},
		}, nil
	}
	return localNode(node, src.Path, c.spec.Direct), nil
}

// localNode describes a protocol node for an image or block device of this host.
func localNode(node, path string, direct bool) object {
	driver := "file"
	if fi, err := os.Stat(path); err == nil && fi.Mode().Type() == os.ModeDevice {
		driver = "host_device"
	}
	return object{
		"driver": driver, "node-name": node, "filename": path, "discard": "unmap",
		"cache": object{"direct": direct, "no-flush": false},
	}
}

// nics adds the network cards and what each is plugged into.
func (c *commandLine) nics() error {
	hubs := map[string]int{}
	for i, n := range c.spec.Config.NICs {
		if !nicModels[n.Model] {
			return c.invalid("network card %q is not supported", n.Model)
		}
		id := "nic" + strconv.Itoa(i)
		switch c.spec.Networks[n.Network].Kind {
		case hypervisor.User:
			c.json("-netdev", object{"type": "user", "id": id, "restrict": true})
		case hypervisor.Named:
			return errs.New("qemu.Start", errs.Unavailable, c.spec.Config.Name, "the embedded QEMU driver has no networks to name").
				WithRemedy("recover on a libvirt host, or map network " + n.Network + " to an isolated one")
		default:
			if hubs[n.Network] == 0 {
				hubs[n.Network] = len(hubs) + 1
			}
			c.json("-netdev", object{"type": "hubport", "id": id, "hubid": hubs[n.Network]})
		}
		// No boot ROM: disks boot, and the prompts of one cost seconds.
		c.json("-device", object{"driver": n.Model, "id": id + "-dev", "netdev": id, "mac": n.MAC, "romfile": ""})
	}
	return nil
}
