package order

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// State is what the log says about a domain: the result of applying its
// records in order. The zero value is a domain that never ran. The core
// changes its State only by the records it emits, so that a restart, which
// applies the same records, arrives at the same State.
type State struct {
	// Last is the last record applied; the next one is Last+1.
	Last dr.Seq
	// LastCheckpoint and LastRound are the highest numbers used.
	LastCheckpoint dr.CheckpointID
	LastRound      wire.Round

	lastSession dr.Session
	lastIndex   uint16
	sessions    map[dr.Session]*session
	disks       map[uint16]*disk
	byID        map[dr.DiskID]uint16
	open        *dr.Checkpoint // cut, its result not yet known
	inherited   []uint16       // disks the log does not tell of yet
}

type session struct {
	number dr.Session
	host   dr.HostID
	name   string
	nonce  uint64
	ack    dr.AckRule
	binds  map[uint16]uint16 // wire index → domain index
	last   dr.HostSeq
}

type disk struct {
	dr.Disk
	index   uint16
	synced  bool
	syncing dr.Session
	owner   dr.Session
	clean   bool
	run     uint64 // clean: nonce of the run that released it

	suspended bool // unsynced, but the owner's host knows by its sidecar what is missing
	void      bool // the owner's host has no sidecar to go by
	seed      bool // no host has brought it yet

	// origin: nothing of the disk came into the order since the checkpoint that
	// the log began at; the nonce of a sidecar that vouches for that one.
	origin uint64
}

// NewState returns the state of a domain that never ran.
func NewState() *State {
	return &State{
		sessions: map[dr.Session]*session{},
		disks:    map[uint16]*disk{},
		byID:     map[dr.DiskID]uint16{},
	}
}

// Inherit lets a fresh log go on after a history whose log was lost: seqs and
// checkpoint numbers continue, the disks are known, and none is synced. Call
// it on a state that no record was applied to; the core made from it logs the
// disks. last may be nil.
//
// If the history ends with that checkpoint, as a branch does where it begins, a
// host whose sidecar vouches for it copies what that calls open, and no more.
func (s *State) Inherit(t dr.TimelineID, lastSeq dr.Seq, last *dr.Checkpoint) {
	s.Last = lastSeq
	if last == nil {
		return
	}
	s.LastCheckpoint = last.ID
	s.LastRound = wire.Round(last.ID)
	for i, d := range last.Disks {
		if i >= MaxDisks {
			return
		}
		s.lastIndex++
		fresh := &disk{Disk: dr.Disk{ID: d.ID, VM: d.VM, Size: d.Size}, index: s.lastIndex}
		if d.Synced && lastSeq <= last.Seq { // no content has the checkpoint's own place
			fresh.origin = dr.OriginRun(t, last.ID, last.Seq, d.ID)
		}
		s.put(fresh)
		s.inherited = append(s.inherited, s.lastIndex)
	}
}

func (s *State) put(d *disk) {
	if old, ok := s.disks[d.index]; ok {
		delete(s.byID, old.ID)
	}
	s.disks[d.index] = d
	s.byID[d.ID] = d.index
}

// Apply applies the next record of the log, or, to reach the state at a place
// without reading all before it, the records in force there in order of seq:
// of each disk and session the latest Disk, Session, SyncEnd or TrackBegin, and
// the last Checkpoint and CheckpointResult. Errors are of kind Corrupt: the
// log holds a payload that this package would not have written.
func (s *State) Apply(r *record.Record) error {
	s.Last = max(s.Last, r.Seq)
	s.Heard(r.Session, r.HostSeq)
	var err error
	switch r.Kind {
	case record.Checkpoint:
		err = s.applyCut(r)
	case record.CheckpointResult:
		var b ResultBody
		if b, err = DecodeResult(r); err == nil && s.open != nil && s.open.ID == b.ID {
			s.open = nil
		}
	case record.Session:
		err = s.applySession(r)
	case record.Disk:
		err = s.applyDisk(r)
	case record.SyncEnd:
		if d := s.disks[r.Disk]; d != nil {
			d.synced, d.suspended = true, false
		}
	case record.TrackBegin:
		if d := s.disks[r.Disk]; d != nil {
			d.synced, d.syncing, d.suspended, d.origin = false, r.Session, false, 0
		}
	case record.Data, record.Zero, record.Discard:
		if d := s.disks[r.Disk]; d != nil && r.Flags&record.FromSync != 0 {
			d.syncing = r.Session
		}
	}
	if err != nil {
		return errs.E("order.Apply", errs.Corrupt, r.Kind.String(), err).
			WithRemedy("the replication log does not belong to this version; empty it and let the hosts sync again")
	}
	return nil
}

// Heard notes that the log holds a session's records up to h.
func (s *State) Heard(n dr.Session, h dr.HostSeq) {
	if se := s.sessions[n]; se != nil && h > se.last {
		se.last = h
	}
}

func (s *State) applyCut(r *record.Record) error {
	b, err := DecodeCut(r)
	if err != nil {
		return err
	}
	s.takeCut(&b, r)
	return nil
}

func (s *State) takeCut(b *CutBody, r *record.Record) {
	s.LastCheckpoint = max(s.LastCheckpoint, b.ID)
	s.LastRound = max(s.LastRound, b.Round)
	s.lastSession = max(s.lastSession, b.LastSess)
	s.lastIndex = max(s.lastIndex, b.LastDisk)
	for i := range b.Disks {
		// Who is syncing a disk is told by data records alone, which are not
		// kept in force.
		if d := s.disks[b.Disks[i].Index]; d != nil && d.ID == b.Disks[i].ID {
			d.syncing = b.Disks[i].Syncing
		}
	}
	cp := checkpointOf(b, r.Seq, r.Time)
	s.open = &cp
}

func sessionOf(b *SessionBody) *session {
	ack, _ := dr.ParseAckRule(b.Ack)
	se := &session{number: b.Session, host: b.Host, name: b.Name, nonce: b.Nonce, ack: ack, last: b.Last,
		binds: make(map[uint16]uint16, len(b.Binds))}
	for _, x := range b.Binds {
		se.binds[x.Wire] = x.Disk
	}
	return se
}

func diskOf(b *DiskBody) *disk {
	return &disk{Disk: dr.Disk{ID: b.ID, VM: b.VM, Size: b.Size},
		index: b.Index, synced: b.Synced, syncing: b.Syncing, owner: b.Owner, clean: b.Clean, run: b.Run,
		suspended: b.Suspended, void: b.Void, seed: b.Seed, origin: b.Origin}
}

// applySession makes r's session the owner of the disks it binds. Disks it had
// and does not bind any more have no owner. A record without payload ends the
// session.
func (s *State) applySession(r *record.Record) error {
	if r.Length == 0 {
		delete(s.sessions, r.Session)
		return nil
	}
	b, err := DecodeSession(r)
	if err != nil {
		return err
	}
	s.lastSession = max(s.lastSession, b.Session)
	se := sessionOf(&b)
	if old := s.sessions[b.Session]; old != nil {
		se.last = max(se.last, old.last)
	}
	s.sessions[b.Session] = se
	bound := make(map[uint16]bool, len(se.binds))
	for _, i := range se.binds {
		bound[i] = true
	}
	for i, d := range s.disks {
		switch mine := d.owner == b.Session; {
		case bound[i] && !mine:
			d.own(b.Session)
		case mine && !bound[i]:
			d.own(0)
		}
	}
	return nil
}

// own gives the disk to a session that did not have it; 0: to none. What was
// said of the sidecar of its host so far does not count for that one.
func (d *disk) own(n dr.Session) {
	d.owner, d.clean, d.run, d.suspended, d.void, d.origin = n, false, 0, false, false, 0
}

// applyDisk sets a disk's entry; a record without payload removes it.
func (s *State) applyDisk(r *record.Record) error {
	if r.Length == 0 {
		if d := s.disks[r.Disk]; d != nil {
			delete(s.disks, r.Disk)
			delete(s.byID, d.ID)
		}
		return nil
	}
	b, err := DecodeDisk(r)
	if err != nil {
		return err
	}
	s.lastIndex = max(s.lastIndex, b.Index)
	s.put(diskOf(&b))
	return nil
}

// endable lists, in order, sessions that own no disk: the earlier ones of the
// host of session keep, and, when there are many, those of every other host.
func (s *State) endable(keep dr.Session) []dr.Session {
	owns := s.owners()
	many := len(s.sessions) > 2*MaxHosts
	var out []dr.Session
	for n, se := range s.sessions {
		if n != keep && !owns[n] && (many || se.host == s.sessions[keep].host) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// checkpointOf is the tentative checkpoint of a cut.
func checkpointOf(b *CutBody, seq dr.Seq, at int64) dr.Checkpoint {
	cp := dr.Checkpoint{ID: b.ID, Seq: seq, Time: time.Unix(0, at).UTC(), Kind: b.Kind, Scope: dr.Partial, Tag: b.Tag}
	disks := withoutSeeds(b.Disks)
	cp.Disks = make([]dr.CheckpointDisk, len(disks))
	for i := range disks {
		d := &disks[i]
		cp.Disks[i] = dr.CheckpointDisk{ID: d.ID, VM: d.VM, Size: d.Size, Synced: d.Synced}
	}
	return cp
}

// CheckpointOf rebuilds the tentative checkpoint (Scope Partial, nothing
// Missing yet) from its Checkpoint record.
func CheckpointOf(r *record.Record) (dr.Checkpoint, error) {
	b, err := DecodeCut(r)
	if err != nil {
		return dr.Checkpoint{}, err
	}
	return checkpointOf(&b, r.Seq, r.Time), nil
}

// snapshot fills b with the disks, in order of index.
func (s *State) snapshot(b *CutBody) {
	b.LastSess, b.LastDisk = s.lastSession, s.lastIndex
	b.Disks = make([]DiskBody, 0, len(s.disks))
	for _, d := range s.disks {
		b.Disks = append(b.Disks, d.body())
	}
	slices.SortFunc(b.Disks, func(x, y DiskBody) int { return cmp.Compare(x.Index, y.Index) })
}

func (d *disk) body() DiskBody {
	return DiskBody{Op: OpSet, Index: d.index, ID: d.ID, VM: d.VM, Size: d.Size,
		Synced: d.synced, Syncing: d.syncing, Owner: d.owner, Clean: d.clean, Run: d.run,
		Suspended: d.suspended, Void: d.void, Seed: d.seed, Origin: d.origin}
}

// Summary lists what the state says of disks and sessions, a line each, for
// comparison. Who is syncing a disk is left out: records in force tell it only
// as of the last checkpoint.
func (s *State) Summary() []string {
	out := []string{fmt.Sprintf("last %d, checkpoint %d, open %v", s.Last, s.LastCheckpoint, s.open != nil)}
	var b CutBody
	s.snapshot(&b)
	for _, d := range b.Disks {
		d.Syncing = 0
		out = append(out, fmt.Sprintf("disk %+v", d))
	}
	for _, n := range slices.Sorted(maps.Keys(s.sessions)) {
		se := s.sessions[n]
		out = append(out, fmt.Sprintf("session %d of %v, nonce %d, %v, binds %v, last %d", n, se.host, se.nonce, se.ack, se.binds, se.last))
	}
	return out
}

// owners lists the sessions that own a disk: the hosts a restart waits for.
func (s *State) owners() map[dr.Session]bool {
	m := map[dr.Session]bool{}
	for _, d := range s.disks {
		if d.owner != 0 && s.sessions[d.owner] != nil {
			m[d.owner] = true
		}
	}
	return m
}

// Disk returns the disk of a domain index at this point of the order.
func (s *State) Disk(index uint16) (dr.Disk, bool) {
	if d := s.disks[index]; d != nil {
		return d.Disk, true
	}
	return dr.Disk{}, false
}
