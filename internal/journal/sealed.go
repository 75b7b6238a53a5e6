package journal

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// Store returns the store the container lies in, for who maintains it. What is
// written there past this package is not Holdfast's.
func (c *Container) Store() store.Store { return c.st }

// sealPlain seals content that is larger than a document as a blob. The
// object's uuid is a new random one.
func (c *Container) sealPlain(h segment.Header, plain []byte) (body []byte, object dr.UUID, err error) {
	g := c.current()
	h.Domain, h.Key, h.Window = c.domain.ID, g.id, Window
	if h.Created.IsZero() {
		h.Created = time.Now()
	}
	body, _, err = segment.SealBlob(g.key, h, plain)
	if err != nil {
		return nil, object, err
	}
	own, err := segment.ParseHeader(body)
	return body, own.Object, err
}

// openPlain opens what sealPlain made. Kind Corrupt when the bytes are not
// what was written or belong to another container.
func (c *Container) openPlain(op, name string, body []byte) (segment.Header, []byte, error) {
	h, plain, err := c.openBlob(body)
	if err != nil {
		return h, nil, errs.E(op, errs.Internal, name, err)
	}
	if h.Domain != c.domain.ID {
		return h, nil, errs.New(op, errs.Corrupt, name, "the object belongs to another container")
	}
	return h, plain, nil
}

// readWhole reads an object of size bytes. Kind Corrupt when it has another
// size.
func (c *Container) readWhole(ctx context.Context, name string, size int64) ([]byte, error) {
	const op = "journal.readWhole"
	if size < segment.HeaderSize+segment.TailSize || size > segment.MaxObjectSize {
		return nil, errs.New(op, errs.Corrupt, name, fmt.Sprintf("the object has %d bytes, which none has", size))
	}
	body := make([]byte, size+1)
	n, err := c.st.ReadRange(ctx, name, body, 0)
	if err != nil {
		return nil, errs.E(op, errs.Internal, name, err)
	}
	if int64(n) != size {
		return nil, errs.New(op, errs.Corrupt, name, "the object has another size than expected")
	}
	return body[:n], nil
}

// createOwn creates a large object and takes the same object found under its
// name for success: an earlier try whose answer was lost. Two objects with the
// same header are the same, since the header holds a random uuid; the tail's
// digest covers the rest.
func (c *Container) createOwn(ctx context.Context, name string, body []byte) error {
	err := c.st.Create(ctx, name, body)
	if !errs.Is(err, errs.Exists) {
		return err
	}
	in, serr := c.st.Stat(ctx, name)
	if serr != nil {
		return serr
	}
	if in.Size != int64(len(body)) {
		return err
	}
	for _, r := range []struct{ from, n int }{{0, segment.HeaderSize}, {len(body) - segment.TailSize, segment.TailSize}} {
		p := make([]byte, r.n)
		if rerr := readExact(ctx, c.st, name, p, int64(r.from)); rerr != nil {
			return rerr
		}
		if string(p) != string(body[r.from:r.from+r.n]) {
			return err
		}
	}
	return nil
}
