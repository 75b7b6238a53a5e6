package journal

import (
	"context"
	"fmt"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// FsckMode says how thoroughly a container is checked.
type FsckMode string

const (
	// FsckQuick checks names, chain, sizes, headers, footers and everything
	// sealed that is small. It reads no content.
	FsckQuick FsckMode = "quick"
	// FsckDeep reads everything besides: opens every frame, compares every
	// block with its hash and every object with its digest.
	FsckDeep FsckMode = "deep"
)

// FsckOptions say what to check. The zero value is a quick check of all.
type FsckOptions struct {
	Mode FsckMode // zero: FsckQuick
	// Progress, if not nil, is called now and then on Fsck's goroutine.
	Progress func(FsckProgress)
}

// FsckProgress tells how far a check has come.
type FsckProgress struct {
	Stage    string // "names", "history" or "content"
	Objects  int    // looked at in this stage
	Total    int    // to look at in this stage; 0: not known
	Bytes    int64  // of content read
	Problems int
}

// Report is what a check found. The container is as it was: a check never
// writes.
type Report struct {
	Domain    dr.DomainID      `json:"domain"`
	Name      string           `json:"name"`
	Mode      FsckMode         `json:"mode"`
	Clean     bool             `json:"clean"` // nothing was found wrong
	Objects   int              `json:"objects"`
	Bytes     int64            `json:"bytes"`
	Frames    int              `json:"frames_opened"`
	Blocks    int64            `json:"blocks_compared"`
	Timelines []TimelineReport `json:"timelines"`
	Problems  []Problem        `json:"problems"`
	More      int              `json:"more_problems"` // beyond those listed
}

// TimelineReport is what a check found of one timeline.
type TimelineReport struct {
	ID          dr.TimelineID `json:"timeline"`
	Epochs      int           `json:"epochs"`
	Objects     int           `json:"objects"` // accepted, fences included
	Fences      int           `json:"fences"`
	Unread      int           `json:"unread"` // under names that fences made dead, or still under way
	Checkpoints int           `json:"checkpoints"`
	Recoverable int           `json:"recoverable"`
}

// checker is one run of Fsck.
type checker struct {
	c        *Container
	opts     FsckOptions
	report   *Report
	progress FsckProgress
	journals map[dr.TimelineID]int      // journal objects by timeline
	claims   map[dr.TimelineID]dr.Epoch // claims by timeline, dense from 1
	heads    map[dr.TimelineID]bool
}

// Fsck checks the container and reports what is wrong with it. An error means
// that the check could not be done (the store failed, ctx ended); what is
// wrong with the container is in the Report alone.
func (c *Container) Fsck(ctx context.Context, opts FsckOptions) (*Report, error) {
	const op = "journal.Fsck"
	if opts.Mode == "" {
		opts.Mode = FsckQuick
	}
	if opts.Mode != FsckQuick && opts.Mode != FsckDeep {
		return nil, errs.New(op, errs.Invalid, string(opts.Mode), "a check is quick or deep")
	}
	k := &checker{
		c: c, opts: opts,
		report:   &Report{Domain: c.domain.ID, Name: c.domain.Name, Mode: opts.Mode, Timelines: []TimelineReport{}, Problems: []Problem{}},
		journals: make(map[dr.TimelineID]int),
		claims:   make(map[dr.TimelineID]dr.Epoch),
		heads:    make(map[dr.TimelineID]bool),
	}
	if err := k.names(ctx); err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	k.generations()
	ts, err := c.timelines(ctx)
	if err != nil {
		return nil, errs.E(op, errs.Internal, prefixTime, err)
	}
	for _, t := range ts {
		if err := k.timeline(ctx, t); err != nil {
			return nil, errs.E(op, errs.Internal, t.String(), err)
		}
	}
	k.report.Clean = len(k.report.Problems) == 0
	return k.report, nil
}

func (k *checker) problem(p Problem) {
	if len(k.report.Problems) >= maxProblems {
		k.report.More++
		return
	}
	k.report.Problems = append(k.report.Problems, p)
}

// blame makes a problem of err when it is the object's fault, and returns err
// when it is the store's.
func (k *checker) blame(key string, err error) error {
	switch errs.KindOf(err) {
	case errs.Corrupt, errs.Invalid, errs.Denied:
		k.problem(Problem{Object: key, What: err.Error(), Kind: errs.KindOf(err)})
		return nil
	case errs.NotFound:
		k.problem(Problem{Object: key, What: "the object is missing", Kind: errs.Corrupt})
		return nil
	}
	return err
}

// tell reports progress every so many objects.
func (k *checker) tell() {
	const every = 64
	k.progress.Objects++
	if k.opts.Progress != nil && k.progress.Objects%every == 1 {
		k.progress.Problems = len(k.report.Problems) + k.report.More
		k.opts.Progress(k.progress)
	}
}

// names goes over every key: is it of this format, and does what is small and
// sealed open?
func (k *checker) names(ctx context.Context) error {
	k.progress = FsckProgress{Stage: "names"}
	var fail error
	err := listAll(ctx, k.c.st, "", "", func(in store.Info) bool {
		k.report.Objects++
		k.report.Bytes += in.Size
		k.tell()
		fail = k.name(ctx, in)
		return fail == nil
	})
	if fail != nil {
		return fail
	}
	return err
}

func (k *checker) name(ctx context.Context, in store.Info) error {
	key := in.Key
	head, rest, _ := strings.Cut(key, "/")
	switch head {
	case keyDomain:
		return nil // Open has read and checked it
	case "keys":
		return k.wrapped(ctx, key)
	case "t":
		return k.timelineKey(ctx, key, rest)
	case "meta":
		return k.meta(ctx, key, rest)
	case "probe":
		return nil // left by the trial of a store that does not delete
	}
	return k.unknown(key)
}

func (k *checker) unknown(key string) error {
	k.problem(Problem{Object: key, What: "the name is none this release writes", Kind: errs.Invalid})
	return nil
}

func (k *checker) timelineKey(ctx context.Context, key, rest string) error {
	dir, _, _ := strings.Cut(rest, "/")
	id, err := dr.ParseUUID(dir)
	if err != nil {
		return k.unknown(key)
	}
	t := dr.TimelineID{UUID: id}
	if _, ok := parseObjectKey(t, key); ok {
		k.journals[t]++
		return nil
	}
	if key == headKey(t) {
		k.heads[t] = true
		if _, err := k.c.readHead(ctx, t); err != nil && !k.leftover(ctx, key) {
			return k.blame(key, err)
		}
		return nil
	}
	if e, ok := parseEpochKey(t, key); ok {
		return k.claim(ctx, t, e, key)
	}
	return k.unknown(key)
}

// leftover reports whether key is the head of an interrupted Create, made
// under a data key and for a domain that never came to be.
func (k *checker) leftover(ctx context.Context, key string) bool {
	b := make([]byte, segment.HeaderSize)
	if readExact(ctx, k.c.st, key, b, 0) != nil {
		return false
	}
	h, err := segment.ParseHeader(b)
	return err == nil && k.c.keys.foreign(h.Key) && headKey(k.c.domain.Timeline) != key
}

func (k *checker) claim(ctx context.Context, t dr.TimelineID, e dr.Epoch, key string) error {
	if e != k.claims[t]+1 {
		k.problem(Problem{Object: key, What: fmt.Sprintf("claims of epochs %d to %d are missing", k.claims[t]+1, e-1), Kind: errs.Corrupt})
	}
	k.claims[t] = e
	var v claim
	if _, err := k.c.openJSON(ctx, key, &v); err != nil {
		return k.blame(key, err)
	}
	if v.Timeline != t || v.Epoch != e {
		k.problem(Problem{Object: key, What: "it is the claim of another epoch", Kind: errs.Corrupt})
	}
	return nil
}

func (k *checker) meta(ctx context.Context, key, rest string) error {
	dir, _, _ := strings.Cut(rest, "/")
	id, err := dr.ParseUUID(dir)
	if err != nil {
		return k.unknown(key)
	}
	vm := dr.VMID{UUID: id}
	seq, ok := parseHex(key, metaPrefix(vm), 16)
	if !ok || seq == 0 {
		return k.unknown(key)
	}
	if _, err := k.c.readMeta(ctx, vm, dr.Seq(seq)); err != nil {
		return k.blame(key, err)
	}
	return nil
}

// timeline checks one timeline's chain, and in deep mode its content.
func (k *checker) timeline(ctx context.Context, t dr.TimelineID) error {
	if !k.heads[t] {
		if k.journals[t] > 0 || k.claims[t] > 0 {
			k.problem(Problem{Object: headKey(t), What: "the timeline has no head", Kind: errs.Corrupt})
		}
		return nil
	}
	if t != k.c.domain.Timeline && k.leftover(ctx, headKey(t)) {
		return nil
	}
	k.progress = FsckProgress{Stage: "history", Total: k.journals[t]}
	h := &History{c: k.c, timeline: t, chain: newChain(Window)}
	h.progress = func(p HistoryProgress) {
		k.progress.Objects = p.Objects
		if k.opts.Progress != nil {
			k.opts.Progress(k.progress)
		}
	}
	if err := h.Extend(ctx); err != nil {
		return err
	}
	r := TimelineReport{ID: t, Epochs: int(k.claims[t]), Objects: len(h.objects), Checkpoints: len(h.points)}
	present := 0
	for _, o := range h.objects {
		if o.kind == segment.Fence {
			r.Fences++
		}
		if o.size > 0 {
			present++
		}
		if o.epoch > k.claims[t] {
			k.problem(Problem{Object: objectKey(t, o.number), What: fmt.Sprintf("nobody claimed its epoch %d", o.epoch), Kind: errs.Corrupt})
		}
	}
	for _, p := range h.points {
		if p.Recoverable {
			r.Recoverable++
		}
	}
	r.Unread = max(0, k.journals[t]-present)
	k.report.Timelines = append(k.report.Timelines, r)
	k.historyProblems(h)
	if k.opts.Mode == FsckDeep {
		return k.content(ctx, h)
	}
	return nil
}

// historyProblems takes over what the walk found, with the checkpoints it
// costs.
func (k *checker) historyProblems(h *History) {
	for _, p := range h.problems {
		n, _ := parseObjectKey(h.timeline, p.Object)
		for _, o := range h.objects {
			if o.number == n && o.lost {
				p.Touched = spanFrom(h.points, n)
			}
		}
		k.problem(p)
	}
	k.report.More += h.dropped
}

// spanFrom is all checkpoints carried by object n or later ones.
func spanFrom(points []CheckpointInfo, n dr.ObjectNumber) (s CheckpointSpan) {
	for _, p := range points {
		if p.Object >= n {
			s.add(p.ID)
		}
	}
	return s
}
