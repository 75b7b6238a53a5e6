package warm

import (
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
)

// States of a standby.
const (
	Beginning  = "beginning" // nothing was applied yet
	Following  = "following"
	InApply    = "applying"
	HandedOver = "handed over"
)

// Status is how a standby stands.
type Status struct {
	State    string        `json:"state"` // "beginning", "following", "applying", "handed over"
	Dir      string        `json:"dir"`
	Domain   dr.DomainID   `json:"domain"`
	Name     string        `json:"name"`
	Timeline dr.TimelineID `json:"timeline"`

	Checkpoint dr.CheckpointID `json:"checkpoint"` // it stands at; 0: none
	Time       time.Time       `json:"time"`       // of that cut
	Newest     dr.CheckpointID `json:"newest"`     // published and recoverable, as far as is known
	NewestTime time.Time       `json:"newest_time"`
	Lag        float64         `json:"lag_seconds"` // between the two cuts
	LagBytes   int64           `json:"lag_bytes"`   // stored since the one it stands at

	Applying *Applying `json:"applying,omitempty"`
	Applied  int       `json:"applied"` // checkpoints, by this process
	Fetched  int64     `json:"fetched"` // bytes from the store, by this process
	Written  int64     `json:"written"` // bytes to the disks, by this process
	Compared int64     `json:"compared"`
	Error    string    `json:"error,omitempty"` // why it does not follow just now
	Remedy   string    `json:"remedy,omitempty"`

	Disks []Disk `json:"disks"`
}

// Applying is a checkpoint that is being applied.
type Applying struct {
	Checkpoint dr.CheckpointID `json:"checkpoint"`
	Time       time.Time       `json:"time"`
	Bytes      int64           `json:"bytes"` // written of what differs
	BytesTotal int64           `json:"bytes_total"`
}

// Disk is a disk of a standby.
type Disk struct {
	ID   dr.DiskID `json:"id"`
	VM   dr.VMID   `json:"vm"`
	Size int64     `json:"size"`
	Path string    `json:"path"` // its own name, which it has when handed over
}

// Status tells how the standby stands; it never waits.
func (s *Standby) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.status
	if v.Applying != nil {
		a := *v.Applying
		v.Applying = &a
		if v.State == Following {
			v.State = InApply
		}
	}
	return v
}

func (s *Standby) tell(f func(v *Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.status)
}

// tellAt tells where the standby stands. The worker's.
func (s *Standby) tellAt() {
	st := s.state
	var behind int64
	if s.hist != nil && !st.At.IsZero() {
		behind = s.hist.StoredSince(st.Checkpoint.Object)
	}
	disks := disksOf(s.dir, st)
	s.tell(func(v *Status) {
		v.State = Following
		if st.Handed {
			v.State = HandedOver
		} else if st.At.IsZero() {
			v.State = Beginning
		}
		v.Checkpoint, v.Time, v.LagBytes, v.Disks = st.Checkpoint.ID, st.Checkpoint.Time, behind, disks
		if v.Newest <= v.Checkpoint {
			v.Newest, v.NewestTime = v.Checkpoint, v.Time
		}
		v.Lag = v.NewestTime.Sub(v.Time).Seconds()
	})
}

// disksOf are the disks of the checkpoint a state stands at.
func disksOf(dir string, st *state) (out []Disk) {
	for i := range st.Disks {
		if d := &st.Disks[i]; d.At == st.At && !st.At.IsZero() {
			out = append(out, Disk{d.ID, d.VM, d.Size, pathIn(dir, d)})
		}
	}
	return out
}

func (v *Status) newest(cp journal.CheckpointInfo) {
	v.Newest, v.NewestTime = cp.ID, cp.Time
	if v.Checkpoint != 0 {
		v.Lag = cp.Time.Sub(v.Time).Seconds()
	}
}

func (v *Status) applied(r *rocva.UpdateResult) {
	v.Applied++
	v.Fetched += r.Fetched
	v.Written += r.Written
	v.Compared += r.Compared
}

func (v *Status) failed(err error) {
	v.Error, v.Remedy = "", ""
	if err != nil {
		v.Error, v.Remedy = err.Error(), errs.RemedyOf(err)
	}
}

func (s *Standby) progress(p rocva.Progress) {
	s.tell(func(v *Status) {
		if v.Applying != nil {
			v.Applying.Bytes, v.Applying.BytesTotal = p.Bytes, p.BytesTotal
		}
	})
	if s.opts.Progress != nil {
		s.opts.Progress(p)
	}
}
