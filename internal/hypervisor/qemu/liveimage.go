package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// imageExport is the name of the export of a storage daemon.
const imageExport = "disk"

// imageServer is a qemu-storage-daemon that opens one disk image and exports
// its content over NBD. The kernel tells it to end when this process ends in
// whatever way; it then closes the image in good order. Every write is durable
// before it is answered: what a killed daemon held in its caches was lost
// otherwise, and the guest runs on. Not safe for concurrent use.
type imageServer struct {
	dir    string
	lock   *os.File // of dir
	socket string   // where it listens
	proc   *process
	q      *qmp
	ended  chan struct{} // closed when the process is gone
	open   bool          // it has the image open
}

// newImageServer starts a daemon that has no image open and listens on socket,
// or, when that is empty, in a private directory.
func newImageServer(ctx context.Context, in, socket string) (*imageServer, error) {
	binary, err := lookStorageDaemon()
	if err != nil {
		return nil, err
	}
	s := &imageServer{ended: make(chan struct{})}
	if s.dir, s.lock, err = privateDir(in); err != nil {
		return nil, err
	}
	if s.socket = socket; socket == "" {
		s.socket = filepath.Join(s.dir, "nbd")
	}
	if err := s.start(ctx, binary); err != nil {
		s.close()
		return nil, errs.E("qemu.Prepare", errs.Unavailable, storageDaemon, err)
	}
	return s, nil
}

func (s *imageServer) start(ctx context.Context, binary string) error {
	if err := checkSocketPath(s.socket); err != nil {
		close(s.ended)
		return err
	}
	proc, conn, err := newProcess(binary, []string{
		"--chardev", "socket,id=qmp,fd=3", "--monitor", "chardev=qmp,mode=control",
	}, nil, true)
	if err != nil {
		close(s.ended)
		return err
	}
	proc.cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM // in good order: it has caches
	s.proc, s.q = proc, newQMP(conn, func(string, json.RawMessage) {})
	started := make(chan error, 1)
	go func() {
		defer close(s.ended)
		_, _ = proc.run(started) // how it ended is told by what it leaves undone
		conn.Close()
	}()
	if err := <-started; err != nil {
		s.proc = nil
		return err
	}
	go s.q.run()
	if err := s.q.negotiate(ctx); err != nil {
		return err
	}
	return s.q.execute(ctx, "nbd-server-start", object{"addr": object{"type": "unix", "data": object{"path": s.socket}}}, nil)
}

// serve opens the image and exports it under name.
func (s *imageServer) serve(ctx context.Context, d *liveDisk, format, name string, direct bool) error {
	driver := "file"
	if fi, err := os.Stat(d.own); err == nil && fi.Mode()&os.ModeDevice != 0 {
		driver = "host_device"
	}
	cache := object{"direct": direct, "no-flush": false}
	// A raw image caches nothing, and QEMU opens it before the daemon, which has
	// no request any more, lets go: the lock would be in the way.
	locking := "auto"
	if format == "raw" {
		locking = "off"
	}
	err := s.q.execute(ctx, "blockdev-add", object{
		"driver": format, "node-name": "image", "discard": "unmap", "cache": cache,
		"file": object{"driver": driver, "filename": d.own, "discard": "unmap", "cache": cache, "locking": locking},
	}, nil)
	if err != nil {
		return err
	}
	s.open = true
	err = s.q.execute(ctx, "block-export-add", object{
		"type": "nbd", "id": "disk", "node-name": "image", "name": name, "writable": true, "writethrough": true,
	}, nil)
	if err != nil {
		return errors.Join(err, s.release(ctx))
	}
	return nil
}

// release closes the image; nobody is served any more.
func (s *imageServer) release(ctx context.Context) error {
	if !s.open {
		return nil
	}
	// Clients that are still there are cut off; the node is free once the last
	// of them is gone.
	_ = s.q.execute(ctx, "block-export-del", object{"id": "disk", "mode": "hard"}, nil)
	for {
		err := s.q.execute(ctx, "blockdev-del", object{"node-name": "image"}, nil)
		if err == nil {
			s.open = false
			return nil
		}
		if !errs.Is(err, errs.Conflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return errs.E("qemu.imageServer", errs.Canceled, "", context.Cause(ctx))
		case <-time.After(jobPoll):
		}
	}
}

// alive reports whether the daemon runs.
func (s *imageServer) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// close ends the daemon, in good order if it lets itself be, and removes what
// it had.
func (s *imageServer) close() {
	if s.proc != nil && s.alive() {
		_ = s.proc.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
		select {
		case <-s.ended:
		case <-time.After(daemonLimit):
			_ = s.proc.kill() // the same
			<-s.ended
		}
	}
	removeDir(s.dir, s.lock)
}

// imageServer returns the disk's storage daemon, which is started if need be.
func (w *deal) imageServer() (*imageServer, error) {
	if s := w.v.servers[w.d.name]; s != nil {
		if s.alive() {
			return s, nil
		}
		s.close()
		delete(w.v.servers, w.d.name)
	}
	s, err := newImageServer(w.ctx, w.v.p.opt.Dir, "")
	if err != nil {
		return nil, err
	}
	w.v.servers[w.d.name] = s
	return s, nil
}

// attachImage hands the image to the storage daemon while the VM stands still:
// QEMU closes it in good order, with all its caches, before the daemon opens
// it. The image's own lock would refuse anything else.
func (w *deal) attachImage() (hypervisor.Switch, error) {
	defer w.commit()()
	server := w.v.servers[w.d.name]
	if server == nil || !server.alive() {
		return hypervisor.Switch{}, w.refuse(errs.Conflict, "is not raw, and was not prepared")
	}
	mark := nodeName(imageRole+w.d.kind, w.slot)
	if len(mark) > maxNodeName {
		return hypervisor.Switch{}, w.refuse(errs.Invalid, "format "+w.d.kind+" is not known")
	}
	if err := w.n.add(fileNode(mark, w.d, w.d.base), ""); err != nil {
		return hypervisor.Switch{}, errs.E(w.op, errs.Internal, w.d.own, err)
	}
	w.endReadSource() // which would keep the image open
	begin := time.Now()
	if err := w.run("stop", nil); err != nil {
		return hypervisor.Switch{}, errors.Join(err, w.goOn())
	}
	if err := w.set(nodeName(nbdRole, w.slot)); err != nil {
		return hypervisor.Switch{}, errors.Join(err, w.goOn())
	}
	w.n.remove(w.d.root.Name)
	err := server.serve(w.ctx, w.d, w.d.kind, imageExport, w.d.base.Cache.Direct)
	if err != nil {
		err = errs.E(w.op, errs.Internal, w.d.own, err)
		if back := errors.Join(w.releaseImage(server), w.takeBack()); back != nil {
			w.n.added = nil // what fail-open goes by must stay
			return hypervisor.Switch{}, errs.E(w.op, errs.Internal, w.d.own, errors.Join(err, back)).
				WithRemedy("the VM is paused, since nobody has its image open: fail open, then resume it")
		}
		return hypervisor.Switch{}, errors.Join(err, w.goOn())
	}
	if err := w.goOn(); err != nil {
		return hypervisor.Switch{}, err
	}
	return hypervisor.Switch{Pause: time.Since(begin), Route: routeImage}, nil
}

// takeBack puts a device whose VM stands still on its own image again, which
// nobody else has open any more. It leaves the export's node to its caller.
func (w *deal) takeBack() error {
	if _, there := w.s.nodes[w.d.root.Name]; there && w.d.root.Driver != "nbd" && w.set(w.d.root.Name) == nil {
		return nil // QEMU had not let go of it
	}
	own := nodeName(ownRole, w.slot)
	// The file is opened anew: a node that was open while the daemon made the
	// image longer reads zeroes where its end was.
	file := fileNode("", w.d, w.s.nodes[nodeName(imageRole+w.d.kind, w.slot)])
	delete(file, "node-name")
	if w.d.base.Driver != "nbd" { // not attached before: the mark is newer than the scan
		file["cache"] = object{"direct": w.d.base.Cache.Direct, "no-flush": w.d.base.Cache.NoFlush}
	}
	err := w.q.execute(w.ctx, "blockdev-add", object{
		"driver": w.d.kind, "node-name": own, "file": file, "discard": "unmap",
		"detect-zeroes": cmp.Or(w.d.root.Zeroes, "off"), "cache": file["cache"],
	}, nil)
	if err == nil && w.d.iothread != "" {
		err = w.q.execute(w.ctx, "x-blockdev-set-iothread", object{"node-name": own, "iothread": filepath.Base(w.d.iothread)}, nil)
	}
	if err == nil {
		err = w.set(own)
	}
	if err != nil {
		w.n.remove(own)
		return errs.E(w.op, errs.Internal, w.d.own, err)
	}
	return nil
}

// detachImage takes the image back from the storage daemon. dead: the export
// in front of it does not answer any more.
func (w *deal) detachImage(dead bool) (hypervisor.Switch, error) {
	if w.d.own == "" {
		return hypervisor.Switch{}, w.refuse(errs.Conflict, "nothing says where its own image is")
	}
	begin := time.Now()
	server := w.v.servers[w.d.name]
	route := routeImage
	if dead && !w.d.stops && w.s.status != "io-error" {
		route = routeStandIn
		if server != nil { // another one opens the image in the export's place
			server.close()
			delete(w.v.servers, w.d.name)
		}
		s, err := w.standIn()
		if err != nil {
			return hypervisor.Switch{}, err
		}
		defer s.close()
		server = s
	}
	if err := w.run("stop", nil); err != nil {
		return hypervisor.Switch{}, errors.Join(err, w.goOn())
	}
	if err := w.releaseImage(server); err != nil {
		return hypervisor.Switch{}, errors.Join(err, w.goOn())
	}
	if err := w.takeBack(); err != nil {
		return hypervisor.Switch{}, errors.Join(err, w.serveAgain(server), w.goOn())
	}
	if err := w.goOn(); err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: route}
	if dead {
		w.cut(w.d.export)
	}
	w.n.remove(w.d.export, nodeName(imageRole+w.d.kind, w.slot))
	return sw, nil
}

// releaseImage has the storage daemon close the image. One that died has; what
// it acknowledged is in the image.
func (w *deal) releaseImage(server *imageServer) error {
	if server == nil || !server.alive() {
		return nil
	}
	err := server.release(w.ctx)
	if errs.Is(err, errs.Unavailable) { // it does not answer: make sure that it is gone
		_ = server.proc.kill() // it may just have ended
		<-server.ended
		return nil
	}
	if err != nil {
		return errs.E(w.op, errs.Internal, w.d.own, err)
	}
	return nil
}

// serveAgain gives the image back to the storage daemon after a detach failed.
func (w *deal) serveAgain(server *imageServer) error {
	if server == nil || !server.alive() {
		return nil
	}
	return server.serve(w.ctx, w.d, w.d.kind, imageExport, w.d.base.Cache.Direct)
}

// standIn answers in the place of a dead export until QEMU has no request
// waiting there any more.
func (w *deal) standIn() (*imageServer, error) {
	s, err := newImageServer(w.ctx, w.v.p.opt.Dir, w.d.socket)
	if err != nil {
		return nil, err
	}
	if err := s.serve(w.ctx, w.d, w.d.kind, exportOf(w.s.nodes[w.d.export]), w.d.base.Cache.Direct); err != nil {
		s.close()
		return nil, errs.E(w.op, errs.Internal, w.d.own, err)
	}
	return s, nil
}
