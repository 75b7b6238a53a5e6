package recovery

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// open opens the container once in this process's life.
func (r *Run) open(ctx context.Context) (*journal.Container, error) {
	if r.container != nil {
		return r.container, nil
	}
	q := r.Record().Request
	c, err := r.s.opts.Open(ctx, q.URL, q.Access)
	if err != nil {
		return nil, err
	}
	d := c.Domain()
	if rec := r.Record(); rec.Domain.IsZero() {
		if err := r.change(func(rec *Record) { rec.Domain, rec.Name = d.ID, d.Name }); err != nil {
			return nil, err
		}
	} else if rec.Domain != d.ID {
		return nil, errs.New("recovery.open", errs.Conflict, q.URL, "the container is another domain's than the one this run recovers").
			WithRemedy("restore the container that was recovered from, or clean the run up with --force")
	}
	r.container = c
	return c, nil
}

// history is the history of the source's timeline as it was read last, or read now
// when this process has not yet.
func (r *Run) history(ctx context.Context) (*journal.History, error) {
	if h := r.past; h != nil && (r.Record().Parent.IsZero() || h.Timeline() == r.Record().Parent) {
		return h, nil
	}
	return r.readHistory(ctx)
}

// readHistory reads the history of the source's timeline as it is now.
func (r *Run) readHistory(ctx context.Context) (*journal.History, error) {
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	rec := r.Record()
	t := rec.Parent
	if t.IsZero() && rec.Request.Timeline != "" {
		id, err := dr.ParseUUID(rec.Request.Timeline)
		if err != nil {
			return nil, errs.E("recovery.choose", errs.Invalid, rec.Request.Timeline, err)
		}
		t = dr.TimelineID{UUID: id}
	}
	r.past, err = c.History(ctx, journal.HistoryOptions{Timeline: t})
	return r.past, err
}

// Recovery path, step 3: choose. The point is found among those of the history
// that can be recovered, and remembered.

// choose picks the point that was asked for.
func (r *Run) choose(ctx context.Context) error {
	h, err := r.readHistory(ctx)
	if err != nil {
		return err
	}
	return r.pick(h, r.Record().Request.At)
}

// Final, as Request.At, is the last checkpoint there is, and an error if that does not
// hold the whole domain: the source is off, and it is to hold all that was written.
const Final = "final"

// pick finds a point of a history and records it.
func (r *Run) pick(h *journal.History, spec string) error {
	if spec == Final {
		all := h.Checkpoints()
		if len(all) == 0 || all[len(all)-1].Scope != dr.Group {
			return notWhole("the history's last one")
		}
		spec = fmt.Sprint(uint64(all[len(all)-1].ID))
	}
	f, err := h.FindAt(spec, r.s.now(), time.Local)
	if err != nil {
		return err
	}
	cp := f.CheckpointInfo
	if !cp.Recoverable {
		return errs.New("recovery.choose", errs.Unavailable, spec, "the checkpoint cannot be recovered: "+cp.Why).
			WithRemedy("choose an earlier checkpoint, or \"latest\"")
	}
	return r.change(func(rec *Record) {
		rec.Parent, rec.Checkpoint, rec.Chosen = h.Timeline(), &cp, f.Words
	})
}

// notWhole is that the last checkpoint lacks something of the domain.
func notWhole(which string) error {
	return errs.New("recovery.choose", errs.Unavailable, which, "the last checkpoint does not cover the whole domain").
		WithRemedy("see the source's status: a host is away; resume when it is back")
}

// label marks what a run makes in the container, so that another life of its
// process finds it.
func (r *Run) label() string { return "recovery " + r.Record().ID.String() }

// pin keeps the point from being deleted while it is read. Where the store lets
// us only read, the retention's grace has to do.
func (r *Run) pin(ctx context.Context) error {
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	rec := r.Record()
	pins, err := c.Pins(ctx)
	if err != nil {
		return err
	}
	for _, p := range pins { // one that was made by a process which died before it wrote so
		if p.Label == r.label() && p.Active(r.s.now()) {
			return r.notePin(p.ID)
		}
	}
	p, err := c.Pin(ctx, r.pinOptions(rec))
	switch errs.KindOf(err) {
	case errs.Denied:
		return r.warn(errs.E("recovery.pin", errs.Denied, rec.Parent.String(), fmt.Errorf("the checkpoint could not be pinned; it is kept while this takes no longer than the retention's grace: %w", err)))
	default:
		if err != nil {
			return err
		}
	}
	return r.notePin(p.ID)
}

func (r *Run) pinOptions(rec *Record) journal.PinOptions {
	return journal.PinOptions{
		Kind: journal.PinRead, Timeline: rec.Parent, Checkpoint: rec.Checkpoint.ID, Label: r.label(), By: rec.Request.By,
		Expires: time.Now().Add(pinSpan),
	}
}

func (r *Run) notePin(id dr.UUID) error {
	for _, have := range r.Record().Pins {
		if have == id {
			return nil
		}
	}
	return r.change(func(rec *Record) { rec.Pins = append(rec.Pins, id) })
}

// renew holds the point for another span: the new pin stands before the old one
// goes. Nothing to do without one.
func (r *Run) renew(ctx context.Context) error {
	rec := r.Record()
	if len(rec.Pins) == 0 {
		return nil
	}
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	p, err := c.Pin(ctx, r.pinOptions(rec))
	if err != nil {
		return err
	}
	old := rec.Pins
	if err := r.change(func(rec *Record) { rec.Pins = []dr.UUID{p.ID} }); err != nil {
		return err
	}
	for _, id := range old {
		if err := c.Unpin(ctx, id, rec.Request.By); err != nil {
			return err
		}
	}
	return nil
}

// unpin releases every pin of the run, also one that no record tells of.
func (r *Run) unpin(ctx context.Context) error {
	rec := r.Record()
	if rec.Parent.IsZero() {
		return nil // nothing was read yet
	}
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	pins, err := c.Pins(ctx)
	if err != nil {
		return err
	}
	for _, p := range pins {
		if p.Label == r.label() && !p.Released {
			if err := c.Unpin(ctx, p.ID, rec.Request.By); err != nil {
				return err
			}
		}
	}
	return r.change(func(rec *Record) { rec.Pins = nil })
}

// unpinWhole is unpin of a run that reads no more; while disks are filled the
// point is held until they are whole.
func (r *Run) unpinWhole(ctx context.Context) error {
	if !r.Record().Hydrated {
		return nil
	}
	return r.unpin(ctx)
}

// Recovery path, step 4: fence. The source's timeline gets an epoch above all
// that publish there, and ends with a FENCE.

// fence shuts everybody out who publishes the source's timeline.
func (r *Run) fence(ctx context.Context) error {
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	rec := r.Record()
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{Timeline: rec.Parent, Host: r.label(), Logger: r.s.log})
	if errs.Is(err, errs.Corrupt) {
		// The epoch is claimed before the history is read: a zombie that looks
		// for it stops. What was published can be recovered as far as it goes.
		return r.warn(errs.E("recovery.fence", errs.Corrupt, rec.Parent.String(), fmt.Errorf("the history's end is damaged: its publisher was told to stop, and no fence closes it: %w", err)))
	}
	if err != nil {
		return err
	}
	epoch := p.Epoch()
	if err := p.Close(); err != nil && !errs.Is(err, errs.Canceled) {
		return err
	}
	return r.change(func(rec *Record) { rec.Fence = epoch })
}

// settlePoint chooses again, now that nothing is published any more: between the
// first choice and the fence the source may have published newer points. A
// planned migration's point is the one it was ended with.
func (r *Run) settlePoint(ctx context.Context) error {
	h, err := r.readHistory(ctx)
	if err != nil {
		return err
	}
	rec := r.Record()
	spec := rec.Request.At
	if has(rec.Operation, Unwind) {
		spec = fmt.Sprint(uint64(rec.Checkpoint.ID))
	}
	return r.pick(h, spec)
}

// fork begins the timeline that the domain goes on with.
func (r *Run) fork(ctx context.Context) error {
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	rec := r.Record()
	id, err := r.findFork(ctx, c)
	if err == nil && id.IsZero() {
		id, err = c.Fork(ctx, journal.ForkOptions{Parent: rec.Parent, Checkpoint: rec.Checkpoint.ID, Label: r.label(), By: rec.Request.By})
	}
	if err != nil {
		return err
	}
	return r.change(func(rec *Record) { rec.Fork = id })
}

// findFork finds a fork of this run that was not dropped, whether the record
// tells of it or not.
func (r *Run) findFork(ctx context.Context, c *journal.Container) (dr.TimelineID, error) {
	all, err := c.Timelines(ctx)
	if err != nil {
		return dr.TimelineID{}, err
	}
	for _, t := range all {
		if t.Label == r.label() && t.Dropped == nil {
			return t.ID, nil
		}
	}
	return dr.TimelineID{}, nil
}

// drop gives the run's fork up: the source's timeline is the current one again.
func (r *Run) drop(ctx context.Context) error {
	rec := r.Record()
	if rec.Committed || !has(rec.Operation, Rollback) {
		return r.forget(false)
	}
	if rec.Parent.IsZero() {
		return r.forget(true)
	}
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	for { // a second life may have made one beside that of the first
		id, err := r.findFork(ctx, c)
		if err != nil {
			return err
		}
		if id.IsZero() {
			return r.forget(true)
		}
		if err := c.DropTimeline(ctx, id, rec.Request.By); err != nil {
			return err
		}
	}
}

// forget removes from the record what does not exist any more.
func (r *Run) forget(point bool) error {
	return r.change(func(rec *Record) {
		rec.Fork = dr.TimelineID{}
		if point {
			rec.Checkpoint, rec.Chosen, rec.Fence = nil, "", 0
		}
	})
}

// superseded sees to it that a committed run's VMs are not the domain any more.
func (r *Run) superseded(ctx context.Context) error {
	rec := r.Record()
	if !rec.Committed {
		return nil
	}
	current, err := r.isCurrent(ctx)
	if err == nil && current {
		err = errs.New("recovery.Cleanup", errs.Conflict, r.dir, "these VMs are the domain "+rec.Name+": nothing newer exists").
			WithRemedy("move the domain elsewhere first (failback), then repeat")
	}
	return err
}

// brief names a run's point for people.
func brief(cp *journal.CheckpointInfo) string {
	if cp == nil {
		return "no point chosen"
	}
	return strings.TrimSpace(fmt.Sprintf("checkpoint %d of %s %s", cp.ID, cp.Time.UTC().Format("2006-01-02T15:04:05.000Z"), cp.Tag))
}
