package journal

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// FsckMode says how thoroughly a container is checked.
type FsckMode string

const (
	// FsckQuick checks names, the newest manifest, the chain behind its anchor,
	// sizes, headers and footers there, and everything sealed that is small. It
	// reads neither index nor content.
	FsckQuick FsckMode = "quick"
	// FsckIndex checks besides all manifests, every part of the index, that
	// every object it refers to is there with its size, and counts live bytes
	// again.
	FsckIndex FsckMode = "index"
	// FsckDeep reads everything besides: opens every frame, compares every
	// block with its hash and every object with its digest.
	FsckDeep FsckMode = "deep"
)

// FsckOptions say what to check. The zero value is a quick check of all.
type FsckOptions struct {
	Mode FsckMode // zero: FsckQuick
	// Cursor, Share and BytesPerSecond are for deep checks in portions. Cursor is
	// what the portion before reported; nil begins anew. Share is how much of the
	// content one call reads, 0..1; 0 is all of it. BytesPerSecond slows reading
	// content down; 0 does not.
	Cursor         *FsckCursor
	Share          float64
	BytesPerSecond int64
	// Progress, if not nil, is called now and then on Fsck's goroutine.
	Progress func(FsckProgress)
}

// FsckProgress tells how far a check has come.
type FsckProgress struct {
	Stage    string // "names", "history", "index" or "content"
	Objects  int    // looked at in this stage
	Total    int    // to look at in this stage; 0: not known
	Bytes    int64  // of content read
	ToRead   int64  // bytes of content this call reads, about; 0 but in the last stage
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
	// Cursor is where the next portion of a deep check begins; nil when this
	// one ended the round.
	Cursor *FsckCursor `json:"cursor,omitempty"`
}

// FsckCursor is how far a deep check in portions has come. The caller keeps it,
// as JSON.
type FsckCursor struct {
	Domain  dr.DomainID `json:"domain"`
	Started time.Time   `json:"started"` // of the round
	After   string      `json:"after"`   // the last object that was read
	Objects int         `json:"objects"` // read in this round
	Bytes   int64       `json:"bytes"`
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
	Manifest    uint64        `json:"manifest"` // generation of the newest that can be read; 0: none
	Parts       int           `json:"parts"`    // of the index, read
	Entries     uint64        `json:"entries"`  // in them
	Live        int64         `json:"live"`     // bytes, counted again
}

// checker is one run of Fsck.
type checker struct {
	c          *Container
	opts       FsckOptions
	report     *Report
	progress   FsckProgress
	journals   map[dr.TimelineID][]dr.ObjectNumber // that are in the store
	sizes      map[string]int64                    // of journal and data objects and index parts, unless quick
	opened     []*History
	bad        map[index.ObjectID]*badObject
	partDamage []partDamage
	claims     map[dr.TimelineID]dr.Epoch // claims by timeline, dense from 1
	heads      map[dr.TimelineID]bool
}

// Fsck checks the container and reports what is wrong with it. An error means
// that the check could not be done (the store failed, ctx ended); what is
// wrong with the container is in the Report alone.
func (c *Container) Fsck(ctx context.Context, opts FsckOptions) (*Report, error) {
	const op = "journal.Fsck"
	if opts.Mode == "" {
		opts.Mode = FsckQuick
	}
	if opts.Mode != FsckQuick && opts.Mode != FsckIndex && opts.Mode != FsckDeep {
		return nil, errs.New(op, errs.Invalid, string(opts.Mode), "a check is quick, index or deep")
	}
	if opts.Cursor != nil && opts.Cursor.Domain != c.domain.ID {
		return nil, errs.New(op, errs.Invalid, "", "the check's state is of another container").WithRemedy("begin a new round without it")
	}
	if !(opts.Share >= 0 && opts.Share <= 1) || opts.BytesPerSecond < 0 {
		return nil, errs.New(op, errs.Invalid, "", "share is not within 0..1, or the speed is below 0")
	}
	k := &checker{
		c: c, opts: opts,
		report:   &Report{Domain: c.domain.ID, Name: c.domain.Name, Mode: opts.Mode, Timelines: []TimelineReport{}, Problems: []Problem{}},
		journals: make(map[dr.TimelineID][]dr.ObjectNumber),
		sizes:    make(map[string]int64),
		bad:      make(map[index.ObjectID]*badObject),
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
	if opts.Mode == FsckDeep {
		if err := k.content(ctx); err != nil {
			return nil, errs.E(op, errs.Internal, "", err)
		}
	}
	if err := k.touched(ctx); err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
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
		return k.timelineKey(ctx, in, rest)
	case "x", "d":
		if _, _, ok := parseTombKey(key); !ok {
			return k.unknown(key)
		}
		k.size(in)
		return nil
	case "pin":
		return k.pin(ctx, key)
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

// size remembers what a list said of an object, for the check of the index.
func (k *checker) size(in store.Info) {
	if k.opts.Mode != FsckQuick {
		k.sizes[in.Key] = in.Size
	}
}

func (k *checker) pin(ctx context.Context, key string) error {
	id, off, ok := parsePinKey(key)
	if !ok {
		return k.unknown(key)
	}
	if off {
		var r released
		if _, err := k.c.openJSON(ctx, key, &r); err != nil {
			return k.blame(key, err)
		} else if r.Pin != id {
			k.problem(Problem{Object: key, What: "it releases another pin", Kind: errs.Corrupt})
		}
		return nil
	}
	p, err := k.c.readPin(ctx, id, false)
	if err == nil && p.Damaged != "" {
		k.problem(Problem{Object: key, What: p.Damaged, Kind: errs.Corrupt})
	}
	return err
}

func (k *checker) timelineKey(ctx context.Context, in store.Info, rest string) error {
	key := in.Key
	dir, _, _ := strings.Cut(rest, "/")
	id, err := dr.ParseUUID(dir)
	if err != nil {
		return k.unknown(key)
	}
	t := dr.TimelineID{UUID: id}
	if n, ok := parseObjectKey(t, key); ok {
		k.journals[t] = append(k.journals[t], n)
		k.size(in)
		return nil
	}
	if g, ok := parseManifestKey(t, key); ok {
		if k.opts.Mode == FsckQuick {
			return nil // the newest is read with the history
		}
		_, err := k.c.loadManifest(ctx, t, ManifestInfo{Generation: g, Key: key, Size: in.Size})
		if err != nil && !errs.Is(err, errs.NotFound) { // deleted since it was listed
			return k.blame(key, err)
		}
		return nil
	}
	if key == droppedKey(t) {
		if _, err := k.c.readDropped(ctx, t); err != nil {
			return k.blame(key, err)
		}
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
	if dir == "settings" {
		return k.checkSettings(ctx, key)
	}
	id, err := dr.ParseUUID(dir)
	if err != nil {
		return k.unknown(key)
	}
	vm := dr.VMID{UUID: id}
	if seq, ok := parseHex(key, tracePrefix(vm), 16); ok && seq > 0 {
		if _, err := k.c.readTrace(ctx, vm, dr.Seq(seq)); err != nil {
			return k.blame(key, err)
		}
		return nil
	}
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
		if len(k.journals[t]) > 0 || k.claims[t] > 0 {
			k.problem(Problem{Object: headKey(t), What: "the timeline has no head", Kind: errs.Corrupt})
		}
		return nil
	}
	if t != k.c.domain.Timeline && k.leftover(ctx, headKey(t)) {
		return nil
	}
	k.progress = FsckProgress{Stage: "history", Total: len(k.journals[t])}
	h, err := k.c.openHistory(ctx, t, func(p HistoryProgress) {
		k.progress.Objects = p.Objects
		if k.opts.Progress != nil {
			k.opts.Progress(k.progress)
		}
	})
	if err != nil {
		return k.blame(headKey(t), err)
	}
	k.opened = append(k.opened, h)
	r := TimelineReport{ID: t, Epochs: int(k.claims[t]), Objects: h.Objects(), Fences: int(h.anchor.Fences)}
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
	for _, n := range k.journals[t] {
		if n > h.anchor.Number {
			r.Unread++
		}
	}
	r.Unread = max(0, r.Unread-present)
	for _, p := range h.points {
		if p.Inherited {
			continue
		}
		r.Checkpoints++
		if p.Recoverable {
			r.Recoverable++
		}
	}
	k.historyProblems(h)
	if h.manifest != nil {
		r.Manifest = h.manifest.Generation
		if k.opts.Mode != FsckQuick {
			if err := k.index(ctx, h, &r); err != nil {
				return err
			}
		}
	}
	k.report.Timelines = append(k.report.Timelines, r)
	return nil
}

// historyProblems takes over what opening and walking found, with the
// checkpoints it costs.
func (k *checker) historyProblems(h *History) {
	for _, p := range h.stale {
		if k.opts.Mode == FsckQuick || !strings.HasPrefix(p.Object, manifestPrefix(h.timeline)) {
			k.problem(p) // else reported when names were gone over
		}
	}
	if why := h.base.broken(); why != "" {
		k.problem(Problem{Object: headKey(h.timeline), What: why, Kind: errs.Corrupt, Timeline: h.timeline, Touched: spanFrom(h.points, 0)})
	}
	for _, p := range h.problems {
		n, _ := parseObjectKey(h.timeline, p.Object)
		for _, o := range h.objects {
			if o.number == n && o.lost {
				p.Touched, p.Timeline = spanFrom(h.points, n), h.timeline
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
