package journal

import (
	"context"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// Object is an open journal object: its footer, and the means to read and open
// its frames. It is immutable and safe for concurrent use, and has nothing to
// close.
type Object struct {
	Number dr.ObjectNumber
	Key    string
	Size   int64 // bytes
	Header segment.Header
	Footer *segment.Footer // read-only

	c      *Container
	opener *segment.Opener
}

// OpenObject opens journal object n of timeline t. Kind NotFound when it does
// not exist, Corrupt when it is damaged, or the store's.
func (c *Container) OpenObject(ctx context.Context, t dr.TimelineID, n dr.ObjectNumber) (*Object, error) {
	const op = "journal.OpenObject"
	in, err := c.st.Stat(ctx, objectKey(t, n))
	if err != nil {
		return nil, errs.E(op, errs.Internal, objectKey(t, n), err)
	}
	l, err := c.load(ctx, t, n, in.Size)
	if err != nil {
		return nil, err
	}
	if l.missing {
		return nil, errs.New(op, errs.NotFound, l.key, "the object is gone")
	}
	if err := l.damaged(); err != nil {
		return nil, errs.E(op, errs.Corrupt, l.key, err)
	}
	if l.header.Kind != segment.Journal {
		return nil, errs.New(op, errs.Invalid, l.key, "the object is a fence and has no content")
	}
	return c.object(l)
}

func (c *Container) object(l *loaded) (*Object, error) {
	key, err := c.dataKey(l.header.Key)
	if err != nil {
		return nil, errs.E("journal.OpenObject", errs.Internal, l.key, err)
	}
	opener, err := segment.NewOpener(key, l.header)
	if err != nil {
		return nil, errs.E("journal.OpenObject", errs.Internal, l.key, err)
	}
	return &Object{Number: l.number, Key: l.key, Size: l.size, Header: l.header, Footer: l.footer, c: c, opener: opener}, nil
}

// ReadAt fills p with the object's bytes from off. Kind Corrupt when it ends
// before that, or the store's.
func (o *Object) ReadAt(ctx context.Context, p []byte, off int64) error {
	err := readExact(ctx, o.c.st, o.Key, p, off)
	return wrapErr("journal.ReadAt", o.Key, err)
}

// Recovery path, step 6: open. Nothing leaves here that is not what the filter
// captured.

// OpenFrame opens frame e of this object from its stored bytes and appends
// its blocks to dst. With verify they are compared with their hashes too. Kind
// Corrupt when they are not what was captured.
func (o *Object) OpenFrame(dst []byte, e *segment.Entry, sealed []byte, verify bool) ([]byte, error) {
	const op = "journal.OpenFrame"
	from := len(dst)
	out, err := o.opener.Frame(dst, o.Footer.Disks[e.Disk], e, sealed)
	if err == nil && verify {
		err = o.opener.CheckBlocks(o.Footer, e, out[from:])
	}
	if err != nil {
		return dst, errs.E(op, errs.Internal, o.Key, err)
	}
	return out, nil
}
