package qemu

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// blockBackend is an entry of query-block.
type blockBackend struct {
	Device    string     `json:"device"`
	QDev      string     `json:"qdev"`
	Removable bool       `json:"removable"`
	Inserted  *blockNode `json:"inserted"`
}

// blockNode is QEMU's BlockDeviceInfo.
type blockNode struct {
	Name   string    `json:"node-name"`
	Driver string    `json:"drv"`
	File   string    `json:"file"`
	RO     bool      `json:"ro"`
	Zeroes string    `json:"detect_zeroes"`
	Cipher bool      `json:"encrypted"`
	Cache  nodeCache `json:"cache"`
	Image  imageInfo `json:"image"`
}

type nodeCache struct {
	Direct  bool `json:"direct"`
	NoFlush bool `json:"no-flush"`
}

type imageInfo struct {
	Size        int64      `json:"virtual-size"`
	Filename    string     `json:"filename"`
	Backing     string     `json:"full-backing-filename"`
	BackingInfo *imageInfo `json:"backing-image"`
}

// graph is the answer of x-debug-query-block-graph: the only command that says
// which node lies on which.
type graph struct {
	Nodes []struct {
		ID   uint64 `json:"id"`
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"nodes"`
	Edges []struct {
		Parent uint64 `json:"parent"`
		Child  uint64 `json:"child"`
		Name   string `json:"name"`
	} `json:"edges"`
}

// scan is all that was asked of QEMU at one time.
type scan struct {
	name     string
	id       dr.VMID
	status   string
	cpus     int
	memory   int64 // bytes
	machine  string
	firmware string
	nics     []dr.NIC
	disks    []*liveDisk          // in boot order
	nodes    map[string]blockNode // by name
	parents  map[string][]string  // node's name → names of what lies on it
	children map[string][]string  // and the other way round
	jobs     map[string]string    // mirror job of ours → our NBD node
	exports  []blockExport
}

type blockExport struct {
	ID   string `json:"id"`
	Node string `json:"node-name"`
}

// deviceFacts never change while a device is there.
type deviceFacts struct {
	name          string // of the disk
	path          string // in QEMU's object tree
	driver        string
	boot          int // bootindex; -1: none
	shared        bool
	stops         bool   // read and write errors stop the VM
	iothread      string // "": the main loop
	backend, node string // as last seen, for events
}

// liveDisk is a disk as a scan found it.
type liveDisk struct {
	deviceFacts
	size int64
	ro   bool
	root blockNode // what the device uses; implicit filters left out
	base blockNode // the protocol node of the disk's own image; of the export if attached in path
	own  string    // path of the own image; "": not known
	kind string    // the own image's format

	export   string // node of the attached export; "": not attached
	socket   string
	mirror   string // job, when it is a mirror
	reopened bool   // the export lies beneath the disk's raw node
	problem  string
}

// scan asks for everything. The caller has the turn.
func (v *LiveVM) scan(ctx context.Context, q *qmp) (*scan, error) {
	s := &scan{nodes: map[string]blockNode{}, parents: map[string][]string{}, children: map[string][]string{}, jobs: map[string]string{}}
	if err := s.machineFacts(ctx, q); err != nil {
		return nil, err
	}
	var err error
	if s.nics, err = v.networkCards(ctx, q); err != nil {
		return nil, err
	}
	if err := s.blockGraph(ctx, q); err != nil {
		return nil, err
	}
	if err := v.unhalt(ctx, q, s); err != nil {
		return nil, err
	}
	var backends []blockBackend
	if err := q.execute(ctx, "query-block", nil, &backends); err != nil {
		return nil, err
	}
	for _, b := range backends {
		if b.Removable || b.QDev == "" || b.Inserted == nil {
			continue // a drive for media, or no device of the guest
		}
		facts, err := v.deviceFacts(ctx, q, b.QDev)
		if err != nil {
			return nil, err
		}
		facts.backend = b.Device
		s.disks = append(s.disks, &liveDisk{deviceFacts: facts, root: *b.Inserted, size: b.Inserted.Image.Size, ro: b.Inserted.RO})
	}
	// Disks without a bootindex keep the order QEMU has them in, after those with.
	slices.SortStableFunc(s.disks, func(a, b *liveDisk) int { return cmp.Compare(uint(a.boot), uint(b.boot)) })
	cwd := workingDir(q)
	for i, d := range s.disks {
		if d.name == "" || slices.ContainsFunc(s.disks[:i], func(o *liveDisk) bool { return o.name == d.name }) {
			d.name = fmt.Sprintf("disk%d", i)
		}
		s.place(d, cwd)
		d.node = d.root.Name
		v.devices[d.path] = d.deviceFacts
	}
	v.mu.Lock()
	v.known = slices.Collect(maps.Values(v.devices))
	v.mu.Unlock()
	return s, nil
}

// machineFacts asks for what is not a disk or a card.
func (s *scan) machineFacts(ctx context.Context, q *qmp) error {
	var name struct{ Name string }
	var id struct{ UUID string }
	var status struct{ Status string }
	var cpus []json.RawMessage
	var memory struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}
	for _, c := range []struct {
		command string
		result  any
	}{{"query-name", &name}, {"query-uuid", &id}, {"query-status", &status}, {"query-cpus-fast", &cpus}, {"query-memory-size-summary", &memory}} {
		if err := q.execute(ctx, c.command, nil, c.result); err != nil {
			return err
		}
	}
	u, err := dr.ParseUUID(id.UUID)
	if err != nil {
		return errs.E("qemu.Info", errs.Corrupt, name.Name, err)
	}
	s.name, s.id, s.status, s.cpus, s.memory = name.Name, dr.VMID{UUID: u}, status.Status, len(cpus), memory.Base+memory.Plugged
	if s.name == "" {
		s.name = filepath.Base(q.conn.RemoteAddr().String())
	}
	if u.IsZero() { // QEMU was given none; the name has to do
		h := sha256.Sum256([]byte(s.name))
		copy(s.id.UUID[:], h[:])
		s.id.UUID[6], s.id.UUID[8] = s.id.UUID[6]&0x0f|0x80, s.id.UUID[8]&0x3f|0x80
	}
	s.machine = strings.TrimSuffix(text(ctx, q, "/machine", "type"), "-machine")
	s.firmware = "bios"
	fw := strings.ToLower(text(ctx, q, "/machine", "firmware"))
	if text(ctx, q, "/machine", "pflash0") != "" || strings.Contains(fw, "ovmf") || strings.Contains(fw, "edk2") {
		s.firmware = "uefi"
	}
	return nil
}

// property is one qom-get; ok is false when there is no such property.
func property(ctx context.Context, q *qmp, path, name string) (value any, ok bool) {
	err := q.execute(ctx, "qom-get", object{"path": path, "property": name}, &value)
	return value, err == nil
}

// text is a property that is words, or "".
func text(ctx context.Context, q *qmp, path, name string) string {
	value, _ := property(ctx, q, path, name)
	s, _ := value.(string)
	return s
}

// deviceFacts looks a disk's device up, once.
func (v *LiveVM) deviceFacts(ctx context.Context, q *qmp, qdev string) (deviceFacts, error) {
	path := qdev
	if !strings.HasPrefix(path, "/") {
		path = "/machine/peripheral/" + qdev
	}
	if f, ok := v.devices[path]; ok {
		return f, nil
	}
	f := deviceFacts{path: path, boot: -1, driver: text(ctx, q, path, "type")}
	if f.driver == "" {
		return f, errs.New("qemu.Info", errs.Corrupt, path, "the device has no type")
	}
	if n, ok := property(ctx, q, path, "bootindex"); ok {
		if n, ok := n.(float64); ok {
			f.boot = int(n)
		}
	}
	shared, _ := property(ctx, q, path, "share-rw")
	f.shared, _ = shared.(bool)
	f.stops = text(ctx, q, path, "werror") == "stop" && text(ctx, q, path, "rerror") == "stop"
	f.iothread = text(ctx, q, path, "iothread")
	// /machine/peripheral/ID/virtio-backend, or /machine/peripheral/ID.
	if rest, ok := strings.CutPrefix(path, "/machine/peripheral/"); ok {
		f.name, _, _ = strings.Cut(rest, "/")
	}
	if len(f.name) > 255 {
		f.name = ""
	}
	return f, nil
}

// networkCards finds the cards among the devices, asking each only once.
func (v *LiveVM) networkCards(ctx context.Context, q *qmp) (nics []dr.NIC, err error) {
	seen := map[string]*dr.NIC{}
	for _, where := range []string{"/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached"} {
		var children []struct{ Name, Type string }
		if err := q.execute(ctx, "qom-list", object{"path": where}, &children); err != nil {
			return nil, err
		}
		slices.SortFunc(children, func(a, b struct{ Name, Type string }) int { return strings.Compare(a.Name, b.Name) })
		for _, c := range children {
			model := strings.TrimSuffix(strings.TrimPrefix(c.Type, "child<"), ">")
			if !nicModels[strings.TrimSuffix(strings.TrimSuffix(model, "-transitional"), "-non-transitional")] || len(seen) >= maxDevices {
				continue
			}
			at := where + "/" + c.Name
			n, ok := v.cards[at]
			if !ok {
				n = &dr.NIC{Model: model, MAC: text(ctx, q, at, "mac"), Network: text(ctx, q, at, "netdev")}
			}
			seen[at] = n
			nics = append(nics, *n)
		}
	}
	v.cards = seen
	return nics, nil
}

// blockGraph asks for all nodes and what lies on what.
func (s *scan) blockGraph(ctx context.Context, q *qmp) error {
	var nodes []blockNode
	if err := q.execute(ctx, "query-named-block-nodes", object{"flat": true}, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		s.nodes[n.Name] = n
	}
	var g graph
	if err := q.execute(ctx, "x-debug-query-block-graph", nil, &g); err != nil {
		return err
	}
	names, types := map[uint64]string{}, map[uint64]string{}
	for _, n := range g.Nodes {
		names[n.ID], types[n.ID] = n.Name, n.Type
	}
	for _, e := range g.Edges {
		parent, child := names[e.Parent], names[e.Child]
		if types[e.Parent] == "block-job" && strings.HasPrefix(parent, nodePrefix) && s.nodes[child].Driver == "nbd" {
			s.jobs[parent] = child
		}
		if types[e.Parent] == "block-job" {
			parent = "job:" + parent
		}
		s.parents[child] = append(s.parents[child], parent)
		s.children[parent] = append(s.children[parent], child)
	}
	return q.execute(ctx, "query-block-exports", nil, &s.exports)
}

// protocols are the drivers of nodes that reach an image on this host.
var protocols = map[string]bool{"file": true, "host_device": true}

// place finds out where a disk's content is.
func (s *scan) place(d *liveDisk, cwd string) {
	d.base = d.root
	if d.root.Driver != "nbd" && !protocols[d.root.Driver] {
		for _, c := range s.children[d.root.Name] {
			if n := s.nodes[c]; n.Driver == "nbd" && ours(c) || protocols[n.Driver] && n.File == d.root.File {
				d.base = n
			}
		}
	}
	d.kind = d.root.Driver
	if protocols[d.kind] {
		d.kind = "raw"
	}
	switch {
	case d.base.Driver == "nbd" && ours(d.base.Name):
		d.export, d.socket = d.base.Name, socketOf(d.base)
		d.reopened = d.base.Name != d.root.Name
		s.ownOf(d)
	case protocols[d.base.Driver]:
		d.own = d.base.Image.Filename
		s.mirrorOf(d)
	}
	if d.own != "" && !filepath.IsAbs(d.own) && cwd != "" {
		d.own = filepath.Join(cwd, d.own)
	}
	d.problem = s.problemOf(d)
}

// ownOf finds the disk's own image by the node that waits beside the export.
func (s *scan) ownOf(d *liveDisk) {
	slot := slotOf(d.export)
	for name, n := range s.nodes {
		role, ok := roleOf(name, slot)
		if !ok || !protocols[n.Driver] {
			continue
		}
		d.own, d.kind = n.Image.Filename, "raw"
		if format, ok := strings.CutPrefix(role, imageRole); ok {
			d.kind = format
		}
	}
}

// mirrorOf finds a mirror of ours that reads from the disk.
func (s *scan) mirrorOf(d *liveDisk) {
	for job, target := range s.jobs {
		for _, c := range s.children["job:"+job] {
			if c == d.root.Name || slices.Contains(s.children[c], d.root.Name) {
				d.mirror, d.export, d.socket = job, target, socketOf(s.nodes[target])
			}
		}
	}
}

// problemOf says why a disk cannot be captured.
func (s *scan) problemOf(d *liveDisk) string {
	switch {
	case d.shared:
		return "several VMs may write to it (share-rw): take the sharing away"
	case d.export != "":
		return ""
	case d.own == "":
		return "it is not on a path of this host (driver " + d.base.Driver + "): move it to a file or block device"
	case d.root.Cipher:
		return "its image is encrypted by QEMU: use encryption inside the guest, or beneath the image"
	}
	for i := &d.root.Image; i.BackingInfo != nil; i = i.BackingInfo {
		if i.Backing != "" && i.Backing != i.BackingInfo.Filename && path.Base(i.Backing) != path.Base(i.BackingInfo.Filename) {
			return "its backing file is not the one its header names: run qemu-img rebase -u while the VM is off"
		}
	}
	return ""
}

// socketOf reads the socket's path out of an NBD node's file name,
// nbd+unix:///EXPORT?socket=PATH.
func socketOf(n blockNode) string {
	name := n.File
	if i := strings.LastIndex(name, "?socket="); i >= 0 {
		return name[i+len("?socket="):]
	}
	return ""
}

// exportOf reads the export's name out of it.
func exportOf(n blockNode) string {
	name, ok := strings.CutPrefix(n.File, "nbd+unix:///")
	if i := strings.LastIndex(name, "?socket="); ok && i >= 0 {
		return name[:i]
	}
	return ""
}

// sameFile reports whether two paths are of one file.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// workingDir is where a QEMU's relative paths begin: that of the process which
// listens at the socket, if it is a QEMU.
func workingDir(q *qmp) string {
	pid := peerPID(q)
	if pid <= 0 {
		return ""
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || !strings.Contains(filepath.Base(exe), "qemu") {
		return ""
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return ""
	}
	return cwd
}

// peerPID asks the kernel who listens; 0 when that cannot be told.
func peerPID(q *qmp) (pid int) {
	c, ok := q.conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}

// info renders a scan for the contract.
func (s *scan) info() hypervisor.VMInfo {
	i := hypervisor.VMInfo{
		Config: dr.VMConfig{ID: s.id, Name: s.name, CPUs: s.cpus, MemoryMiB: s.memory >> 20, Machine: s.machine,
			Firmware: s.firmware, NICs: s.nics},
		Running: true, Paused: s.status != "running",
	}
	for _, d := range s.disks {
		i.Config.Disks = append(i.Config.Disks, dr.VMDisk{Name: d.name, Size: d.size, Bus: busOf(d.driver)})
		i.Disks = append(i.Disks, hypervisor.LiveDisk{
			Name: d.name, Path: d.own, Format: d.kind, Size: d.size, ReadOnly: d.ro, Shared: d.shared,
			Attached: d.export != "", Socket: d.socket, Problem: d.problem,
		})
	}
	return i
}

// busOf names the bus of a device for a VM's configuration.
func busOf(driver string) string {
	switch {
	case strings.HasPrefix(driver, "virtio-blk"):
		return "virtio"
	case strings.HasPrefix(driver, "scsi"):
		return "scsi"
	case strings.HasPrefix(driver, "nvme"):
		return "nvme"
	}
	return "ide"
}
