package journal

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// deepParallel is how many whole objects a deep check holds at once: 4 of at
// most 32 MiB.
const deepParallel = 4

// scan is one whole object to check, and what was found.
type scan struct {
	print Fingerprint // which object it must be
	id    index.ObjectID
	key   string
	size  int64
	kind  segment.Kind // 0: of an object below the anchor, not known
	hist  *History     // one that needs it

	gone   bool
	whole  string            // why none of its frames can be used
	words  []string          // what else is wrong with it as a whole
	frames map[uint32]string // by counter: why a frame cannot be opened
	opened int
	blocks int64
	bytes  int64
}

// content reads the objects of all timelines, each once, in the order of their
// keys: all of them, or the portion asked for.
func (k *checker) content(ctx context.Context) error {
	all := k.wanted()
	var total int64
	for _, s := range all {
		total += s.size
	}
	cur := k.opts.Cursor
	if cur == nil || cur.After == "" {
		cur = &FsckCursor{Domain: k.c.domain.ID, Started: time.Now().UTC()}
	}
	next := *cur
	from, _ := slices.BinarySearchFunc(all, cur.After, func(s *scan, after string) int {
		if s.key <= after {
			return -1
		}
		return 1
	})
	budget := total
	if k.opts.Share > 0 {
		budget = int64(float64(total) * k.opts.Share)
	}
	k.progress = FsckProgress{Stage: "content", Total: len(all), Objects: from}
	for _, s := range all[from:] {
		k.progress.ToRead += s.size
	}
	k.progress.ToRead = min(k.progress.ToRead, budget)
	began, read := time.Now(), int64(0)
	for from < len(all) {
		if k.opts.Share > 0 && read > 0 && read >= budget {
			k.report.Cursor = &next
			return nil
		}
		batch := all[from:min(len(all), from+deepParallel)]
		if err := k.scanAll(ctx, batch); err != nil {
			return err
		}
		for _, s := range batch {
			read += s.bytes
			next.Bytes += s.bytes
			k.progress.Objects++
			if err := k.judge(ctx, s); err != nil {
				return err
			}
		}
		if k.opts.Progress != nil { // objects are large
			k.progress.Problems = len(k.report.Problems) + k.report.More
			k.opts.Progress(k.progress)
		}
		from += len(batch)
		next.After, next.Objects = batch[len(batch)-1].key, next.Objects+len(batch)
		if bps := k.opts.BytesPerSecond; bps > 0 {
			due := time.Duration(float64(read) / float64(bps) * float64(time.Second))
			if err := sleep(ctx, due-time.Since(began)); err != nil {
				return errs.E("journal.Fsck", errs.Canceled, "", err)
			}
		}
	}
	return nil
}

// wanted lists every object that holds content of a history, sorted by key.
func (k *checker) wanted() []*scan {
	seen := make(map[index.ObjectID]bool)
	var all []*scan
	add := func(s *scan) {
		if !seen[s.id] {
			seen[s.id] = true
			s.key = ObjectName(s.id)
			all = append(all, s)
		}
	}
	for _, h := range k.opened {
		if h.manifest != nil {
			for i := range h.manifest.Objects {
				if o := &h.manifest.Objects[i]; o.Live > 0 {
					add(&scan{id: o.ID, size: o.Size, print: o.Print, hist: h})
				}
			}
		}
		for _, o := range h.objects {
			if !o.lost && o.size >= segment.HeaderSize+segment.TailSize && o.size <= segment.MaxObjectSize {
				add(&scan{id: index.ObjectID{Timeline: h.timeline, Number: o.number}, size: o.size, kind: o.kind, print: o.print, hist: h})
			}
		}
	}
	slices.SortFunc(all, func(a, b *scan) int { return cmp.Compare(a.key, b.key) })
	return all
}

func (k *checker) scanAll(ctx context.Context, batch []*scan) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, s := range batch {
		if b := k.bad[s.id]; b != nil && b.whole != "" {
			continue // missing, or of another size
		}
		g.Go(func() error { return k.c.scan(gctx, s) })
	}
	return g.Wait()
}

// judge takes what a scan found into the report.
func (k *checker) judge(ctx context.Context, s *scan) error {
	k.progress.Bytes += s.bytes
	k.report.Frames += s.opened
	k.report.Blocks += s.blocks
	if s.gone && s.hist.manifest != nil && s.kind == 0 {
		if newer, err := k.superseded(ctx, s.hist); err != nil || newer {
			return err
		}
	}
	for _, w := range s.words {
		k.problem(Problem{Object: s.key, What: w, Kind: errs.Corrupt})
	}
	if s.whole != "" {
		k.badWhole(s.id, s.whole)
	}
	for n, why := range s.frames {
		k.badOf(s.id).frames[n] = why
	}
	return nil
}

// scan reads a whole object and checks every byte of it.
func (c *Container) scan(ctx context.Context, s *scan) error {
	body := make([]byte, s.size)
	if err := readExact(ctx, c.st, s.key, body, 0); err != nil {
		if !ownFault(err) {
			return err
		}
		s.whole, s.gone = err.Error(), errs.Is(err, errs.NotFound)
		return nil
	}
	s.bytes = s.size
	_, _, want, err := segment.ParseTail(body[len(body)-segment.TailSize:])
	if err != nil {
		s.whole = err.Error()
		return nil
	}
	if segment.Digest(sha256.Sum256(body[:len(body)-segment.TailSize])) != want {
		s.words = append(s.words, "its bytes do not match its digest")
	}
	if s.kind == segment.Fence {
		return nil
	}
	l, err := c.loadRef(ctx, s.id, s.size)
	if err != nil {
		return err
	}
	if l.missing || l.damaged() != nil || l.footer == nil {
		s.whole = "it cannot be read"
		if err := l.damaged(); err != nil {
			s.whole = err.Error()
		}
		return nil
	}
	if s.print.differs(l.header.Object) {
		s.whole = swapped("journal.Fsck", s.key).Error()
		return nil
	}
	o, err := c.object(l)
	if err != nil {
		return err
	}
	s.openFrames(o, body)
	return nil
}

func (s *scan) openFrames(o *Object, body []byte) {
	var buf []byte
	for i := range o.Footer.Entries {
		e := &o.Footer.Entries[i]
		var err error
		end := uint64(e.Offset) + uint64(e.Stored)
		if end > uint64(len(body)) {
			err = errs.New("journal.Fsck", errs.Corrupt, o.Key, "the frame ends beyond the object")
		} else {
			buf, err = o.OpenFrame(buf[:0], e, body[e.Offset:end], true)
		}
		s.opened++
		s.blocks += int64(e.Blocks())
		if err != nil {
			if s.frames == nil {
				s.frames = make(map[uint32]string)
			}
			s.frames[e.Counter] = fmt.Sprintf("disk %s, chunk %d: %s", o.Footer.Disks[e.Disk], e.Chunk, err)
		}
	}
}

// chunkID is a chunk of a disk.
type chunkID struct {
	disk  dr.DiskID
	chunk uint32
}
