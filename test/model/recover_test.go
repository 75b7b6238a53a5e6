package model

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store/dir"
)

// container is the site's container as site B sees it: with the recovery key
// and nothing else.
type container struct {
	s       *site
	c       *journal.Container
	history *journal.History
}

func (s *site) open(ctx context.Context) (*container, error) {
	st, err := dir.Open(s.container)
	if err != nil {
		return nil, err
	}
	c, err := journal.Open(ctx, st, s.Identity)
	if err != nil {
		return nil, err
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return nil, err
	}
	if p := h.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("the history has problems: %+v\n%s", p, list(h))
	}
	return &container{s, c, h}, nil
}

// recoverable returns the checkpoints that can be recovered, oldest first.
func (c *container) recoverable() []journal.CheckpointInfo {
	return slices.DeleteFunc(c.history.Checkpoints(), func(cp journal.CheckpointInfo) bool { return !cp.Recoverable })
}

// restore rebuilds all disks at a checkpoint, into memory.
func (c *container) restore(ctx context.Context, cp journal.CheckpointInfo) (*image, error) {
	resolved, err := c.history.Resolve(ctx, cp)
	if err != nil {
		return nil, err
	}
	if len(resolved.Disks) != disks {
		return nil, fmt.Errorf("checkpoint %d has %d disks", cp.ID, len(resolved.Disks))
	}
	fs := durabletest.New(durabletest.Config{})
	if err := fs.Mkdir("/out"); err != nil {
		return nil, err
	}
	var targets []rocva.Target
	for d, id := range c.s.ids {
		targets = append(targets, rocva.Target{Disk: id, Path: fmt.Sprintf("/out/%d.raw", d)})
	}
	if _, err := rocva.Full(ctx, c.c, resolved, targets, rocva.Options{FS: fs}); err != nil {
		return nil, err
	}
	var img image
	for _, d := range resolved.Disks {
		i := slices.Index(c.s.ids[:], d.ID)
		if d.Size != sizeOf(i) {
			return nil, fmt.Errorf("checkpoint %d has disk %d with %d bytes instead of %d", cp.ID, i, d.Size, sizeOf(i))
		}
		img[i] = make([]byte, (d.Size+dr.BlockSize-1)&^(dr.BlockSize-1))
		if err := fs.Peek(fmt.Sprintf("/out/%d.raw", i), img[i][:d.Size], 0); err != nil {
			return nil, err
		}
	}
	return &img, nil
}

// pointOf describes a checkpoint for the checker.
func (c *container) pointOf(cp *journal.CheckpointInfo) *point {
	p := &point{name: fmt.Sprintf("checkpoint %d (%v)", cp.ID, cp.Scope), group: cp.Scope == dr.Group, taken: cp.Time, published: cp.PublishedAt}
	for i, h := range c.s.hosts {
		p.missing[i] = slices.Contains(cp.Missing, h.vm)
	}
	return p
}

// primaries reads the protected disks themselves, padded to whole blocks.
func (s *site) primaries() (*image, error) {
	var img image
	for d, path := range s.paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if int64(len(b)) != sizeOf(d) {
			return nil, fmt.Errorf("disk %d has %d bytes instead of %d", d, len(b), sizeOf(d))
		}
		img[d] = append(b, make([]byte, -len(b)&(dr.BlockSize-1))...)
	}
	return &img, nil
}

// sameDisks tells where two images differ; empty: nowhere.
func sameDisks(got, want *image) string {
	var all []string
	for d := range got {
		if bytes.Equal(got[d], want[d]) {
			continue
		}
		var blocks []int
		for at := 0; at < min(len(got[d]), len(want[d])); at += dr.BlockSize {
			if !bytes.Equal(got[d][at:at+dr.BlockSize], want[d][at:at+dr.BlockSize]) {
				blocks = append(blocks, at/dr.BlockSize)
			}
		}
		all = append(all, fmt.Sprintf("disk %d: %d and %d bytes, blocks %v differ", d, len(got[d]), len(want[d]), blocks[:min(len(blocks), 20)]))
	}
	return strings.Join(all, "\n")
}

// fsck checks every byte of the container.
func (c *container) fsck(ctx context.Context) error {
	r, err := c.c.Fsck(ctx, journal.FsckOptions{Mode: journal.FsckDeep})
	if err != nil {
		return err
	}
	if !r.Clean || len(r.Problems) > 0 {
		return fmt.Errorf("the container is not clean: %+v", r.Problems)
	}
	return nil
}

// list renders a history for people who look for what went wrong.
func list(h *journal.History) string {
	var b strings.Builder
	for _, cp := range h.Checkpoints() {
		fmt.Fprintf(&b, "checkpoint %d, seq %d, %v, object %d, %v, tag %q, missing %d, recoverable %v\n", cp.ID, cp.Seq, cp.Time, cp.Object, cp.Scope, cp.Tag, len(cp.Missing), cp.Recoverable)
	}
	return b.String()
}
