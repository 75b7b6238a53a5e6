package recovery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
)

// recordName is the record's file in a run's directory.
const recordName = "run.json"

// recordFormat is the version of run.json this release writes and reads.
const recordFormat = 1

// Record is all a run must know after its process has died. It holds no secret.
type Record struct {
	Format    int       `json:"format"`
	ID        dr.UUID   `json:"run"`
	Operation Operation `json:"operation"`
	State     State     `json:"state"`
	Created   time.Time `json:"created"`
	Updated   time.Time `json:"updated"`
	Request   Request   `json:"request"`

	Domain dr.DomainID `json:"domain"`
	Name   string      `json:"name"` // the domain's

	Action Action       `json:"action"` // of the newest step
	Try    int          `json:"try"`    // counts actions begun, from 1
	Steps  []StepRecord `json:"steps"`

	// What was decided and made, and must be undone or kept.
	Parent     dr.TimelineID           `json:"parent"`               // the source's timeline
	Checkpoint *journal.CheckpointInfo `json:"checkpoint,omitempty"` // the chosen one
	Chosen     string                  `json:"chosen,omitempty"`     // how, in words
	Fence      dr.Epoch                `json:"fence,omitempty"`      // claimed on Parent
	Fork       dr.TimelineID           `json:"fork"`                 // zero: none
	Pins       []dr.UUID               `json:"pins,omitempty"`       // not released
	VMs        []VMRecord              `json:"vms,omitempty"`        // in the order of their start
	Disks      []DiskRecord            `json:"disks,omitempty"`
	Hydrated   bool                    `json:"hydrated,omitempty"` // every disk is a whole file
	Watch      Watch                   `json:"watch,omitempty"`
	Committed  bool                    `json:"committed,omitempty"` // there is no way back but failback
	Stopped    []dr.VMID               `json:"stopped,omitempty"`   // guests of the source that were shut down
	Launched   []Process               `json:"launched,omitempty"`  // the protection here
	BootedAt   time.Time               `json:"booted_at,omitzero"`  // when the last VM of the run ran
	Decide     time.Time               `json:"decide,omitzero"`     // when Request.Auto takes effect

	Bytes int64 `json:"bytes_read"` // from the store, all tries

	Error  string `json:"error,omitempty"` // why the state is Incomplete
	Kind   string `json:"kind,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// StepStatus is how a step stands. Names are stable.
type StepStatus string

// The statuses of a step.
const (
	Running  StepStatus = "running"
	Done     StepStatus = "done"
	Failed   StepStatus = "failed"
	Canceled StepStatus = "cancelled"
)

// StepRecord is one try of one step.
type StepRecord struct {
	Try      int        `json:"try"`
	Action   Action     `json:"action"`
	Name     string     `json:"step"`
	Status   StepStatus `json:"status"`
	Begun    time.Time  `json:"begun"`
	Ended    time.Time  `json:"ended,omitzero"`
	Bytes    int64      `json:"bytes,omitempty"` // done, of those to do
	Total    int64      `json:"bytes_total,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// VMRecord is a VM of the run.
type VMRecord struct {
	Source   dr.VMID      `json:"source"` // in the container; another only in a clone
	Config   dr.VMConfig  `json:"config"` // as it is built here, overrides applied
	Recorded *dr.VMConfig `json:"recorded,omitempty"`
	Group    int          `json:"group"` // groups start one after the other, from 0
	State    string       `json:"vm_state,omitempty"`
	Started  time.Time    `json:"started,omitzero"`
	Serial   string       `json:"serial,omitempty"`  // socket
	Monitor  string       `json:"monitor,omitempty"` // socket for a host component
	Error    string       `json:"error,omitempty"`
	Shot     string       `json:"screenshot,omitempty"` // below evidence/
}

// DiskRecord is a disk of the run.
type DiskRecord struct {
	ID     dr.DiskID `json:"id"`     // as its VM here knows it
	Source dr.DiskID `json:"source"` // in the container; another only in a clone
	VM     dr.VMID   `json:"vm"`     // as here
	Size   int64     `json:"size"`
	Bytes  int64     `json:"content"` // the rest is zeroes
	Path   string    `json:"path"`    // relative to the run's directory, or absolute: an old disk
}

// Process is a process that was started and outlives the run's owner.
type Process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks: pid and start are one process
}

// old reports whether the disk was there before the run, and stays.
func (d *DiskRecord) old() bool { return filepath.IsAbs(d.Path) }

// VM returns the VM of an id, or nil.
func (rec *Record) VM(id dr.VMID) *VMRecord {
	i := slices.IndexFunc(rec.VMs, func(v VMRecord) bool { return v.Config.ID == id })
	if i < 0 {
		return nil
	}
	return &rec.VMs[i]
}

// clone copies a record, so that a change can be given up and a reader is
// never shown half of one.
func (rec *Record) clone() *Record {
	b, err := json.Marshal(rec)
	if err != nil {
		panic("recovery: a record always marshals: " + err.Error())
	}
	c := new(Record)
	if err := json.Unmarshal(b, c); err != nil {
		panic("recovery: a record always unmarshals: " + err.Error())
	}
	return c
}

// encode renders the record; kind Full when it has become too large.
func (rec *Record) encode() ([]byte, error) {
	b, err := json.MarshalIndent(rec, "", "  ")
	if err == nil && len(b) >= maxRecord {
		err = errs.New("recovery.save", errs.Full, recordName, "the record is larger than any may be").WithRemedy("recover fewer VMs in one run")
	}
	return append(b, '\n'), err
}

// decode parses a record strictly. Kinds: Invalid (another release's), Corrupt.
func decode(b []byte) (*Record, error) {
	const op = "recovery.open"
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, errs.E(op, errs.Corrupt, recordName, err).WithRemedy(remedyRecord)
	}
	if head.Format != recordFormat {
		return nil, errs.New(op, errs.Invalid, recordName, fmt.Sprintf("the record has format %d, this release knows %d", head.Format, recordFormat)).
			WithRemedy("use the release of Holdfast that began the run")
	}
	rec := new(Record)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(rec); err != nil {
		return nil, errs.E(op, errs.Corrupt, recordName, err).WithRemedy(remedyRecord)
	}
	if err := rec.check(); err != nil {
		return nil, errs.E(op, errs.Corrupt, recordName, err).WithRemedy(remedyRecord)
	}
	return rec, nil
}

const remedyRecord = "recover into another directory; what this run made is listed in docs/operate/recover.md"

// check refuses what would lead a later step out of the run's directory, or
// past a bound.
func (rec *Record) check() error {
	switch {
	case rec.ID.IsZero() || !slices.Contains(operations, rec.Operation):
		return fmt.Errorf("no run, or none of a known operation")
	case !slices.Contains([]Action{Recover, Commit, Rollback, Unwind, Reprotect, Cleanup}, rec.Action):
		return fmt.Errorf("action %q is not known", rec.Action)
	case !slices.Contains([]Watch{Unwatched, Untouched, Begun, Watched}, rec.Watch):
		return fmt.Errorf("watch %q is not known", rec.Watch)
	case !knownState(rec.State):
		return fmt.Errorf("state %q is not known", rec.State)
	case len(rec.VMs) > maxVMs || len(rec.Disks) > maxVMs*hypervisor.MaxDisks || len(rec.Steps) > maxSteps || len(rec.Launched) > 2:
		return fmt.Errorf("more of something than any run has")
	}
	for _, d := range rec.Disks {
		if d.Path == "" || d.Size <= 0 || d.Size > dr.MaxDiskSize || !d.old() && !filepath.IsLocal(d.Path) {
			return fmt.Errorf("disk %s at %q of %d bytes", d.ID, d.Path, d.Size)
		}
	}
	for _, v := range rec.VMs {
		if v.Shot != "" && !filepath.IsLocal(v.Shot) {
			return fmt.Errorf("screenshot at %q", v.Shot)
		}
	}
	for _, p := range rec.Launched {
		if p.PID <= 1 {
			return fmt.Errorf("process %d", p.PID)
		}
	}
	return rec.Request.check()
}

func knownState(s State) bool {
	switch s {
	case Tested, BeforeCommit, FailedOver, Protected, RolledBack, Unwound, Cloned, Clean, Incomplete, CleanupIncomplete:
		return true
	}
	return s.Active()
}

// step returns the current try's record of a step, or nil.
func (rec *Record) step(name string) *StepRecord {
	for i := len(rec.Steps) - 1; i >= 0 && rec.Steps[i].Try == rec.Try; i-- {
		if rec.Steps[i].Name == name {
			return &rec.Steps[i]
		}
	}
	return nil
}

// add appends a step, at the cost of the oldest if need be.
func (rec *Record) add(s StepRecord) {
	if len(rec.Steps) >= maxSteps {
		rec.Steps = slices.Delete(rec.Steps, 0, len(rec.Steps)-maxSteps+1)
	}
	rec.Steps = append(rec.Steps, s)
}

// warn notes a warning of the newest step.
func (s *StepRecord) warn(words string) {
	if len(words) > maxWords {
		words = words[:maxWords]
	}
	if len(s.Warnings) < maxWarnings && !slices.Contains(s.Warnings, words) {
		s.Warnings = append(s.Warnings, words)
	}
}

// readRecord reads a run's record. Kind NotFound when dir holds no run.
func readRecord(fs durable.FS, dir string) (*Record, error) {
	path := filepath.Join(dir, recordName)
	b, err := durable.ReadFile(fs, path, maxRecord)
	if errs.Is(err, errs.NotFound) {
		return nil, errs.E("recovery.open", errs.NotFound, dir, fmt.Errorf("there is no recovery in this directory")).
			WithRemedy("see those there are with: holdfast recover list PARENT-DIRECTORY")
	}
	if err != nil {
		return nil, errs.E("recovery.open", errs.Internal, path, err)
	}
	rec, err := decode(b)
	if err != nil {
		return nil, errs.E("recovery.open", errs.Internal, dir, err)
	}
	return rec, nil
}
