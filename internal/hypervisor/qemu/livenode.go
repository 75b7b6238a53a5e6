package qemu

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"holdfast/internal/errs"
)

// Our block nodes are called holdfast-ROLE-N; those with the same N belong to
// one attached disk. They are all that a driver which starts anew has to go by.
//
//	holdfast-nbd-N         the export
//	holdfast-file-N        the disk's own raw image, waiting for detach or fail-open
//	holdfast-raw-N         raw format over it: what the device then gets
//	holdfast-img.FORMAT-N  the file of the disk's own image of another format; not
//	                       opened as such before a storage daemon has closed it
//	holdfast-own-N         that image, opened after the detach
//	holdfast-mirror-N      the job of a mirror
//	holdfast-halt-0        nothing: it says that the VM stands still because a driver
//	                       has stopped it, and is to go on when that driver is gone
const (
	nodePrefix = "holdfast-"
	nbdRole    = "nbd"
	fileRole   = "file"
	rawRole    = "raw"
	ownRole    = "own"
	mirrorRole = "mirror"
	imageRole  = "img."
	haltNode   = nodePrefix + "halt-0"
)

func nodeName(role string, slot int) string { return fmt.Sprintf("%s%s-%d", nodePrefix, role, slot) }

func ours(name string) bool { return strings.HasPrefix(name, nodePrefix) }

// slotOf returns N of one of our names, -1 for any other.
func slotOf(name string) int {
	rest, ok := strings.CutPrefix(name, nodePrefix)
	if !ok {
		return -1
	}
	i := strings.LastIndexByte(rest, '-')
	n, err := strconv.Atoi(rest[i+1:])
	if i < 0 || err != nil || n < 0 || n >= maxSlots {
		return -1
	}
	return n
}

// roleOf returns the role in a name of slot.
func roleOf(name string, slot int) (string, bool) {
	rest, ok := strings.CutPrefix(name, nodePrefix)
	if !ok || slot < 0 {
		return "", false
	}
	return strings.CutSuffix(rest, "-"+strconv.Itoa(slot))
}

// freeSlot returns a number that none of our names uses.
func (s *scan) freeSlot() (int, error) {
	used := map[int]bool{}
	for name := range s.nodes {
		used[slotOf(name)] = true
	}
	for job := range s.jobs {
		used[slotOf(job)] = true
	}
	for n := range maxSlots {
		if !used[n] {
			return n, nil
		}
	}
	return 0, errs.New("qemu.Attach", errs.Full, s.name, "too many block nodes of ours are in use")
}

// nodes adds and removes block nodes of one VM, and remembers what it added.
type nodes struct {
	ctx   context.Context
	q     *qmp
	added []string
}

// add adds a node. iothread is where its disk's requests are handled; "" is
// QEMU's main loop.
func (n *nodes) add(options object, iothread string) error {
	if err := n.q.execute(n.ctx, "blockdev-add", options, nil); err != nil {
		return err
	}
	name, _ := options["node-name"].(string)
	n.added = append(n.added, name)
	if iothread == "" {
		return nil
	}
	return n.q.execute(n.ctx, "x-blockdev-set-iothread", object{"node-name": name, "iothread": path.Base(iothread)}, nil)
}

// undo removes what was added, the newest first.
func (n *nodes) undo() {
	for i := len(n.added) - 1; i >= 0; i-- {
		n.remove(n.added[i])
	}
	n.added = nil
}

// remove removes a node if QEMU lets it go: one that was not made by name goes
// by itself, and one that somebody uses stays.
func (n *nodes) remove(names ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.ctx), commandLimit)
	defer cancel()
	for _, name := range names {
		if strings.HasPrefix(name, "#") || name == "" {
			continue
		}
		_ = n.q.execute(ctx, "blockdev-del", object{"node-name": name}, nil)
	}
}

// export describes the node of an export.
func exportNode(slot int, socket, export string, reconnect int, zeroes string) object {
	return object{
		"driver": "nbd", "node-name": nodeName(nbdRole, slot), "export": export,
		"server": object{"type": "unix", "path": socket}, "reconnect-delay": reconnect,
		"discard": "unmap", "detect-zeroes": zeroes,
	}
}

// fileNode describes the disk's own file.
func fileNode(name string, d *liveDisk, base blockNode) object {
	driver := base.Driver
	if !protocols[driver] {
		driver = "file"
	}
	return object{
		"driver": driver, "node-name": name, "filename": d.own, "discard": "unmap",
		"cache": object{"direct": base.Cache.Direct, "no-flush": base.Cache.NoFlush},
	}
}

// rawNode describes the raw format over a file node.
func rawNode(name, file string, d *liveDisk) object {
	return object{
		"driver": "raw", "node-name": name, "file": file, "discard": "unmap", "detect-zeroes": d.root.Zeroes,
		"cache": object{"direct": d.root.Cache.Direct, "no-flush": d.root.Cache.NoFlush},
	}
}
