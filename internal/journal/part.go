package journal

import (
	"context"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// WriteOptions say how maintenance's objects are stored. The zero value stores
// them without a lock.
type WriteOptions struct {
	// Lock holds the object against deletion from its first moment. Kind
	// Invalid when the store cannot.
	Lock store.Lock
}

// createHeld creates an object, locked when that is asked for.
func (c *Container) createHeld(ctx context.Context, name string, body []byte, opts WriteOptions) error {
	if opts.Lock == (store.Lock{}) {
		return c.createOwn(ctx, name, body)
	}
	locker, ok := store.AsLocker(c.st)
	if !ok {
		return errs.New("journal.Write", errs.Invalid, name, "the store cannot hold objects against deletion").
			WithRemedy("turn the lock off, or use a store that has object locks")
	}
	err := locker.CreateLocked(ctx, name, body, opts.Lock)
	if !errs.Is(err, errs.Exists) {
		return err
	}
	return c.createOwn(ctx, name, body) // its own, from a try whose answer was lost
}

// WriteRunPart seals one part of an index run, encoded by package index, and
// stores it under a new name. ID and Size of the result are set; the rest is
// for the caller to fill in. Durable on return. Until a manifest refers to it
// nobody reads it. Kind Invalid when it is larger than a part may be, or the
// store's.
func (c *Container) WriteRunPart(ctx context.Context, t dr.TimelineID, plain []byte, opts WriteOptions) (PartRef, error) {
	const op = "journal.WriteRunPart"
	body, id, err := c.sealPlain(segment.Header{Timeline: t}, plain)
	if err != nil {
		return PartRef{}, errs.E(op, errs.Internal, "", err)
	}
	if err := c.createHeld(ctx, PartName(id), body, opts); err != nil {
		return PartRef{}, errs.E(op, errs.Internal, PartName(id), err)
	}
	return PartRef{ID: id, Size: int64(len(body))}, nil
}

// OpenRunPart reads a part and returns its plain form, for package index to
// decode. Kind Corrupt when it is not the part that was written under this
// name, NotFound when it is gone, or the store's.
func (c *Container) OpenRunPart(ctx context.Context, p PartRef) ([]byte, error) {
	const op = "journal.OpenRunPart"
	name := PartName(p.ID)
	body, err := c.readWhole(ctx, name, p.Size)
	if err != nil {
		return nil, errs.E(op, errs.Internal, name, err)
	}
	h, plain, err := c.openPlain(op, name, body)
	if err != nil {
		return nil, err
	}
	if h.Object != p.ID {
		return nil, errs.New(op, errs.Corrupt, name, "another part lies under its name: "+h.Object.String())
	}
	return plain, nil
}

// WriteData stores a data object, made and sealed by package segment, under
// its own uuid. Durable on return. The same object stored before is success.
// Kind Invalid when it is none of this container, or the store's.
func (c *Container) WriteData(ctx context.Context, body []byte, opts WriteOptions) (index.ObjectID, error) {
	const op = "journal.WriteData"
	h, err := segment.ParseHeader(body)
	if err != nil {
		return index.ObjectID{}, errs.E(op, errs.Internal, "", err)
	}
	id := index.ObjectID{Data: h.Object}
	if h.Kind != segment.Data || h.Domain != c.domain.ID || h.Object.IsZero() {
		return id, errs.New(op, errs.Invalid, ObjectName(id), "it is no data object of this container")
	}
	if err := c.createHeld(ctx, ObjectName(id), body, opts); err != nil {
		return id, errs.E(op, errs.Internal, ObjectName(id), err)
	}
	return id, nil
}
