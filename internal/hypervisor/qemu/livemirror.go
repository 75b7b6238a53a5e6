package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// readServer is QEMU's own NBD server as we started it.
type readServer struct {
	dir    string
	lock   *os.File
	socket string
}

// readID names the export of a disk's content.
func readID(d *liveDisk) string { return nodePrefix + "read." + d.name }

// readSource has QEMU export the disk's node, for reading alone.
func (w *deal) readSource() (hypervisor.Source, error) {
	id := readID(w.d)
	for _, e := range w.s.exports {
		if e.ID == id && w.v.reads != nil {
			return hypervisor.Source{Socket: w.v.reads.socket, Export: w.d.name}, nil
		}
	}
	if err := w.startReads(); err != nil {
		return hypervisor.Source{}, err
	}
	if err := w.run("block-export-add", object{
		"type": "nbd", "id": id, "node-name": w.d.root.Name, "name": w.d.name, "writable": false,
	}); err != nil {
		return hypervisor.Source{}, err
	}
	return hypervisor.Source{Socket: w.v.reads.socket, Export: w.d.name}, nil
}

// startReads starts QEMU's NBD server unless it runs already. One that an
// earlier driver of ours left has no directory any more, and is started anew.
func (w *deal) startReads() error {
	if w.v.reads != nil {
		return nil
	}
	if len(w.s.exports) > 0 {
		for _, e := range w.s.exports {
			if !strings.HasPrefix(e.ID, nodePrefix) {
				return errs.New(w.op, errs.Conflict, w.s.name, "QEMU's NBD server is in use by somebody else").
					WithRemedy("end that export, or use capture mode in-path")
			}
		}
	}
	_ = w.q.execute(w.ctx, "nbd-server-stop", nil, nil) // refused when there is none
	dir, lock, err := privateDir(w.v.p.opt.Dir)
	if err != nil {
		return err
	}
	r := &readServer{dir: dir, lock: lock, socket: filepath.Join(dir, "read")}
	if err := checkSocketPath(r.socket); err == nil {
		err = w.run("nbd-server-start", object{"addr": object{"type": "unix", "data": object{"path": r.socket}}})
		if err == nil {
			w.v.reads = r
			return nil
		}
	} else {
		return err
	}
	removeDir(dir, lock)
	return errs.New(w.op, errs.Conflict, w.s.name, "QEMU's NBD server cannot be started").
		WithRemedy("end what uses it, or use capture mode in-path")
}

// endReadSource ends the disk's export, and with the last one the server.
func (w *deal) endReadSource() {
	rest := 0
	for _, e := range w.s.exports {
		if e.ID == readID(w.d) {
			_ = w.run("block-export-del", object{"id": e.ID, "mode": "hard"}) // it may have ended by itself
		} else {
			rest++
		}
	}
	if r := w.v.reads; r != nil && rest == 0 {
		_ = w.run("nbd-server-stop", nil) // the same
		removeDir(r.dir, r.lock)
		w.v.reads = nil
	}
}

// attachMirror starts a job that writes to the export whatever the guest
// writes, before the guest hears of it. Only that kind is safe: one that
// copies in the background writes old content over new.
func (w *deal) attachMirror() (hypervisor.Switch, error) {
	defer w.commit()()
	job := nodeName(mirrorRole, w.slot)
	begin := time.Now()
	root, err := w.clearRoot()
	if err != nil {
		return hypervisor.Switch{}, err
	}
	err = w.run("blockdev-mirror", object{
		"job-id": job, "device": root, "target": nodeName(nbdRole, w.slot),
		"sync": "none", "copy-mode": "write-blocking",
	})
	if err != nil {
		return hypervisor.Switch{}, err
	}
	pause := time.Since(begin)
	for {
		status, err := w.jobStatus(job)
		switch {
		case err != nil:
			return hypervisor.Switch{}, err
		case status == "ready":
			return hypervisor.Switch{Pause: pause, Route: routeMirror}, nil
		case status == "":
			return hypervisor.Switch{}, w.refuse(errs.Unavailable, "the mirror ended before it was ready: the export refuses writes")
		}
		if err := w.pauseFor(jobPoll); err != nil {
			return hypervisor.Switch{}, err
		}
	}
}

// clearRoot returns a node of the device's for a mirror to stand on. QEMU 7.2
// sometimes keeps the node that a mirror put over the disk when that ended by
// itself, and takes the disk's own for no root from then on: the device then
// gets another one, over it.
func (w *deal) clearRoot() (string, error) {
	buried := slices.ContainsFunc(w.s.parents[w.d.root.Name], func(parent string) bool {
		_, node := w.s.nodes[parent]
		return node
	})
	if !buried {
		return w.d.root.Name, nil
	}
	if !w.d.direct() {
		return "", errs.New(w.op, errs.Unavailable, w.d.name, "a mirror that ended has left its node over the disk").
			WithRemedy("restart the VM, or capture the disk in its path")
	}
	root := nodeName(rawRole, w.slot)
	if err := w.n.add(rawNode(root, w.d.root.Name, w.d), w.d.iothread); err != nil {
		return "", errs.E(w.op, errs.Internal, w.d.name, err)
	}
	return root, w.set(root)
}

// jobStatus is where a job stands; "" when it is gone.
func (w *deal) jobStatus(job string) (string, error) {
	var jobs []struct{ ID, Status string }
	if err := w.q.execute(w.ctx, "query-jobs", nil, &jobs); err != nil {
		return "", err
	}
	for _, j := range jobs {
		if j.ID == job {
			return j.Status, nil
		}
	}
	return "", nil
}

func (w *deal) pauseFor(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-w.ctx.Done():
		return errs.E(w.op, errs.Unavailable, w.d.name, w.ctx.Err())
	}
}

// detachMirror drops the job; the guest stays on its own disk, which has
// everything. The VM stands still meanwhile: a QEMU whose job is dropped while
// the guest's writes are on their way through it may end (7.2 did in one of
// ten).
func (w *deal) detachMirror() (hypervisor.Switch, error) {
	begin := time.Now()
	if err := w.run("stop", nil); err != nil {
		return hypervisor.Switch{}, errors.Join(err, w.goOn())
	}
	err := w.dropJob()
	if err = errors.Join(err, w.goOn()); err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: routeMirror}
	w.n.remove(w.d.export)
	return sw, nil
}

// dropJob cancels the mirror and waits until it is gone.
func (w *deal) dropJob() error {
	err := w.run("block-job-cancel", object{"device": w.d.mirror, "force": true})
	if err != nil && !errs.Is(err, errs.Conflict) { // a job that has just ended is as good
		return err
	}
	for {
		status, err := w.jobStatus(w.d.mirror)
		if err != nil || status == "" {
			return err
		}
		if err := w.pauseFor(jobPoll); err != nil {
			return err
		}
	}
}
