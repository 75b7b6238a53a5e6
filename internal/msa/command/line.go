package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/runs"
)

// line is the commands a box has, in the order in which they came. One begins when those
// before it that it could meet have ended, and there is room.
type line struct {
	ctx     context.Context // of the agent
	handler Handler
	fence   *fence
	changed func()                // something is to be told
	meets   func(a, b *held) bool // whether two must not go on at once; a test takes that away

	mu   sync.Mutex
	all  []*held // guarded by mu, and what they hold
	wg   sync.WaitGroup
	over bool // no more begin
}

// stage is where a command in the line is.
type stage int

const (
	ready    stage = iota // it may begin, or go on, when there is room
	active                // its handler has it
	sleeping              // between two looks at a job
	settled               // the outcome is to be told
)

// held is a command in the line.
type held struct {
	c         Command
	stage     stage
	cancelled bool
	deadline  time.Time // zero: none
	cancel    context.CancelCauseFunc
	timer     *time.Timer
	call      *runs.Call
	outcome   Outcome
	seen      Progress // what the manager was told last
}

// meet reports whether two commands must not go on at once.
func meet(h, o *held) bool {
	switch {
	case h.c.Question() || o.c.Question():
		return false
	case h.c.Key == o.c.Key && h.c.Origin == o.c.Origin:
		return true
	}
	return h.c.Domain != "" && h.c.Domain == o.c.Domain && (h.c.VM == o.c.VM || h.c.VM.IsZero() || o.c.VM.IsZero())
}

// holds says which commands there are.
func (l *line) holds() (list []Held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.all {
		list = append(list, Held{h.c.ID, h.c.Epoch, h.cancelled})
	}
	return list
}

func (l *line) find(id string) *held {
	i := slices.IndexFunc(l.all, func(h *held) bool { return h.c.ID == id })
	if i < 0 {
		return nil
	}
	return l.all[i]
}

// take takes what the manager has said of commands.
func (l *line) take(r *Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := map[planKey]int64{}
	note := func(c *Command, epoch int64) {
		if k := keyOf(c); !c.Question() {
			newest[k] = max(newest[k], epoch)
		}
	}
	for id, epoch := range r.Epochs {
		if h := l.find(id); h != nil {
			note(&h.c, epoch)
		}
	}
	for i := range r.Commands {
		note(&r.Commands[i], r.Commands[i].Epoch)
	}
	// Durable before anything is done under it: a life after this one refuses who is older.
	serr := l.fence.see(newest)
	for id, epoch := range r.Epochs {
		if h := l.find(id); h != nil && serr == nil {
			h.c.Epoch = max(h.c.Epoch, epoch)
		}
	}
	for _, id := range r.Cancelled {
		if h := l.find(id); h != nil {
			l.drop(h, errCancelled)
		}
	}
	for _, id := range r.Gone {
		if h := l.find(id); h != nil {
			l.drop(h, errCancelled)
			if h.stage == settled {
				l.remove(h)
			}
		}
	}
	for i := range r.Commands {
		l.add(&r.Commands[i], r.At, serr)
	}
	l.dispatch()
}

// add puts a command into the line.
func (l *line) add(c *Command, now int64, err error) {
	if l.find(c.ID) != nil || len(l.all) >= 2*maxHeld {
		return
	}
	h := &held{c: *c}
	if c.Deadline > 0 {
		h.deadline = time.Now().Add(time.Duration(c.Deadline-now) * time.Millisecond)
	}
	h.call = runs.NewCall(func(ctx context.Context) error { return l.hold(ctx, h) })
	h.call.Run, h.call.Seq, h.call.Epoch, h.call.Attempt = c.Run, c.Seq, c.Epoch, c.Attempt
	h.call.Key, h.call.Input, h.call.Memory = c.StepKey, c.Input, c.Memory
	h.call.Undoes, h.call.UndoesMemory = c.Undoes, c.UndoesMemory
	h.call.Step = runs.Step{Name: c.Step, Kind: c.Kind, Input: c.Input, Timeout: c.Timeout, OnError: c.OnError}
	l.all = append(l.all, h)
	if err != nil {
		h.end(Fail(errs.E("command.Agent", errs.Transient, c.Key, err)))
		l.changed()
	}
}

// drop stops a command: it ends at once unless its handler has it, which is told.
func (l *line) drop(h *held, why error) {
	h.cancelled = true
	switch h.stage {
	case settled:
	case active:
		h.cancel(why)
	default:
		h.end(Fail(why))
		l.changed()
	}
}

func (h *held) end(o Outcome) {
	if h.timer != nil {
		h.timer.Stop()
	}
	h.stage, h.outcome = settled, o
}

func (l *line) remove(h *held) {
	l.all = slices.DeleteFunc(l.all, func(o *held) bool { return o == h })
}

// abandon stops everything, and forgets it: it is another box's.
func (l *line) abandon(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range slices.Clone(l.all) {
		l.drop(h, why)
		if h.stage == settled {
			l.remove(h)
		}
	}
}

// hold is the Hold of a command's call.
func (l *line) hold(ctx context.Context, h *held) error {
	if ctx.Err() != nil {
		return errs.E("command.Hold", errs.Canceled, h.c.Key, context.Cause(ctx))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.may(h)
}

// may refuses a command that nobody wants, or whose manager was followed by another.
func (l *line) may(h *held) error {
	switch {
	case h.cancelled:
		return errCancelled
	case h.c.Epoch < l.fence.newest(keyOf(&h.c)):
		return errs.New("command.Hold", errs.Fenced, string(h.c.Plan), "a newer owner has acted for the plan")
	}
	return nil
}

// dispatch begins what can begin.
func (l *line) dispatch() {
	if l.over || l.ctx.Err() != nil {
		l.over = true
		return
	}
	busy, asking := 0, 0
	for _, h := range l.all {
		if h.stage == active && h.c.Question() {
			asking++
		} else if h.stage == active {
			busy++
		}
	}
	for i, h := range l.all {
		if h.stage != ready || slices.ContainsFunc(l.all[:i], func(o *held) bool { return o.stage != settled && l.meets(o, h) }) {
			continue
		}
		count := &busy
		if h.c.Question() {
			count = &asking
		}
		if *count >= atOnce {
			continue
		}
		if err := l.begins(h); err != nil {
			h.end(Fail(err))
			l.changed()
			continue
		}
		*count++
		l.begin(h)
	}
}

// begins refuses what is not to be begun any more.
func (l *line) begins(h *held) error {
	if !h.deadline.IsZero() && time.Now().After(h.deadline) {
		return errCancelled
	}
	if l.handler == nil {
		return errs.New("command.Agent", errs.Invalid, h.c.Kind, "this box does nothing for plans").WithRemedy("see the roles of the site's appliances")
	}
	return l.may(h)
}

// begin has the handler do a command, in a goroutine of its own.
func (l *line) begin(h *held) {
	ctx, cancel := context.WithCancelCause(l.ctx)
	stop := context.CancelFunc(func() {})
	if h.c.Timeout > 0 {
		ctx, stop = context.WithTimeoutCause(ctx, h.c.Timeout, errOvertime)
	}
	if !h.deadline.IsZero() {
		var late context.CancelFunc
		ctx, late = context.WithDeadlineCause(ctx, h.deadline, errCancelled)
		before := stop
		stop = func() { late(); before() }
	}
	h.stage, h.cancel = active, cancel
	c := h.c
	l.wg.Go(func() {
		o := l.do(ctx, &c, h)
		err := context.Cause(ctx)
		stop()
		cancel(nil)
		l.ended(h, o, err)
	})
}

// errOvertime is why a call of a handler is interrupted that lasts.
var errOvertime = errs.New("command.Agent", errs.Unavailable, "", "the step did not end in time")

// do calls the handler. A panic is that command's failure.
func (l *line) do(ctx context.Context, c *Command, h *held) (o Outcome) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(h.call.Output(), "\npanic: %v\n%s", p, debug.Stack())
			o = Fail(errs.New("command.Agent", errs.Internal, c.Step, fmt.Sprintf("panic: %v", p)))
		}
	}()
	return l.handler.Do(ctx, c, h.call)
}

// asksAgain reports whether a guest that is not up is asked again, as long as somebody
// waits for the answer.
func (h *held) asksAgain(o *Outcome) bool {
	return (h.c.Kind == AgentUp || h.c.Kind == PortUp) && !o.Answer && o.Failure == nil && !h.deadline.IsZero() && time.Until(h.deadline) > answerFor/4+askAgain
}

// ended takes what a handler returned, and why it was interrupted, if it was.
func (l *line) ended(h *held, o Outcome, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.dispatch()
	if l.ctx.Err() != nil { // the agent ends: the next life does it again
		l.remove(h)
		return
	}
	h.cancel = nil
	if h.asksAgain(&o) {
		o.Again = askAgain
	}
	if o.Again > 0 && o.Failure == nil && !h.cancelled {
		h.stage = sleeping
		h.call.Memory, h.c.Memory = o.Memory, o.Memory // between two calls nobody else has them
		h.timer = time.AfterFunc(max(o.Again, againLeast), func() { l.awake(h) })
		return
	}
	if o.Again > 0 && o.Failure == nil {
		o = Fail(errCancelled)
	}
	var why *errs.Error
	if o.Failure != nil && errors.As(cause, &why) { // why it was interrupted decides whether it is tried again
		o.Failure.Kind = why.Kind.String()
	}
	said := h.call.Said()
	o.Warnings = append(o.Warnings, said.Warnings...)
	if o.Output == "" {
		o.Output = said.Output
	}
	o.Again = 0
	h.end(o)
	l.changed()
}

func (l *line) awake(h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.stage == sleeping {
		h.stage = ready
		l.dispatch()
	}
}

// progress is how far a command is.
func (h *held) progress() Progress {
	said := h.call.Said()
	return Progress{said.Done, said.Total, said.Output, h.c.Memory}
}

func (p Progress) equal(o Progress) bool {
	return p.Done == o.Done && p.Total == o.Total && p.Output == o.Output && bytes.Equal(p.Memory, o.Memory)
}

// tales are what the manager is to be told: outcomes first.
func (l *line) tales(most int) (list []Tale) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.all {
		if h.stage == settled && len(list) < most {
			list = append(list, Tale{ID: h.c.ID, Done: true, Progress: h.progress(), Outcome: h.outcome})
		}
	}
	for _, h := range l.all {
		if h.stage == settled || h.c.Question() || len(list) >= most {
			continue
		}
		if p := h.progress(); !p.equal(h.seen) {
			list = append(list, Tale{ID: h.c.ID, Progress: p})
		}
	}
	return list
}

// told notes that the manager has taken tales.
func (l *line) told(list []Tale) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range list {
		h := l.find(t.ID)
		switch {
		case h == nil:
		case t.Done:
			l.remove(h)
		default:
			h.seen = t.Progress
		}
	}
}

// wait waits until all handlers have returned.
func (l *line) wait() {
	l.mu.Lock()
	l.over = true
	for _, h := range l.all {
		if h.timer != nil {
			h.timer.Stop()
		}
	}
	l.mu.Unlock()
	l.wg.Wait()
}
