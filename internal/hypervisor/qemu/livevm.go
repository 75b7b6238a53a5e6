package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// LiveVM is a QEMU that somebody else started. Safe for concurrent use.
type LiveVM struct {
	p       *Platform // immutable, as the next three
	monitor Monitor
	news    chan event // written by the reader of QMP, read by keep
	agent   *agent

	// turn holds one token: the right to change the VM or to look at all of it.
	turn    chan struct{}
	devices map[string]deviceFacts  // guarded by turn; what never changes of a device, by qom path
	cards   map[string]*dr.NIC      // guarded by turn; by qom path; nil: no network card
	servers map[string]*imageServer // guarded by turn; by disk
	reads   *readServer             // guarded by turn; nil: none
	halting bool                    // guarded by turn; the VM stands still because of us

	stalled bool // owned by watch: it was told that the VM waits because of an I/O error

	mu     sync.Mutex
	q      *qmp              // guarded by mu; nil: not connected
	last   hypervisor.VMInfo // guarded by mu; what was seen last
	status string            // guarded by mu; QEMU's word for the VM's state then
	known  []deviceFacts     // guarded by mu; devices as seen last
}

// event is what QEMU said of itself.
type event struct {
	name string
	data json.RawMessage
}

func newLiveVM(p *Platform, m Monitor) *LiveVM {
	v := &LiveVM{
		p: p, monitor: m, news: make(chan event, maxNews), turn: make(chan struct{}, 1),
		servers: map[string]*imageServer{},
	}
	v.agent = newAgent(m.Agent)
	v.turn <- struct{}{}
	return v
}

func (v *LiveVM) identity() (string, dr.VMID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last.Config.Name, v.last.Config.ID
}

func (v *LiveVM) name() string {
	name, _ := v.identity()
	return name
}

// connection returns the client of the QEMU that is there now.
func (v *LiveVM) connection(op string) (*qmp, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.q == nil {
		return nil, errs.New(op, errs.Unavailable, v.monitor.QMP, "QEMU does not answer on its QMP socket")
	}
	return v.q, nil
}

// take waits for the VM's turn; the caller gives the token back.
func (v *LiveVM) take(ctx context.Context, op string) (release func(), err error) {
	if err := v.p.usable(ctx, op); err != nil {
		return nil, err
	}
	select {
	case <-v.turn:
		return func() { v.turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, errs.E(op, errs.Canceled, v.name(), context.Cause(ctx))
	}
}

// Info looks at the VM.
func (v *LiveVM) Info(ctx context.Context) (hypervisor.VMInfo, error) {
	const op = "qemu.Info"
	release, err := v.take(ctx, op)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	defer release()
	info, err := v.look(ctx)
	if errs.Is(err, errs.Unavailable) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.q == nil && v.last.Config.Name != "" {
			return v.last, nil // it ended: Running is false
		}
	}
	return info, err
}

// look asks QEMU for everything and remembers it. The caller has the turn.
func (v *LiveVM) look(ctx context.Context) (hypervisor.VMInfo, error) {
	q, err := v.connection("qemu.Info")
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	s, err := v.scan(ctx, q)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	info := s.info()
	info.Agent = v.agent.answeredLately()
	v.mu.Lock()
	v.last, v.status = info, s.status
	v.mu.Unlock()
	return copied(info), nil
}

// copied makes slices the caller's own.
func copied(i hypervisor.VMInfo) hypervisor.VMInfo {
	i.Config.Disks, i.Config.NICs = slices.Clone(i.Config.Disks), slices.Clone(i.Config.NICs)
	i.Disks = slices.Clone(i.Disks)
	return i
}

// keep holds the connection until ctx ends. tried is called once.
func (v *LiveVM) keep(ctx context.Context, tried func()) {
	once := sync.OnceFunc(tried)
	defer once()
	for ctx.Err() == nil {
		if q, err := v.connect(ctx); err == nil {
			once()
			v.watch(ctx, q)
			q.conn.Close()
			<-q.done
			v.disconnected(ctx)
		}
		once()
		select {
		case <-ctx.Done():
		case <-time.After(reconnectEvery):
		}
	}
}

// connect greets a QEMU and learns who it is.
func (v *LiveVM) connect(ctx context.Context) (*qmp, error) {
	limited, cancel := context.WithTimeoutCause(ctx, commandLimit, errors.New("QEMU did not greet in time"))
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(limited, "unix", v.monitor.QMP)
	if err != nil {
		return nil, err
	}
	q := newQMP(conn, func(name string, data json.RawMessage) {
		select {
		case v.news <- event{name, slices.Clone(data)}:
		default: // watch finds out by looking
		}
	})
	go q.run()
	if err := v.adopt(limited, q); err != nil {
		v.p.log.Warn("qmp socket answered and is of no use", "path", v.monitor.QMP, "err", err)
		v.mu.Lock()
		v.q = nil
		v.mu.Unlock()
		conn.Close()
		<-q.done
		return nil, err
	}
	return q, nil
}

// adopt makes q the VM's connection and tells of it.
func (v *LiveVM) adopt(ctx context.Context, q *qmp) error {
	if err := q.negotiate(ctx); err != nil {
		return err
	}
	release, err := v.take(ctx, "qemu.Info")
	if err != nil {
		return err
	}
	defer release()
	v.mu.Lock()
	v.q = q
	before := v.last
	v.mu.Unlock()
	v.devices, v.cards = map[string]deviceFacts{}, map[string]*dr.NIC{}
	info, err := v.look(ctx)
	if err != nil {
		return err
	}
	kind := hypervisor.ChangedState
	if before.Config.Name == "" {
		v.p.running.Go(v.agent.rescue)
	}
	if before.Config.ID != info.Config.ID {
		kind = hypervisor.VMAppeared
	}
	v.tell(kind, "", "QEMU answers")
	return nil
}

// disconnected notes that QEMU is gone, unless it is we who left.
func (v *LiveVM) disconnected(ctx context.Context) {
	v.mu.Lock()
	v.q = nil
	v.last.Running = false
	for i := range v.last.Disks {
		v.last.Disks[i].Attached, v.last.Disks[i].Socket = false, ""
	}
	v.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	v.tell(hypervisor.ChangedState, "", "QEMU ended")
	<-v.turn // what served its disks has nothing to do any more
	v.endServers()
	if v.reads != nil {
		removeDir(v.reads.dir, v.reads.lock)
		v.reads = nil
	}
	v.turn <- struct{}{}
}

// endServers ends the VM's storage daemons. The caller has the turn.
func (v *LiveVM) endServers() {
	for disk, s := range v.servers {
		s.close()
		delete(v.servers, disk)
	}
}

// close frees what the driver itself holds of the VM.
func (v *LiveVM) close() {
	<-v.turn
	v.endServers()
	if v.reads != nil {
		removeDir(v.reads.dir, v.reads.lock)
		v.reads = nil
	}
	v.turn <- struct{}{}
	v.agent.close()
}

func (v *LiveVM) tell(kind hypervisor.ChangeKind, disk, detail string) {
	name, id := v.identity()
	v.p.changes.Put(hypervisor.Change{Kind: kind, VM: id, Name: name, Disk: disk, Detail: detail})
}
