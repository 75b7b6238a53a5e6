package drva

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/replog"
	"holdfast/internal/wire"
)

// event is something for the sequencer. conn and one other field, or do alone.
type event struct {
	conn      *conn
	frame     *order.Frame
	attach    *wire.Hello
	detach    bool
	replayEnd bool
	confirm   *wire.Confirm
	frozen    *wire.FreezeReport
	thawed    *wire.FreezeReport
	do        func(*sequencer)
}

// sequencer drives the core. All fields are owned by its goroutine but where
// it says otherwise.
type sequencer struct {
	s       *Server
	core    *order.Core
	rl      *replog.Log
	out     order.Output
	conns   map[order.ConnID]*conn
	pending []order.Append // have their places, the log has not taken them
	waiting bool           // for room in the log
	paused  bool           // the log is at its quota
	space   chan error     // from the wait for room; room for one
	group   func(func() error)

	load     overload
	nextCut  time.Time
	nextApp  time.Time  // zero: none on schedule
	requests []*request // users' checkpoints not begun
	current  *request   // the one being cut
	settled  []*request // result known, not durable
	shown    time.Time  // of the last status

	flight flights
	moved  chan struct{} // flight moved; written by the log's callback
}

// request is a checkpoint a user asked for.
type request struct {
	tag   string
	kind  dr.CheckpointKind
	id    dr.CheckpointID
	cp    order.Result
	reply chan error // room for one
}

// flights are the appends the log has taken and not made durable.
type flights struct {
	mu    sync.Mutex
	queue []flight
	head  int    // queue[:head] is done with
	last  dr.Seq // durable
}

type flight struct {
	seq    dr.Seq
	buffer *buffer // to be released; nil: none, or a later append ends it
}

func newSequencer(s *Server, core *order.Core, rl *replog.Log, group func(func() error)) *sequencer {
	now := time.Now()
	q := &sequencer{s: s, core: core, rl: rl, conns: map[order.ConnID]*conn{}, group: group,
		space: make(chan error, 1), moved: make(chan struct{}, 1), nextCut: now.Add(s.tuning.Load().Interval)}
	q.load = overload{since: now, in: rate{window: lookWindow}, out: rate{window: lookWindow}}
	if s.tuning.Load().AppInterval > 0 {
		q.nextApp = now.Add(s.tuning.Load().AppInterval)
	}
	if s.isPaused() {
		q.load.order = wire.TrackPausedUser
	}
	return q
}

// run owns the order until ctx ends or the log fails.
func (q *sequencer) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer q.failRequests()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-q.s.events:
			q.handle(&e)
			q.more()
		case <-q.moved:
			q.core.Durable(q.flight.durable())
		case err := <-q.space:
			if err != nil {
				return err
			}
			q.waiting = false
		case now := <-timer.C:
			q.core.Tick(now)
		}
		q.watchLog(time.Now())
		q.cutDue(time.Now())
		if err := q.carryOut(ctx); err != nil {
			return err
		}
		q.answer()
		timer.Reset(q.sleep(time.Now()))
	}
}

// more handles what else has come meanwhile, so that the log gets it in one go.
func (q *sequencer) more() {
	for range maxEvents {
		select {
		case e := <-q.s.events:
			q.handle(&e)
		default:
			return
		}
	}
}

func (q *sequencer) handle(e *event) {
	now := time.Now()
	switch {
	case e.do != nil:
		e.do(q)
	case e.frame != nil:
		q.core.Frame(e.conn.id, e.frame, now)
	case e.attach != nil:
		q.conns[e.conn.id] = e.conn
		q.s.log.Info("host says hello", "host", e.conn.name, "ack", e.attach.Ack, "vms", len(e.attach.VMs))
		q.core.Attach(e.conn.id, e.attach, now)
		q.shown = time.Time{}
	case e.detach:
		delete(q.conns, e.conn.id)
		q.core.Detach(e.conn.id, now)
		q.shown = time.Time{}
	case e.replayEnd:
		q.core.ReplayEnd(e.conn.id, now)
	case e.confirm != nil:
		q.core.Confirm(e.conn.id, *e.confirm, now)
	case e.frozen != nil:
		q.core.Frozen(e.conn.id, *e.frozen, now)
	case e.thawed != nil:
		q.core.Thawed(e.conn.id, *e.thawed, now)
	}
}

// carryOut does what the core wants done.
func (q *sequencer) carryOut(ctx context.Context) error {
	for {
		if err := q.append(ctx); err != nil {
			return err
		}
		q.core.Drain(&q.out)
		o := &q.out
		if len(o.Appends)+len(o.Sends)+len(o.Free)+len(o.Results)+len(o.Events) == 0 {
			return nil
		}
		q.pending = append(q.pending, o.Appends...)
		for _, f := range o.Free {
			f.Owner.(*buffer).release()
		}
		for i := range o.Sends {
			q.send(&o.Sends[i])
		}
		for i := range o.Results {
			q.result(&o.Results[i])
		}
		for _, e := range o.Events {
			q.s.event(e)
		}
	}
}

func (q *sequencer) send(m *order.Send) {
	c := q.conns[m.Conn]
	if c == nil {
		return
	}
	if m.Type == wire.TypeRefuse {
		q.s.log.Warn("a host is refused", "host", c.name, "err", m.Refuse.Message, "remedy", m.Refuse.Remedy)
	}
	if m.Type == wire.TypeWelcome {
		q.greet(c, m)
	}
	if !c.push(m) {
		q.dropSlow(c)
	}
}

func (q *sequencer) dropSlow(c *conn) {
	q.s.log.Warn("a host does not read its answers and is dropped", "host", c.name)
	c.nc.Close()
}

// append hands the log what has its place, as far as there is room. At the
// quota the order stops: hosts are not read any more, notice, and track.
func (q *sequencer) append(ctx context.Context) error {
	for len(q.pending) > 0 && !q.waiting {
		a := &q.pending[0]
		q.flight.push(a)
		err := q.rl.Append(a.Recs, q.onDurable)
		if err == nil {
			q.pending[0] = order.Append{}
			q.pending = q.pending[1:]
			continue
		}
		q.flight.unpush()
		if !errs.Is(err, errs.Full) {
			return errs.E("drva.append", errs.Internal, q.s.cfg.LogDir, err)
		}
		q.waiting = true
		if !errors.Is(err, replog.ErrBusy) && !q.paused {
			q.paused = true
			q.s.log.Error("the replication log has no room, capture stops", "err", err, "remedy", errs.RemedyOf(err))
			q.s.noteError(err)
			q.core.Pause(true, time.Now())
		}
		q.group(func() error {
			err := q.rl.WaitSpace(ctx)
			if ctx.Err() != nil {
				err = nil
			}
			q.space <- err
			return nil
		})
	}
	if len(q.pending) == 0 {
		q.pending = nil // let go of the array that was walked through
		if q.paused {
			q.paused = false
			q.s.log.Info("the replication log has room again, capture goes on")
			q.core.Pause(false, time.Now())
		}
	}
	return nil
}

// onDurable is the log's callback.
func (q *sequencer) onDurable(err error) {
	if b := q.flight.pop(err == nil); b != nil {
		b.release()
	}
	select {
	case q.moved <- struct{}{}:
	default:
	}
}

func (f *flights) push(a *order.Append) {
	x := flight{seq: a.Recs[len(a.Recs)-1].Seq}
	if a.Last {
		x.buffer = a.Frame.Owner.(*buffer)
	}
	f.mu.Lock()
	f.queue = append(f.queue, x)
	f.mu.Unlock()
}

func (f *flights) unpush() {
	f.mu.Lock()
	f.queue = f.queue[:len(f.queue)-1]
	f.mu.Unlock()
}

func (f *flights) pop(durable bool) *buffer {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.queue[f.head]
	f.queue[f.head] = flight{}
	if f.head++; f.head == len(f.queue) || f.head == cap(f.queue)/2 {
		f.queue, f.head = append(f.queue[:0], f.queue[f.head:]...), 0
	}
	if durable {
		f.last = x.seq
	}
	return x.buffer
}

func (f *flights) durable() dr.Seq {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// sleep is how long nothing needs to happen by itself.
func (q *sequencer) sleep(now time.Time) time.Duration {
	d := min(statusEvery, max(0, q.nextCut.Sub(now)))
	if q.load.level > LevelNormal {
		d = min(d, lookEvery)
	}
	if at, ok := q.core.Deadline(); ok {
		d = min(d, max(0, at.Sub(now)))
	}
	return max(d, time.Millisecond)
}
