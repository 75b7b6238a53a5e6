package journal

import (
	"context"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// NewPacker returns a packer of this container's data objects, under its
// current data key. FinishPacked closes what it made.
func (c *Container) NewPacker() *segment.Packer {
	g := c.current()
	return segment.NewPacker(g.key, c.dataKey, c.domain.ID, segment.BuilderOptions{})
}

// FinishPacked closes the packer's object as one of timeline t and stores it.
// Durable on return; until a manifest refers to it nobody reads it. The packer
// is reset. Kinds as of WriteData.
func (c *Container) FinishPacked(ctx context.Context, t dr.TimelineID, p *segment.Packer, created time.Time, opts WriteOptions) (id index.ObjectID, size int64, err error) {
	body, _, err := p.Finish(segment.Header{Timeline: t, Key: c.current().id, Window: Window, Created: created})
	if err != nil {
		return id, 0, err
	}
	if id, err = c.WriteData(ctx, body, opts); err != nil {
		return id, 0, err
	}
	size = int64(len(body))
	p.Reset()
	return id, size, nil
}
