package journal

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// HistoryOptions say which history to read.
type HistoryOptions struct {
	// Timeline; zero is the current one: the youngest of the container.
	Timeline dr.TimelineID
	// Progress, if not nil, is called now and then while the history is read,
	// on the reader's goroutine. It must not call the History.
	Progress func(HistoryProgress)
}

// HistoryProgress tells how far reading a history has come. How long the
// history is shows only at its end.
type HistoryProgress struct {
	Objects     int             // journal objects accepted
	Checkpoints int             // checkpoints found
	Newest      dr.ObjectNumber // last number looked at
}

// CheckpointInfo is a checkpoint of a history with where it lies and whether
// it can be recovered.
type CheckpointInfo struct {
	dr.Checkpoint
	Object      dr.ObjectNumber `json:"object"`       // the journal object that carries it
	PublishedAt time.Time       `json:"published_at"` // when that was written, publisher's clock
	Recoverable bool            `json:"recoverable"`
	Why         string          `json:"why,omitempty"`      // why it is not recoverable
	Suspect     string          `json:"suspect,omitempty"`  // why its content looks wrong
	Retained    []Reason        `json:"retained,omitempty"` // why it is still there; empty: it is too young to be thinned out
	Tags        []string        `json:"tags,omitempty"`     // names given after the fact, besides Tag
	// Inherited is set for the checkpoint a branch began at: it is the
	// parent's, and Object is 0.
	Inherited bool `json:"inherited,omitempty"`
}

// Named reports whether the checkpoint has the tag, its own or a later one.
func (p *CheckpointInfo) Named(tag string) bool {
	return tag != "" && (p.Tag == tag || slices.Contains(p.Tags, tag))
}

// objectRef is what is kept of an accepted object: 32 bytes, so that a month
// of 5-second objects, unmaintained, takes 16 MB.
type objectRef struct {
	number dr.ObjectNumber
	size   int64
	epoch  dr.Epoch
	kind   segment.Kind
	lost   bool // its content cannot be read
	print  Fingerprint
}

// History is a timeline as its container tells it: what the newest manifest
// says, and behind its anchor the accepted journal objects and their
// checkpoints. It keeps about 32 bytes an object behind the anchor and 250
// bytes a checkpoint (disk lists that do not change are kept once), the
// manifest, and maxEnds of footers; other footers and content stay in the store.
// Safe for concurrent use.
type History struct {
	c        *Container
	timeline dr.TimelineID
	progress func(HistoryProgress)
	base     *forkBase // where the branch began; nil for a first timeline

	ends lru[dr.ObjectNumber, *loaded] // of the newest objects

	extending sync.Mutex // one Extend at a time

	mu       sync.RWMutex // guards all below
	chain    chain
	unlinked bool // an object's loss left the chain's digest unknown at next
	broken   bool // something lies at next that is not this history's
	manifest *Manifest
	stale    []Problem // newer manifests that are damaged, and damaged pins
	anchor   Anchor    // the manifest's; the zero one when there is none
	objects  []objectRef
	points   []CheckpointInfo
	tags     map[dr.CheckpointID][]string
	problems []Problem       // of the chain
	dropped  int             // problems beyond maxProblems
	lostAt   dr.ObjectNumber // first object whose content is lost; 0: none
	lostWhy  string
	last     dr.Seq
}

// History reads a timeline: its newest manifest, and behind that heads, tails
// and footers of its journal objects with readParallel reads at once, no
// content. Without a manifest it begins with the first object. Objects that
// are damaged become problems and make the checkpoints that rest on them
// unrecoverable; only the store's own failures and a missing timeline are
// errors.
func (c *Container) History(ctx context.Context, opts HistoryOptions) (*History, error) {
	t, err := c.pickTimeline(ctx, opts.Timeline)
	if err != nil {
		return nil, err
	}
	h, err := c.openHistory(ctx, t, opts.Progress)
	if err != nil {
		return nil, err
	}
	return h, h.readTags(ctx)
}

// Timeline returns which timeline this is the history of.
func (h *History) Timeline() dr.TimelineID { return h.timeline }

// Checkpoints returns all checkpoints, oldest first. The slice is the
// caller's; what it points to is shared and must not be changed.
func (h *History) Checkpoints() []CheckpointInfo {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Clone(h.points)
}

// Problems returns what was found wrong so far: damaged manifests and pins,
// then what is wrong behind the anchor, in the order of the history. What lies
// at or below the anchor is not looked at: Fsck does that.
func (h *History) Problems() []Problem {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Concat(h.stale, h.problems)
}

// chainProblems are those that cost what is published from now on.
func (h *History) chainProblems() []Problem {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.problems
}

// LastSeq returns the newest seq the history's readable objects hold.
func (h *History) LastSeq() dr.Seq {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.last
}

// Objects returns the number of journal objects accepted since the timeline
// began, fences included. Of those at or below the anchor it is what the
// manifest says; they may be gone.
func (h *History) Objects() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return int(h.anchor.Objects) + len(h.objects)
}

// Newest returns the number of the last accepted object; 0 when there is none.
func (h *History) Newest() dr.ObjectNumber {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.objects) == 0 {
		return h.anchor.Number
	}
	return h.objects[len(h.objects)-1].number
}

// objectsUpTo returns the accepted objects behind the anchor with a number not
// above n.
func (h *History) objectsUpTo(n dr.ObjectNumber) []objectRef {
	h.mu.RLock()
	defer h.mu.RUnlock()
	i := sort.Search(len(h.objects), func(i int) bool { return h.objects[i].number > n })
	return h.objects[:i:i] // accepted objects never change
}

// take makes an accepted object part of the history.
func (h *History) take(l *loaded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ref := objectRef{number: l.number, size: l.size, epoch: l.header.Epoch, kind: l.header.Kind, print: FingerprintOf(l.header.Object)}
	if err := l.damaged(); err != nil {
		ref.lost = true
		h.loseLocked(l.number, l.key, err)
	}
	h.objects = append(h.objects, ref)
	h.keepEnds(l)
	if l.footer == nil {
		return
	}
	if f := l.footer; f.Last >= f.First && f.Last > 0 {
		if f.First <= h.last {
			h.problemLocked(Problem{Object: l.key, What: "its records do not come after those of the objects before it", Kind: errs.Corrupt})
		}
		h.last = max(h.last, f.Last)
	}
	if l.footer.Checkpoint != nil {
		h.addPointLocked(l)
	}
}

func (h *History) addPointLocked(l *loaded) {
	p := CheckpointInfo{Checkpoint: *l.footer.Checkpoint, Object: l.number, PublishedAt: l.header.Created}
	if n := len(h.points); n > 0 {
		before := &h.points[n-1]
		if p.ID <= before.ID || p.Seq < before.Seq {
			h.problemLocked(Problem{Object: l.key, What: "its checkpoint does not come after the one before it", Kind: errs.Corrupt})
		}
		if slices.Equal(p.Disks, before.Disks) {
			p.Disks = before.Disks // kept once
		}
	}
	h.judgeLocked(&p)
	h.points = append(h.points, p)
}

// judgeLocked finds out whether p can be recovered, and its tags.
func (h *History) judgeLocked(p *CheckpointInfo) {
	p.Recoverable, p.Why = p.Checkpoint.Recoverable()
	p.Tags = h.tags[p.ID]
	if why := h.base.broken(); why != "" {
		p.Recoverable, p.Why = false, why
	}
	if h.lostAt != 0 && p.Object >= h.lostAt {
		p.Recoverable, p.Why = false, h.lostWhy
	}
}

// loseLocked notes that the content of object n is gone. Nobody can know which
// blocks it held, so every later checkpoint rests on it.
func (h *History) loseLocked(n dr.ObjectNumber, key string, err error) {
	kind := errs.KindOf(err)
	if kind == errs.Internal {
		kind = errs.Corrupt
	}
	h.problemLocked(Problem{Object: key, What: err.Error(), Kind: kind})
	if h.lostAt == 0 {
		h.lostAt = n
		h.lostWhy = "it rests on journal object " + key + ", which is damaged or missing"
		if len(h.stale) > 0 && h.manifest != nil {
			// The newest manifest cannot be read, and the object may have been
			// deleted under it. What was found before it behind the older anchor
			// may lie under a freed name.
			h.lostAt = h.anchor.Number + 1
			h.lostWhy = "the newest manifest is damaged, and " + h.lostWhy
			h.points = slices.Clone(h.points) // shared with readers
			for i := range h.points {
				h.judgeLocked(&h.points[i])
			}
		}
	}
}

func (h *History) problemLocked(p Problem) {
	if len(h.problems) >= maxProblems {
		h.dropped++
		return
	}
	if !slices.ContainsFunc(h.problems, func(q Problem) bool { return q.Object == p.Object && q.What == p.What }) {
		h.problems = append(h.problems, p)
	}
}

// tellProgress calls the user's function.
func (h *History) tellProgress() {
	if h.progress == nil {
		return
	}
	h.mu.RLock()
	p := HistoryProgress{Objects: int(h.anchor.Objects) + len(h.objects), Checkpoints: len(h.points), Newest: h.chain.next - 1}
	h.mu.RUnlock()
	h.progress(p)
}
