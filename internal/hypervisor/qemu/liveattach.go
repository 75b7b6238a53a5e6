package qemu

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// The routes of a switch-over, as Switch.Route names them.
const (
	routeReopen  = "reopen"   // the raw node gets another file: its name, its bitmaps and its jobs stay
	routeQOM     = "qom-set"  // the device gets another node
	routeMirror  = "mirror"   // a job writes to the export as well
	routeImage   = "image"    // qom-set, with the image handed to a storage daemon
	routeStandIn = "stand-in" // another server in the dead one's place, then qom-set
	routeResize  = "resize"   // to the own image, which grows, and back
	routeNone    = "none"     // there was nothing to do
)

// deal is one command on one disk at work. It has the VM's turn.
type deal struct {
	v    *LiveVM
	op   string
	ctx  context.Context
	q    *qmp
	s    *scan
	d    *liveDisk
	n    nodes
	slot int
}

// begin takes the VM's turn and looks the disk up.
func (v *LiveVM) begin(ctx context.Context, op, disk string) (*deal, func(), error) {
	release, err := v.take(ctx, op)
	if err != nil {
		return nil, nil, err
	}
	w, err := v.deal(ctx, op, disk)
	if err != nil {
		release()
		return nil, nil, err
	}
	return w, release, nil
}

func (v *LiveVM) deal(ctx context.Context, op, disk string) (*deal, error) {
	q, err := v.connection(op)
	if err != nil {
		return nil, errs.E(op, errs.Conflict, v.name(), err).WithRemedy("start the VM first")
	}
	s, err := v.scan(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, d := range s.disks {
		if d.name == disk {
			return &deal{v: v, op: op, ctx: ctx, q: q, s: s, d: d, n: nodes{ctx: ctx, q: q}, slot: slotOf(d.export)}, nil
		}
	}
	return nil, errs.New(op, errs.NotFound, disk, "the VM has no such disk")
}

// commit makes what follows independent of the caller's context: from here on
// the switch-over is finished or undone.
func (w *deal) commit() context.CancelFunc {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(w.ctx), switchLimit, errors.New("QEMU did not answer in time"))
	w.ctx, w.n.ctx = ctx, ctx
	return cancel
}

// run executes a command and gives its failure the deal's words.
func (w *deal) run(command string, args any) error {
	begin := time.Now()
	err := w.q.execute(w.ctx, command, args, nil)
	w.v.p.log.Debug("qmp command", "vm", w.s.id, "disk", w.d.name, "op", command, "elapsed", time.Since(begin), "err", err)
	if err != nil {
		return errs.E(w.op, errs.Internal, w.d.name, err)
	}
	return nil
}

func (w *deal) refuse(kind errs.Kind, words string) error {
	return errs.New(w.op, kind, w.d.name, words)
}

// set gives the device another node. The thread that handles its requests has
// let go of them while the VM stands still; then the node has to leave it too.
func (w *deal) set(node string) error {
	args := object{"path": w.d.path, "property": "drive", "value": node}
	err := w.run("qom-set", args)
	if w.d.iothread == "" || !errs.Is(err, errs.Conflict) {
		return err
	}
	if err := w.run("x-blockdev-set-iothread", object{"node-name": node, "iothread": nil}); err != nil {
		return err
	}
	return w.run("qom-set", args)
}

// direct reports whether the disk's content can be reached without QEMU.
func (d *liveDisk) direct() bool { return d.kind == "raw" }

// suits checks that a disk can be captured at all.
func (w *deal) suits(c hypervisor.Capture) error {
	switch {
	case w.d.problem != "":
		return errs.New(w.op, errs.Invalid, w.d.name, "cannot be captured").WithRemedy(w.d.problem)
	case w.d.ro:
		return w.refuse(errs.Invalid, "is read-only: there is nothing to capture")
	case c != hypervisor.InPath && c != hypervisor.Mirror:
		return w.refuse(errs.Invalid, "unknown way of capture")
	case !slices.Contains([]string{"running", "paused", "prelaunch", "io-error"}, w.s.status):
		return w.refuse(errs.Conflict, "the VM is in state "+w.s.status+": wait until that is over")
	}
	return nil
}

// Prepare makes the disk's content reachable.
func (v *LiveVM) Prepare(ctx context.Context, disk string, c hypervisor.Capture) (hypervisor.Source, error) {
	w, release, err := v.begin(ctx, "qemu.Prepare", disk)
	if err != nil {
		return hypervisor.Source{}, err
	}
	defer release()
	if err := w.suits(c); err != nil {
		return hypervisor.Source{}, err
	}
	switch {
	case c == hypervisor.Mirror:
		return w.readSource()
	case w.d.direct():
		return hypervisor.Source{Path: w.d.own}, nil
	}
	s, err := w.imageServer()
	if err != nil {
		return hypervisor.Source{}, err
	}
	return hypervisor.Source{Socket: s.socket, Export: imageExport}, nil
}

// Attach puts the export in the disk's path, or beside it.
func (v *LiveVM) Attach(ctx context.Context, disk string, a hypervisor.Attachment) (hypervisor.Switch, error) {
	w, release, err := v.begin(ctx, "qemu.Attach", disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer release()
	if err := w.suits(a.Capture); err != nil {
		return hypervisor.Switch{}, err
	}
	if a.Socket == "" {
		return hypervisor.Switch{}, w.refuse(errs.Invalid, "no socket to attach")
	}
	if err := checkSocketPath(a.Socket); err != nil {
		return hypervisor.Switch{}, err
	}
	again := w.d.export != "" && w.d.mirror == "" && w.d.direct() && w.s.status == "io-error" && w.d.socket == a.Socket && a.Capture == hypervisor.InPath
	if w.d.export != "" && !again {
		return hypervisor.Switch{}, w.refuse(errs.Conflict, "is attached already, to "+w.d.socket)
	}
	if w.slot, err = w.s.freeSlot(); err != nil {
		return hypervisor.Switch{}, err
	}
	if err := w.addExport(a); err != nil {
		w.n.undo()
		return hypervisor.Switch{}, err
	}
	sw, err := w.attach(a.Capture, again)
	if err != nil {
		w.n.undo()
		return sw, err
	}
	v.p.log.Info("export attached", "vm", w.s.id, "disk", disk, "route", sw.Route, "pause", sw.Pause)
	return sw, nil
}

func (w *deal) attach(c hypervisor.Capture, again bool) (hypervisor.Switch, error) {
	switch {
	case c == hypervisor.Mirror:
		return w.attachMirror()
	case again:
		return w.attachAgain()
	case w.d.direct():
		return w.attachRaw()
	}
	return w.attachImage()
}

// addExport connects QEMU to the export and checks that it is of the disk's
// size. A mirror needs no patience: without it a dead export ends the job, and
// the guest never notices.
func (w *deal) addExport(a hypervisor.Attachment) error {
	if err := hypervisor.Greeted(w.ctx, a.Socket); err != nil {
		return errs.E(w.op, errs.Unavailable, a.Socket, err).WithRemedy("start the NBD server of this disk first")
	}
	reconnect := int(w.v.p.opt.Reconnect / time.Second)
	if a.Capture == hypervisor.Mirror || w.d.stops {
		reconnect = 0
	}
	zeroes := cmp.Or(w.d.root.Zeroes, "off")
	if err := w.n.add(exportNode(w.slot, a.Socket, a.Export, reconnect, zeroes), w.d.iothread); err != nil {
		if errs.Is(err, errs.Conflict) {
			return errs.E(w.op, errs.Unavailable, a.Socket, err).WithRemedy("start the NBD server of this disk first")
		}
		return err
	}
	var all []blockNode
	if err := w.q.execute(w.ctx, "query-named-block-nodes", object{"flat": true}, &all); err != nil {
		return err
	}
	for _, n := range all {
		if n.Name == nodeName(nbdRole, w.slot) && n.Image.Size == w.d.size {
			return nil
		}
	}
	return w.refuse(errs.Invalid, "the export is of another size than the disk")
}

// attachRaw switches a raw disk over.
func (w *deal) attachRaw() (hypervisor.Switch, error) {
	defer w.commit()()
	if err := w.addOwn(); err != nil {
		return hypervisor.Switch{}, err
	}
	nbd := nodeName(nbdRole, w.slot)
	begin := time.Now()
	if w.canReopen() {
		err := w.reopen(nbd)
		if err == nil {
			return hypervisor.Switch{Pause: time.Since(begin), Route: routeReopen}, nil
		}
		if !errs.Is(err, errs.Conflict) {
			return hypervisor.Switch{}, err
		}
		begin = time.Now()
	}
	if err := w.set(nbd); err != nil {
		return hypervisor.Switch{}, err
	}
	return hypervisor.Switch{Pause: time.Since(begin), Route: routeQOM}, nil
}

// addOwn adds the nodes that wait for detach and fail-open.
func (w *deal) addOwn() error {
	file := nodeName(fileRole, w.slot)
	if err := w.n.add(fileNode(file, w.d, w.d.base), ""); err != nil {
		return errs.E(w.op, errs.Internal, w.d.own, err)
	}
	if err := w.n.add(rawNode(nodeName(rawRole, w.slot), file, w.d), w.d.iothread); err != nil {
		return errs.E(w.op, errs.Internal, w.d.own, err)
	}
	return nil
}

// canReopen reports whether the device's node is raw format over the whole of
// a file, and has a name QEMU takes back: one it made up itself it does not. A
// disk with a thread of its own is not reopened: QEMU 7.2 ends over that.
func (w *deal) canReopen() bool {
	return w.d.iothread == "" && w.d.root.Driver == "raw" && w.d.root.Name[:1] != "#" && w.d.base.Name != w.d.root.Name &&
		w.d.root.Image.Size == w.d.base.Image.Size
}

// reopen gives the disk's raw node another file. What is not repeated falls
// back to its default, but for discard, which stays.
func (w *deal) reopen(file string) error {
	return w.run("blockdev-reopen", object{"options": []object{{
		"driver": "raw", "node-name": w.d.root.Name, "read-only": false, "file": file,
		"detect-zeroes": cmp.Or(w.d.root.Zeroes, "off"),
		"cache":         object{"direct": w.d.root.Cache.Direct, "no-flush": w.d.root.Cache.NoFlush},
	}}})
}

// attachAgain connects a disk whose export died, and was started again, to the
// new one: the guest waits for it, and its unanswered writes are repeated there.
func (w *deal) attachAgain() (hypervisor.Switch, error) {
	defer w.commit()()
	old := slotOf(w.d.export)
	if err := w.addOwn(); err != nil {
		return hypervisor.Switch{}, err
	}
	begin := time.Now()
	if err := w.set(nodeName(nbdRole, w.slot)); err != nil {
		return hypervisor.Switch{}, err
	}
	if err := w.run("cont", nil); err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: routeQOM}
	w.forget(old)
	return sw, nil
}

// forget removes what a slot's nodes and the disk's former root left.
func (w *deal) forget(slot int) {
	w.cut(nodeName(nbdRole, slot))
	if w.d.reopened {
		w.n.remove(w.d.root.Name)
	}
	w.n.remove(nodeName(nbdRole, slot), nodeName(rawRole, slot), nodeName(fileRole, slot))
}

// cut ends the connection of a node that no disk uses any more. QEMU flushes a
// node before it lets go of it, and would wait, with the whole guest, for a
// dead server to come back.
func (w *deal) cut(node string) {
	_ = w.run("yank", object{"instances": []object{{"type": "block-node", "node-name": node}}}) // gone is as good
}

// Detach takes the export out again.
func (v *LiveVM) Detach(ctx context.Context, disk string) (hypervisor.Switch, error) {
	return v.letGo(ctx, "qemu.Detach", disk, (*deal).detachRaw)
}

// FailOpen takes a dead export out.
func (v *LiveVM) FailOpen(ctx context.Context, disk string) (hypervisor.Switch, error) {
	return v.letGo(ctx, "qemu.FailOpen", disk, (*deal).failOpenRaw)
}

func (v *LiveVM) letGo(ctx context.Context, op, disk string, raw func(*deal) (hypervisor.Switch, error)) (hypervisor.Switch, error) {
	w, release, err := v.begin(ctx, op, disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer release()
	defer w.commit()()
	var sw hypervisor.Switch
	switch {
	case w.d.export == "":
		w.unprepare()
		return hypervisor.Switch{Route: routeNone}, nil
	case w.d.mirror != "":
		sw, err = w.detachMirror()
	case w.d.direct():
		sw, err = raw(w)
	default:
		sw, err = w.detachImage(op == "qemu.FailOpen")
	}
	if err != nil {
		return sw, err
	}
	w.unprepare()
	v.p.log.Info("export taken out", "vm", w.s.id, "disk", disk, "op", op, "route", sw.Route, "pause", sw.Pause)
	return sw, nil
}

// unprepare frees what Prepare made, and what a mirror that ended by itself
// left.
func (w *deal) unprepare() {
	for name := range w.s.nodes {
		if _, ok := roleOf(name, slotOf(name)); ok && strings.HasPrefix(name, nodePrefix+nbdRole) && len(w.s.parents[name]) == 0 {
			w.n.remove(name)
		}
	}
	if s := w.v.servers[w.d.name]; s != nil {
		s.close()
		delete(w.v.servers, w.d.name)
	}
	w.endReadSource()
}

// detachRaw switches back by the way the disk came.
func (w *deal) detachRaw() (hypervisor.Switch, error) {
	if w.d.own == "" {
		return hypervisor.Switch{}, w.refuse(errs.Conflict, "nothing says where its own image is")
	}
	file, raw := nodeName(fileRole, w.slot), nodeName(rawRole, w.slot)
	begin := time.Now()
	if w.d.reopened {
		if was := w.idle(protocols); was != "" {
			file = was
		}
		if err := w.reopen(file); err != nil {
			return hypervisor.Switch{}, w.whyNot(err)
		}
		sw := hypervisor.Switch{Pause: time.Since(begin), Route: routeReopen}
		w.n.remove(w.d.export, raw, nodeName(fileRole, w.slot)) // the last stays when it is in use now
		return sw, nil
	}
	if was := w.idleRoot(); was != "" {
		raw = was
	}
	if err := w.set(raw); err != nil {
		return hypervisor.Switch{}, w.whyNot(err)
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: routeQOM}
	w.n.remove(w.d.export, nodeName(rawRole, w.slot), nodeName(fileRole, w.slot))
	return sw, nil
}

// whyNot adds what to do when QEMU will not switch back.
func (w *deal) whyNot(err error) error {
	return errs.E(w.op, errs.Internal, w.d.name, err).
		WithRemedy("if the export does not answer any more, end its process and fail open")
}

// idleRoot returns the node the device had before, if it is still there.
func (w *deal) idleRoot() string {
	if was := w.idle(map[string]bool{"raw": true}); was != "" {
		return was
	}
	return w.idle(protocols)
}

// idle returns a node of somebody else's over the disk's own image that
// nothing lies on.
func (w *deal) idle(drivers map[string]bool) string {
	for name, n := range w.s.nodes {
		if drivers[n.Driver] && !ours(name) && name[:1] != "#" && len(w.s.parents[name]) == 0 &&
			n.Image.Filename != "" && sameFile(n.Image.Filename, w.d.own) && n.Image.Size >= w.d.size {
			return name
		}
	}
	return ""
}

// failOpenRaw puts the device on its own image while the VM stands still. A
// request that waits at the dead export must have ended before QEMU can do
// that. Where errors stop the VM they end at once, and are repeated on the own
// image; elsewhere they would reach the guest, so another server answers them:
// one that does already, or one we start.
func (w *deal) failOpenRaw() (hypervisor.Switch, error) {
	if w.d.own == "" {
		return hypervisor.Switch{}, w.refuse(errs.Conflict, "nothing says where its own image is")
	}
	begin := time.Now()
	route := routeQOM
	if !w.d.stops && w.s.status != "io-error" {
		route = routeStandIn
		if hypervisor.Greeted(w.ctx, w.d.socket) != nil {
			s, err := w.standIn()
			if err != nil {
				return hypervisor.Switch{}, err
			}
			defer s.close()
		}
	}
	if err := w.halt(); err != nil {
		return hypervisor.Switch{}, err
	}
	to := nodeName(rawRole, w.slot)
	if was := w.idleRoot(); was != "" && !w.d.reopened {
		to = was
	}
	err := w.set(to)
	if goOn := w.endHalt(); err == nil {
		err = goOn
	}
	if err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: route}
	w.forget(w.slot)
	return sw, nil
}

// goOn lets a VM run that ran before or waits because of an I/O error.
func (w *deal) goOn() error {
	if w.s.status == "running" || w.s.status == "io-error" {
		return w.run("cont", nil)
	}
	return nil
}
