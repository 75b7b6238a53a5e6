package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// VM is one QEMU process. Besides hypervisor.VM it takes QMP commands.
type VM struct {
	run     run      // immutable, as all up to exited
	dir     string   // the run's private directory; removed at its end
	args    []string // QEMU's arguments; none of an adopted VM
	lock    *os.File // dir's, until launch
	paused  bool     // leave it Paused after the start
	release func()   // frees the VM's place in its provider
	log     *slog.Logger
	life    *hypervisor.Lifecycle
	proc    runner // set by launch or adopt before anybody else sees the VM, as qmp
	qmp     *qmp
	exited  chan struct{} // closed by the VM's goroutine after the final move
	letGone chan struct{} // closed by letGo
	over    sync.Once     // the final move, or letting go: whichever comes first
	killed  atomic.Bool   // somebody wanted the process to be killed
	shots   atomic.Uint64 // screenshots taken
	asking  sync.Mutex    // held while the guest's agent is asked

	fate fate // owned by the goroutine that reads QMP; by watch after that ended
}

// runner is a QEMU process, a child of ours or not.
type runner interface {
	pid() int
	kill() error   // no effect when it has ended
	words() string // the last it said of itself; "" where nobody listened
}

// fate is what QMP told about how the run goes and why it ends.
type fate struct {
	ioError  string // words for the I/O error that is about to pause the VM
	shutdown string // reason of the SHUTDOWN event
}

var _ hypervisor.VM = (*VM)(nil)

// launch starts the process and brings the VM to Running or Paused. On error
// the process is gone.
func (v *VM) launch(ctx context.Context, binary string, dieWithParent bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, errors.New("QEMU did not come up in time"))
	defer cancel()
	proc, conn, err := newProcess(binary, v.args, v.lock, dieWithParent)
	if err != nil {
		v.discard()
		return err
	}
	v.proc, v.qmp = proc, newQMP(conn, v.onEvent)
	started := make(chan error, 1)
	go v.watch(proc, started)
	if err := <-started; err != nil {
		<-v.exited
		return errs.E("qemu.Start", errs.Unavailable, binary, err)
	}
	go v.qmp.run()
	if err := v.bringUp(ctx); err != nil {
		died := errs.Is(err, errs.Unavailable) // by itself, as far as QMP can tell
		v.kill()
		<-v.exited
		return v.startError(err, died)
	}
	return nil
}

// bringUp talks to a fresh QEMU until it is in the state asked for.
func (v *VM) bringUp(ctx context.Context) error {
	if err := v.qmp.negotiate(ctx); err != nil {
		return err
	}
	if v.paused {
		v.life.Move(hypervisor.Paused, "started paused")
		return nil
	}
	if err := v.qmp.execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	_, err := v.life.Await(ctx, func(s hypervisor.State) bool { return s != hypervisor.Starting })
	return err
}

// startError adds QEMU's own words to a failed start.
func (v *VM) startError(err error, died bool) error {
	words := v.proc.words()
	if !died || words == "" {
		return errs.E("qemu.Start", errs.Internal, v.run.Name, err)
	}
	e := errs.New("qemu.Start", errs.Unavailable, v.run.Name, "QEMU ended at once: "+words)
	if strings.Contains(words, `Failed to get`) && strings.Contains(words, `lock`) {
		e.Kind = errs.Conflict
		return e.WithRemedy("another process uses a disk of this VM; end it first")
	}
	return e
}

// discard frees what a run holds besides its process.
func (v *VM) discard() {
	if err := os.RemoveAll(v.dir); err != nil {
		v.log.Warn("run directory not removed", "err", err)
	}
	v.release()
}

// watch starts the process and waits for its end.
func (v *VM) watch(proc *process, started chan<- error) {
	defer close(v.exited)
	up, err := proc.run(started)
	if up {
		<-v.qmp.done // the process's end is the socket's end: its last events are in
	}
	v.conclude(err)
}

// conclude makes the final move, unless somebody else looks after the VM by
// now. The VM's place is free before anybody hears of the end, so that it can
// be started again at once.
func (v *VM) conclude(err error) {
	v.qmp.conn.Close()
	v.over.Do(func() {
		state, reason := v.verdict(err)
		v.discard()
		v.life.Move(state, reason)
		v.log.Info("vm ended", "state", state.String(), "reason", reason)
	})
}

// letGo leaves the VM to whoever adopts it. A goroutine stays with a child, to
// wait for it as a parent must.
func (v *VM) letGo() {
	v.over.Do(func() {
		close(v.letGone)
		v.qmp.conn.Close()
		v.release()
	})
}

// verdict says what kind of end it was.
func (v *VM) verdict(err error) (hypervisor.State, string) {
	switch v.fate.shutdown {
	case "":
	case "guest-panic":
		return hypervisor.Crashed, "the guest panicked"
	case "host-signal": // neither the guest nor we: as on a host that goes down
		return hypervisor.Crashed, "QEMU was told to end by a signal"
	default:
		return hypervisor.Stopped, v.fate.shutdown
	}
	if v.killed.Load() {
		return hypervisor.Stopped, "killed"
	}
	reason := "QEMU ended unexpectedly"
	if err != nil {
		reason = fmt.Sprintf("QEMU ended: %v", err)
	}
	if words := v.proc.words(); words != "" {
		reason += ": " + words
	}
	return hypervisor.Crashed, reason
}

// onEvent takes QMP events, in order, from the goroutine that reads them.
func (v *VM) onEvent(event string, data json.RawMessage) {
	var d struct {
		Reason    string `json:"reason"`
		Node      string `json:"node-name"`
		Device    string `json:"device"`
		Operation string `json:"operation"`
		Action    string `json:"action"`
	}
	// Fields of other events may have other types; those we do not use.
	if err := json.Unmarshal(data, &d); err != nil && len(data) > 0 {
		v.log.Debug("event with unknown fields", "op", event)
	}
	switch event {
	case "RESUME":
		v.fate.ioError = ""
		v.life.Move(hypervisor.Running, "")
	case "STOP":
		reason := v.fate.ioError
		if reason == "" {
			reason = "paused"
		}
		v.life.Move(hypervisor.Paused, reason)
	case "SHUTDOWN":
		v.fate.shutdown = d.Reason
	case "RESET":
		if d.Reason == "guest-reset" {
			v.life.Emit(hypervisor.Event{Kind: hypervisor.GuestReset, Detail: d.Reason})
		}
	case "GUEST_PANICKED":
		v.life.Emit(hypervisor.Event{Kind: hypervisor.GuestPanic})
	case "BLOCK_IO_ERROR":
		disk := v.diskOf(d.Node, d.Device)
		words := fmt.Sprintf("%s error on disk %s: %s", d.Operation, disk, d.Reason)
		if d.Action == "stop" {
			v.fate.ioError = words
		}
		v.life.Emit(hypervisor.Event{Kind: hypervisor.IOError, Disk: disk, Detail: words})
	}
}

// diskOf returns the configured name of the disk QEMU speaks of.
func (v *VM) diskOf(node, device string) string {
	for i, d := range v.run.Disks {
		id := fmt.Sprintf("disk%d", i)
		if node == id || strings.Contains(device+"/", "/"+id+"-dev/") {
			return d.Name
		}
	}
	return node
}
