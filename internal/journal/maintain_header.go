package journal

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// ReadHeader reads the clear header of any object of the container: one small
// request. Nothing but its checksum vouches for it. Kinds: NotFound, Corrupt
// when it is damaged or of another container, Invalid for no object of
// Holdfast, or the store's.
func (c *Container) ReadHeader(ctx context.Context, key string) (segment.Header, error) {
	const op = "journal.ReadHeader"
	b := make([]byte, segment.HeaderSize)
	if err := readExact(ctx, c.st, key, b, 0); err != nil {
		return segment.Header{}, errs.E(op, errs.Internal, key, err)
	}
	h, err := segment.ParseHeader(b)
	if err != nil {
		return h, errs.E(op, errs.Internal, key, err)
	}
	if h.Domain != c.domain.ID {
		return h, errs.New(op, errs.Corrupt, key, "the object belongs to another container")
	}
	return h, nil
}
