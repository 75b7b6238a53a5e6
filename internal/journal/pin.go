package journal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// PinKind says what a pin is for.
type PinKind string

const (
	PinHold PinKind = "hold" // a person wants it kept, as for a court
	PinTag  PinKind = "tag"  // a name given to a checkpoint after the fact
	PinRead PinKind = "read" // somebody reads it; short, and renewed
)

// PinOptions say what is pinned. A checkpoint that is pinned is retained until
// the pin expires or is released.
type PinOptions struct {
	Kind       PinKind
	Timeline   dr.TimelineID // zero: the current one
	Checkpoint dr.CheckpointID
	Label      string    // for people; of a tag its name, not empty; at most 255 bytes
	By         string    // who asked for it; empty: this host
	Expires    time.Time // zero: never; a PinRead must expire
}

// PinInfo is a pin as it lies in the container.
type PinInfo struct {
	ID         dr.UUID         `json:"pin"`
	Kind       PinKind         `json:"kind"`
	Timeline   dr.TimelineID   `json:"timeline"`
	Checkpoint dr.CheckpointID `json:"checkpoint"`
	Seq        dr.Seq          `json:"seq"` // of the checkpoint
	Label      string          `json:"label,omitempty"`
	By         string          `json:"by"`
	Created    time.Time       `json:"created"`
	Expires    time.Time       `json:"expires"` // zero: never
	// Released is set once the pin was released.
	Released bool `json:"released,omitempty"`
	// Damaged says why the pin cannot be read. What it holds is not known, so
	// nothing may be deleted while it lies there.
	Damaged string `json:"damaged,omitempty"`
}

// Active reports whether the pin holds at now, by the caller's clock. A
// damaged one does.
func (p *PinInfo) Active(now time.Time) bool {
	return p.Damaged != "" || !p.Released && (p.Expires.IsZero() || now.Before(p.Expires))
}

func pinKey(id dr.UUID) string    { return prefixPin + id.String() }
func pinOffKey(id dr.UUID) string { return pinKey(id) + pinOff }

const pinOff = ".off" // ends the name of a pin's release

func parsePinKey(key string) (id dr.UUID, off, ok bool) {
	rest, ok := strings.CutPrefix(key, prefixPin)
	rest, off = strings.CutSuffix(rest, pinOff)
	id, err := dr.ParseUUID(rest)
	return id, off, ok && err == nil
}

func (o *PinOptions) validate() error {
	const op = "journal.Pin"
	switch {
	case o.Kind != PinHold && o.Kind != PinTag && o.Kind != PinRead:
		return errs.New(op, errs.Invalid, string(o.Kind), "a pin is a hold, a tag or a read")
	case len(o.Label) > maxName || len(o.By) > maxName:
		return errs.New(op, errs.Invalid, "", "label or name is longer than 255 bytes")
	case o.Kind == PinTag && strings.TrimSpace(o.Label) == "":
		return errs.New(op, errs.Invalid, "", "the tag has no name")
	case o.Kind == PinRead && o.Expires.IsZero():
		return errs.New(op, errs.Invalid, "", "a reader's pin must expire")
	}
	return nil
}

// Pin makes maintenance retain a checkpoint. It is written first and the
// checkpoint is confirmed after, in what is then the newest manifest: once Pin
// returned, the checkpoint is there and stays. Durable on return.
//
// Kinds: Invalid for bad options, NotFound when the checkpoint is not (or no
// longer) there, Unavailable when it is not recoverable, Full when there are
// too many pins, or the store's.
func (c *Container) Pin(ctx context.Context, opts PinOptions) (PinInfo, error) {
	const op = "journal.Pin"
	if err := opts.validate(); err != nil {
		return PinInfo{}, err
	}
	cp, t, err := c.pinnable(ctx, opts.Timeline, opts.Checkpoint)
	if err != nil {
		return PinInfo{}, err
	}
	now := time.Now()
	p := PinInfo{ID: dr.NewUUID(), Kind: opts.Kind, Timeline: t, Checkpoint: cp.ID, Seq: cp.Seq, Label: strings.TrimSpace(opts.Label),
		By: hostOr(opts.By), Created: now.UTC().Round(0), Expires: opts.Expires.UTC().Round(0)}
	if err := c.writePin(ctx, &p); err != nil {
		return PinInfo{}, err
	}
	if _, _, err := c.pinnable(ctx, t, opts.Checkpoint); err != nil {
		if off := c.Unpin(context.WithoutCancel(ctx), p.ID, p.By); off != nil {
			err = fmt.Errorf("%w; besides, the pin %s could not be released: %w", err, p.ID, off)
		}
		return PinInfo{}, errs.E(op, errs.Internal, pinKey(p.ID), err)
	}
	return p, nil
}

// pinnable finds a checkpoint where it lies: what a branch inherits is the
// parent's.
func (c *Container) pinnable(ctx context.Context, t dr.TimelineID, id dr.CheckpointID) (CheckpointInfo, dr.TimelineID, error) {
	h, err := c.History(ctx, HistoryOptions{Timeline: t})
	if err != nil {
		return CheckpointInfo{}, t, err
	}
	cp, err := h.byID(id)
	if err == nil && cp.Inherited {
		return c.pinnable(ctx, h.base.parent, id)
	}
	return cp, h.timeline, err
}

func (c *Container) writePin(ctx context.Context, p *PinInfo) error {
	const op = "journal.Pin"
	body, err := c.sealJSON(segment.Header{Timeline: p.Timeline, Created: p.Created}, p)
	if err != nil {
		return err
	}
	if err := c.createOwn(ctx, pinKey(p.ID), body); err != nil {
		return errs.E(op, errs.Internal, pinKey(p.ID), err)
	}
	return nil
}

// released is the sealed content of pin/<uuid>.off.
type released struct {
	Pin dr.UUID   `json:"pin"`
	At  time.Time `json:"at"`
	By  string    `json:"by"`
}

// Unpin releases a pin: the checkpoint is kept no longer for its sake. Nothing
// is deleted by it, so that it needs no right to; maintenance tidies up.
// Durable on return; a pin released already is success. Kind NotFound when
// there is no such pin, or the store's.
func (c *Container) Unpin(ctx context.Context, id dr.UUID, by string) error {
	const op = "journal.Unpin"
	if _, err := c.st.Stat(ctx, pinKey(id)); err != nil {
		return errs.E(op, errs.Internal, pinKey(id), err)
	}
	body, err := c.sealJSON(segment.Header{}, &released{Pin: id, At: time.Now().UTC(), By: hostOr(by)})
	if err != nil {
		return err
	}
	err = c.createOwn(ctx, pinOffKey(id), body)
	if err != nil && !errs.Is(err, errs.Exists) {
		return errs.E(op, errs.Internal, pinOffKey(id), err)
	}
	return nil
}

// Tag gives a retained checkpoint a name after the fact: it is kept, shown
// with the name, and found by tag:NAME, until the tag is released with Unpin.
// expires may be zero. Kinds as of Pin.
func (c *Container) Tag(ctx context.Context, t dr.TimelineID, id dr.CheckpointID, name, by string, expires time.Time) (PinInfo, error) {
	return c.Pin(ctx, PinOptions{Kind: PinTag, Timeline: t, Checkpoint: id, Label: name, By: by, Expires: expires})
}

// Pins lists all pins, released and expired ones too, oldest first. A release
// whose bytes are damaged does not release.
func (c *Container) Pins(ctx context.Context) ([]PinInfo, error) {
	const op = "journal.Pins"
	var ids []dr.UUID
	off := make(map[dr.UUID]bool)
	err := listAll(ctx, c.st, prefixPin, "", func(in store.Info) bool {
		id, isOff, ok := parsePinKey(in.Key)
		switch {
		case ok && isOff:
			off[id] = true
		case ok:
			ids = append(ids, id)
		}
		return len(ids) < maxPins
	})
	if err == nil && len(ids) >= maxPins {
		err = errs.New(op, errs.Full, prefixPin, "the container has too many pins").WithRemedy("release some and run maintenance")
	}
	if err != nil {
		return nil, errs.E(op, errs.Internal, prefixPin, err)
	}
	out := make([]PinInfo, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readParallel)
	for i, id := range ids {
		g.Go(func() (err error) {
			out[i], err = c.readPin(gctx, id, off[id])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errs.E(op, errs.Internal, prefixPin, err)
	}
	out = slices.DeleteFunc(out, func(p PinInfo) bool { return p.ID.IsZero() })
	slices.SortStableFunc(out, func(a, b PinInfo) int { return a.Created.Compare(b.Created) })
	return out, nil
}

// readPin reads one pin; the zero PinInfo when it is gone by now.
func (c *Container) readPin(ctx context.Context, id dr.UUID, off bool) (PinInfo, error) {
	var p PinInfo
	_, err := c.openJSON(ctx, pinKey(id), &p)
	if errs.Is(err, errs.NotFound) {
		return PinInfo{}, nil
	}
	if err == nil && (p.ID != id || p.Timeline.IsZero() || p.Checkpoint == 0 || p.Seq == 0) {
		err = errs.New("journal.Pins", errs.Corrupt, pinKey(id), "it is another pin")
	}
	if err != nil && !ownFault(err) {
		return PinInfo{}, err
	} else if err != nil {
		return PinInfo{ID: id, Damaged: err.Error()}, nil
	}
	p.Damaged, p.Released = "", false
	if off {
		var r released
		if _, err := c.openJSON(ctx, pinOffKey(id), &r); err != nil && !ownFault(err) {
			return PinInfo{}, err
		} else if err == nil && r.Pin == id {
			p.Released = true
		}
	}
	return p, nil
}

// Reader is a pin of kind PinRead that can be renewed: what a recovery holds
// while it reads. It owns no goroutine: whoever reads longer than half the
// span it was made for calls Renew now and then. Safe for concurrent use.
type Reader struct {
	c    *Container
	span time.Duration

	mu  sync.Mutex // guards pin
	pin PinInfo
}

// PinReader pins a checkpoint for a reader, for span from now on. Kinds as of
// Pin. A reader without the right to create does without: what was retained
// when it looked stays for the grace.
func (c *Container) PinReader(ctx context.Context, t dr.TimelineID, id dr.CheckpointID, span time.Duration, by string) (*Reader, error) {
	p, err := c.Pin(ctx, PinOptions{Kind: PinRead, Timeline: t, Checkpoint: id, By: by, Expires: time.Now().Add(span)})
	if err != nil {
		return nil, err
	}
	return &Reader{c: c, span: span, pin: p}, nil
}

// Pin returns what holds now.
func (r *Reader) Pin() PinInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pin
}

// Renew holds the checkpoint for another span from now on: a new pin is made
// and confirmed before the old one is released. After an error the old one
// holds until it expires. Kinds as of Pin.
func (r *Reader) Renew(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.pin
	p, err := r.c.Pin(ctx, PinOptions{Kind: PinRead, Timeline: old.Timeline, Checkpoint: old.Checkpoint, By: old.By, Expires: time.Now().Add(r.span)})
	if err != nil {
		return err
	}
	r.pin = p
	return r.c.Unpin(ctx, old.ID, old.By)
}

// Release gives the pin back.
func (r *Reader) Release(ctx context.Context) error {
	p := r.Pin()
	return r.c.Unpin(ctx, p.ID, p.By)
}
