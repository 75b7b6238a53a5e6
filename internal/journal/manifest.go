package journal

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// Manifest is what a timeline's history is up to its anchor: which index runs
// and objects make it, which checkpoints are retained, what is to be deleted.
// The newest one counts; behind its anchor the journal objects go on. It is
// plain data and not safe for concurrent change.
type Manifest struct {
	Timeline   dr.TimelineID `json:"timeline"`
	Generation uint64        `json:"generation"` // 1 is the first
	Created    time.Time     `json:"created"`
	By         string        `json:"by"` // who made it, for people

	Anchor Anchor `json:"anchor"`
	// Runs hold the index, newest first. Their seq ranges are disjoint and
	// adjacent: a run begins where the one behind it ends.
	Runs []RunRef `json:"runs"`
	// Objects are the journal and data objects that Runs refer to, and every
	// journal object at or below the anchor that may still be in the store.
	// Sorted by ObjectID.Compare.
	Objects []ObjectState `json:"objects"`
	// Points are the retained checkpoints at or below the anchor, by number.
	Points []Point `json:"points"`
	// Tombstones are objects that nothing needs any more, oldest first.
	Tombstones []Tombstone `json:"tombstones"`
	// Children are the branches whose fork this manifest keeps recoverable.
	Children []Child `json:"children"`
	Policy   Policy  `json:"policy"`
	Stats    Stats   `json:"stats"`
	// Counted is what the last merge of the whole index counted; nil when none has
	// yet, as in manifests of version 1.
	Counted *Counted `json:"counted,omitempty"`
}

// Anchor is the place in a timeline's chain up to which a manifest speaks.
// The zero value is the beginning of a timeline.
type Anchor struct {
	Number  dr.ObjectNumber `json:"number"`   // last journal object contained; 0: none
	Digest  segment.Digest  `json:"-"`        // of that object
	Epoch   dr.Epoch        `json:"epoch"`    // its reign
	Next    dr.ObjectNumber `json:"next"`     // where walking goes on
	LastSeq dr.Seq          `json:"last_seq"` // newest record contained
	Objects uint64          `json:"objects"`  // accepted up to here, fences included
	Fences  uint64          `json:"fences"`   // of them
}

// RunRef is an index run: entries sorted by disk, chunk and seq, over one or
// more parts with ascending keys.
type RunRef struct {
	First   dr.Seq    `json:"first"` // records covered, ends included
	Last    dr.Seq    `json:"last"`
	Entries uint64    `json:"entries"`
	Parts   []PartRef `json:"parts"`
}

// PartRef is one object x/<uuid> of a run.
type PartRef struct {
	ID      dr.UUID `json:"part"`
	Size    int64   `json:"size"` // bytes in the store
	Entries uint64  `json:"entries"`
	First   PartKey `json:"first"` // of its first entry
	Last    PartKey `json:"last"`  // the last chunk an entry touches, on the last disk
}

// PartKey is a place in the order of a run.
type PartKey = index.Key

// ObjectState is what a manifest knows of an object.
type ObjectState struct {
	ID      index.ObjectID `json:"object"`
	Size    int64          `json:"size"`    // bytes in the store
	Live    int64          `json:"live"`    // bytes of the frames that Runs refer to
	Created time.Time      `json:"created"` // from its header
	Retain  time.Time      `json:"retain"`  // the store refuses to delete it before; zero: no lock
	// Print tells a journal object from any other that was sealed under its name;
	// a data object's name does that. 0: not known, as from manifests of version 1.
	Print Fingerprint `json:"-"`
}

// Fingerprint is the second half of an object's uuid, which its key is derived
// from: who has no data key cannot make another object with it.
type Fingerprint uint64

// FingerprintOf is the fingerprint of the object with a uuid.
func FingerprintOf(id dr.UUID) Fingerprint { return Fingerprint(binary.LittleEndian.Uint64(id[8:])) }

// differs reports whether the object with a uuid is another than f is of. The
// zero Fingerprint is of any.
func (f Fingerprint) differs(id dr.UUID) bool { return f != 0 && f != FingerprintOf(id) }

// Counted is how much of the store each checkpoint needs, counted frame by
// frame while the whole index was merged.
type Counted struct {
	At     time.Time      `json:"at"`     // retention's time then
	Made   time.Time      `json:"made"`   // when that was, by the maintainer's clock
	Points []CountedPoint `json:"points"` // retained then, by number
	Head   int64          `json:"head"`   // bytes of frames that only the open head sees
}

// CountedPoint is what was counted of one checkpoint.
type CountedPoint struct {
	ID    dr.CheckpointID `json:"id"`
	Time  time.Time       `json:"time"`
	Last  int64           `json:"last"`  // bytes of frames whose newest viewer it is
	Alone int64           `json:"alone"` // bytes of frames that it sees and no other does
}

// ReasonKind says why a checkpoint is retained.
type ReasonKind string

// The reasons. All but BySchedule and ByNewest name something.
const (
	BySchedule ReasonKind = "schedule" // the schedule has a slot for it; the name is the slot's, as "1m"
	ByTag      ReasonKind = "tag"
	ByHold     ReasonKind = "hold"
	ByFork     ReasonKind = "fork" // the name is the branch's timeline
	ByRead     ReasonKind = "read" // somebody reads it
	ByNewest   ReasonKind = "newest"
)

var reasonKinds = []ReasonKind{BySchedule, ByTag, ByHold, ByFork, ByRead, ByNewest} // by number in the format

// Reason is one reason why a checkpoint is retained.
type Reason struct {
	Kind ReasonKind `json:"kind"`
	Name string     `json:"name,omitempty"`
}

// String is "kind name".
func (r Reason) String() string {
	if r.Name == "" {
		return string(r.Kind)
	}
	return string(r.Kind) + " " + r.Name
}

// Point is a retained checkpoint.
type Point struct {
	dr.Checkpoint
	Object      dr.ObjectNumber `json:"object"` // the journal object that carried it
	PublishedAt time.Time       `json:"published_at"`
	Suspect     string          `json:"suspect,omitempty"` // why its content looks wrong, as encrypted by an attacker
	Reasons     []Reason        `json:"reasons"`
}

// Tombstone is an object that nothing refers to. It is deleted once it is old
// enough and still nothing does.
type Tombstone struct {
	Key   string    `json:"key"`
	Since time.Time `json:"since"` // first manifest that did without it
	Bytes int64     `json:"bytes"`
}

// Child is a branch that left this timeline.
type Child struct {
	Timeline   dr.TimelineID   `json:"timeline"`
	Checkpoint dr.CheckpointID `json:"checkpoint"`
	Seq        dr.Seq          `json:"seq"` // of the checkpoint
}

// Policy is the retention policy a manifest was made under.
type Policy struct {
	Schedule  []Slot        `json:"schedule"`
	SizeLimit int64         `json:"size_limit"` // bytes of history; 0: none
	AlarmOnly bool          `json:"alarm_only"` // beyond SizeLimit: alarm instead of a shorter history
	Floor     time.Duration `json:"floor"`      // SizeLimit never shortens history below
	Grace     time.Duration `json:"grace"`      // how long what nothing needs is kept
	// TagFor is how long tagged and quiesced checkpoints stay; 0: as long as the
	// schedule.
	TagFor time.Duration `json:"tag_for"`
	// LockMode and LockWindow say how what is needed is held against deletion; ""
	// and 0: it is not. Manifests of version 1 tell none of these three.
	LockMode   store.LockMode `json:"lock_mode,omitempty"`
	LockWindow time.Duration  `json:"lock_window,omitempty"`
}

// lockModes are the modes by number in the format.
var lockModes = []store.LockMode{"", store.LockGovernance, store.LockCompliance}

// Slot keeps one checkpoint every so often, for so long.
type Slot struct {
	Every time.Duration `json:"every"`
	For   time.Duration `json:"for"`
}

// Stats are a manifest's figures, for people.
type Stats struct {
	Stored      int64         `json:"stored"`      // bytes of all objects of the history
	Live        int64         `json:"live"`        // of them needed
	Reclaimable int64         `json:"reclaimable"` // of them under tombstones
	Index       int64         `json:"index"`       // bytes of the runs
	Entries     uint64        `json:"entries"`
	Written     int64         `json:"written"` // bytes of data and index written by all passes
	LastRun     time.Time     `json:"last_run"`
	Took        time.Duration `json:"took"`
	Paused      string        `json:"paused,omitempty"` // why maintenance rests
}

// compareKeys is the order of a run.
func compareKeys(a, b index.Key) int {
	return cmp.Or(slices.Compare(a.Disk.UUID[:], b.Disk.UUID[:]), cmp.Compare(a.Chunk, b.Chunk))
}

// Object finds an object's state; nil when the manifest has no such object.
func (m *Manifest) Object(id index.ObjectID) *ObjectState {
	i, ok := slices.BinarySearchFunc(m.Objects, id, func(o ObjectState, id index.ObjectID) int { return o.ID.Compare(id) })
	if !ok {
		return nil
	}
	return &m.Objects[i]
}

// Check tells what makes m no manifest that could be relied on. Kind Invalid.
func (m *Manifest) Check() error {
	bad := func(format string, args ...any) error {
		return errs.New("journal.Manifest", errs.Invalid, manifestKey(m.Timeline, m.Generation), fmt.Sprintf(format, args...))
	}
	switch {
	case m.Timeline.IsZero() || m.Generation == 0:
		return bad("it has no timeline or generation")
	case len(m.Runs) > maxRuns || len(m.Objects) > maxManifestObjects || len(m.Points) > maxPoints ||
		len(m.Tombstones) > maxTombstones || len(m.Children) > maxTimelines || len(m.Policy.Schedule) > maxSlots:
		return bad("a list of it is longer than the format allows")
	case len(m.By) > maxName || len(m.Stats.Paused) > maxWords:
		return bad("a text of it is longer than the format allows")
	}
	for _, f := range []func() string{m.checkAnchor, m.checkRuns, m.checkObjects, m.checkPoints, m.checkRest} {
		if what := f(); what != "" {
			return bad("%s", what)
		}
	}
	return nil
}

func (m *Manifest) checkAnchor() string {
	a := m.Anchor
	switch {
	case a.Number == 0:
		if a != (Anchor{Next: FirstNumber, LastSeq: a.LastSeq}) {
			return "its anchor is before the first object and has properties of one"
		}
	case a.Next != a.Number+1 && a.Next != a.Number+Window || a.Epoch == 0 || a.Digest.IsZero() || a.Objects == 0:
		return "its anchor is none an accepted object gives"
	case a.Objects > uint64(a.Number) || a.Fences > a.Objects:
		return "its anchor counts more objects than there are numbers"
	}
	return ""
}

func (m *Manifest) checkRuns() string {
	parts := 0
	for i, r := range m.Runs {
		var entries uint64
		if parts += len(r.Parts); parts > maxParts {
			return "it has more index parts than the format allows"
		}
		if r.First > r.Last || r.Last > m.Anchor.LastSeq {
			return fmt.Sprintf("run %d covers records %d to %d, the anchor ends at %d", i, r.First, r.Last, m.Anchor.LastSeq)
		}
		if i > 0 && m.Runs[i-1].First != r.Last+1 {
			return fmt.Sprintf("run %d does not begin where run %d ends", i-1, i)
		}
		for j, p := range r.Parts {
			if p.ID.IsZero() || p.Size <= 0 || p.Entries == 0 || compareKeys(p.First, p.Last) > 0 {
				return fmt.Sprintf("part %d of run %d makes no sense", j, i)
			}
			if j > 0 && compareKeys(r.Parts[j-1].First, p.First) > 0 {
				return fmt.Sprintf("parts %d and %d of run %d are out of order", j-1, j, i)
			}
			entries += p.Entries
		}
		if entries != r.Entries {
			return fmt.Sprintf("the parts of run %d hold %d entries, not %d", i, entries, r.Entries)
		}
	}
	return ""
}

func (m *Manifest) checkObjects() string {
	for i, o := range m.Objects {
		switch {
		case !o.ID.Valid():
			return fmt.Sprintf("object %d names nothing", i)
		case i > 0 && m.Objects[i-1].ID.Compare(o.ID) >= 0:
			return fmt.Sprintf("object %d is out of order or there twice", i)
		case o.Size < 0 || o.Live < 0 || o.Live > o.Size:
			return fmt.Sprintf("object %d has %d live bytes of %d", i, o.Live, o.Size)
		case o.ID.Timeline == m.Timeline && o.ID.Number > m.Anchor.Number:
			return fmt.Sprintf("object %d lies beyond the anchor", i)
		}
	}
	return ""
}

func (m *Manifest) checkPoints() string {
	for i, p := range m.Points {
		switch {
		case p.Object == 0 || p.Object > m.Anchor.Number:
			return fmt.Sprintf("checkpoint #%d lies beyond the anchor", p.ID)
		case p.Seq > m.Anchor.LastSeq+1:
			return fmt.Sprintf("checkpoint #%d holds records beyond the anchor", p.ID)
		case i > 0 && (m.Points[i-1].Object >= p.Object || m.Points[i-1].ID >= p.ID || m.Points[i-1].Seq > p.Seq):
			return fmt.Sprintf("checkpoint #%d is out of order", p.ID)
		case len(p.Tag) > segment.MaxTag || len(p.Missing) > segment.MaxMissing || len(p.Disks) > segment.MaxDisks ||
			len(p.Suspect) > maxWords || len(p.Reasons) > maxReasons:
			return fmt.Sprintf("a list of checkpoint #%d is longer than the format allows", p.ID)
		case p.Kind > dr.UserTagged || p.Scope > dr.Group:
			return fmt.Sprintf("checkpoint #%d is of no known kind", p.ID)
		}
		for _, r := range p.Reasons {
			if !slices.Contains(reasonKinds, r.Kind) || len(r.Name) > maxName {
				return fmt.Sprintf("checkpoint #%d is retained for no known reason", p.ID)
			}
		}
		for _, d := range p.Disks {
			if d.Size < 0 || d.Size > dr.MaxDiskSize {
				return fmt.Sprintf("a disk of checkpoint #%d has %d bytes", p.ID, d.Size)
			}
		}
	}
	return ""
}

func (m *Manifest) checkRest() string {
	for i, t := range m.Tombstones {
		if _, _, ok := parseTombKey(t.Key); !ok || t.Bytes < 0 {
			return fmt.Sprintf("tombstone %d (%s) is for nothing that may be deleted", i, t.Key)
		}
	}
	for i, c := range m.Children {
		if c.Timeline.IsZero() || c.Timeline == m.Timeline || i > 0 && slices.Compare(m.Children[i-1].Timeline.UUID[:], c.Timeline.UUID[:]) >= 0 {
			return fmt.Sprintf("branch %d is out of order or no branch", i)
		}
	}
	for _, s := range m.Policy.Schedule {
		if s.Every <= 0 || s.For <= 0 {
			return "its schedule has an empty slot"
		}
	}
	p := &m.Policy
	if p.TagFor < 0 || !slices.Contains(lockModes, p.LockMode) || p.LockWindow < 0 || (p.LockMode == "") != (p.LockWindow == 0) {
		return "its policy has times or a lock that make no sense"
	}
	return m.checkCounted()
}

func (m *Manifest) checkCounted() string {
	if m.Counted == nil {
		return ""
	}
	if len(m.Counted.Points) > maxPoints || m.Counted.Head < 0 {
		return "what was counted is out of bounds"
	}
	for i, p := range m.Counted.Points {
		if p.Last < 0 || p.Alone < 0 || i > 0 && m.Counted.Points[i-1].ID >= p.ID {
			return fmt.Sprintf("what was counted of checkpoint #%d is out of order or below nothing", p.ID)
		}
	}
	return ""
}
