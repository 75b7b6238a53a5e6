package journal

import (
	"encoding/json"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Problem is something of a container that is not as it should be.
type Problem struct {
	Object string // key
	What   string
	Kind   errs.Kind
	// Touched are the checkpoints of Timeline that cannot be recovered for it;
	// zero when there is none. What touches several timelines is several
	// problems.
	Touched  CheckpointSpan
	Timeline dr.TimelineID
}

// CheckpointSpan is a run of checkpoints of a history, by id, ends included.
type CheckpointSpan struct {
	First dr.CheckpointID `json:"first,omitempty"`
	Last  dr.CheckpointID `json:"last,omitempty"`
	Count int             `json:"count"`
}

// MarshalJSON renders the kind by name.
func (p Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Object   string          `json:"object"`
		What     string          `json:"what"`
		Kind     string          `json:"kind"`
		Timeline *dr.TimelineID  `json:"timeline,omitempty"`
		Touched  *CheckpointSpan `json:"checkpoints_touched,omitempty"`
	}{p.Object, p.What, p.Kind.String(), timelineOrNil(p), p.Touched.orNil()})
}

func timelineOrNil(p Problem) *dr.TimelineID {
	if p.Timeline.IsZero() {
		return nil
	}
	return &p.Timeline
}

func (s CheckpointSpan) orNil() *CheckpointSpan {
	if s.Count == 0 {
		return nil
	}
	return &s
}

func (s *CheckpointSpan) add(id dr.CheckpointID) {
	if s.Count == 0 {
		s.First = id
	}
	s.Last = id
	s.Count++
}
