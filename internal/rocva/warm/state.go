package warm

import (
	"encoding/json"
	"path/filepath"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// state is standby.json.
type state struct {
	Format     int                    `json:"format"`
	Domain     dr.DomainID            `json:"domain"`
	Timeline   dr.TimelineID          `json:"timeline"`
	At         journal.PointRef       `json:"at"`         // zero: nothing was applied yet
	To         journal.PointRef       `json:"to"`         // zero: nothing is under way
	Checkpoint journal.CheckpointInfo `json:"checkpoint"` // At
	VMs        []dr.VMConfig          `json:"vms"`        // at At
	Disks      []diskState            `json:"disks"`
	Handed     bool                   `json:"handed"`
}

// diskState is a disk of the standby.
type diskState struct {
	ID   dr.DiskID        `json:"id"`
	VM   dr.VMID          `json:"vm"`
	Size int64            `json:"size"`
	Path string           `json:"path"` // below the directory, or absolute
	At   journal.PointRef `json:"at"`   // what it holds, unless To is set; zero: not known
}

func (s *state) disk(id dr.DiskID) *diskState {
	for i := range s.Disks {
		if s.Disks[i].ID == id {
			return &s.Disks[i]
		}
	}
	return nil
}

// config is the VM's configuration; ok is false when none was stored.
func (s *state) config(id dr.VMID) (dr.VMConfig, bool) {
	for _, v := range s.VMs {
		if v.ID == id {
			return v, true
		}
	}
	return dr.VMConfig{}, false
}

// readState reads dir's standby.json; nil when there is none.
func readState(fs durable.FS, dir string) (*state, error) {
	path := filepath.Join(dir, stateFile)
	b, err := durable.ReadFile(fs, path, maxState)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	} else if err != nil {
		return nil, errs.E("warm.Open", errs.Internal, path, err)
	}
	s, err := parseState(b)
	if err != nil {
		return nil, errs.E("warm.Open", errs.Corrupt, path, err).
			WithRemedy("remove the file: the disks beside it are compared with the container then, and what differs is fetched")
	}
	return s, nil
}

// parseState decodes and checks what standby.json holds.
func parseState(b []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, errs.E("warm.parseState", errs.Corrupt, "", err)
	}
	what := ""
	switch {
	case s.Format != stateFormat:
		what = "it is of a release this one does not know"
	case s.Domain.IsZero() || s.Timeline.IsZero():
		what = "it names no domain or no timeline"
	case s.Handed && (s.At.IsZero() || !s.To.IsZero()):
		what = "the disks are said to be handed over, and hold no checkpoint"
	}
	for _, d := range s.Disks {
		if d.Path == "" || d.ID.IsZero() || d.Size < 0 || d.Size > dr.MaxDiskSize {
			what = "a disk makes no sense"
		}
	}
	if what != "" {
		return nil, errs.New("warm.parseState", errs.Corrupt, "", what)
	}
	return &s, nil
}

func writeState(fs durable.FS, dir string, s *state) error {
	s.Format = stateFormat
	path := filepath.Join(dir, stateFile)
	b, err := json.MarshalIndent(s, "", " ")
	if err == nil {
		err = durable.WriteFile(fs, path, append(b, '\n'))
	}
	if err != nil {
		return errs.E("warm.save", errs.Internal, path, err)
	}
	return nil
}
