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
	// Touched are the checkpoints that cannot be recovered for it; zero when
	// there is none.
	Touched CheckpointSpan
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
		Object  string          `json:"object"`
		What    string          `json:"what"`
		Kind    string          `json:"kind"`
		Touched *CheckpointSpan `json:"checkpoints_touched,omitempty"`
	}{p.Object, p.What, p.Kind.String(), p.Touched.orNil()})
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
