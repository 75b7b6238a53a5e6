package qemu

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// A run's directory, DIR/holdfast-vm-*, is locked for as long as its QEMU lives,
// by a descriptor that QEMU inherits and knows nothing of. In it, of a VM that
// is kept, from before QEMU starts until after it ended:
//
//	vm.json    what the VM is: run
//	adopt      QMP monitor for a provider that takes the VM over
//	monitor    QMP monitor for the host component
//	agent      the port of the guest's agent, if it has one
const (
	runPrefix     = "holdfast-vm-"
	runFile       = "vm.json"
	adoptSocket   = "adopt"
	monitorSocket = "monitor"
	serialSocket  = "serial"
	agentSocket   = "agent"
)

// run is what a provider must know of a VM that another one started.
type run struct {
	ID     dr.VMID   `json:"id"`
	Name   string    `json:"name"`
	Disks  []runDisk `json:"disks"` // by their place
	Keep   bool      `json:"keep"`
	Serial bool      `json:"serial"`
	Screen bool      `json:"screen"`
	Agent  bool      `json:"agent,omitempty"`
	Direct bool      `json:"direct"`
}

// runDisk is a disk of a run.
type runDisk struct {
	ID   dr.DiskID         `json:"id"`
	Name string            `json:"name"`
	Size int64             `json:"size"` // bytes
	From hypervisor.Source `json:"from"`
}

func newRun(spec *hypervisor.Spec) run {
	r := run{
		ID: spec.Config.ID, Name: spec.Config.Name,
		Keep: spec.Keep, Serial: spec.Serial, Screen: spec.Screen, Agent: spec.Agent, Direct: spec.Direct,
	}
	for _, d := range spec.Config.Disks {
		r.Disks = append(r.Disks, runDisk{ID: d.ID, Name: d.Name, Size: d.Size, From: spec.Sources[d.ID]})
	}
	return r
}

// write leaves r in a run's directory.
func (r *run) write(dir string) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = durable.WriteFile(durable.OS{}, filepath.Join(dir, runFile), b)
	}
	if err != nil {
		return errs.E("qemu.Start", errs.Unavailable, dir, err)
	}
	return nil
}

// readRun reads what write left. Kinds: NotFound, Corrupt, Unavailable.
func readRun(dir string) (run, error) {
	b, err := durable.ReadFile(durable.OS{}, filepath.Join(dir, runFile), maxRunFile)
	if err != nil {
		return run{}, err
	}
	return decodeRun(b)
}

// decodeRun is the inverse of a run's JSON.
func decodeRun(b []byte) (run, error) {
	var r run
	err := json.Unmarshal(b, &r)
	if err == nil && (r.ID.IsZero() || r.Name == "" || !r.Keep || len(r.Disks) > hypervisor.MaxDisks) {
		err = errs.New("qemu.Adopt", errs.Corrupt, r.Name, "the run's file does not describe a VM that is kept")
	}
	if err != nil {
		return run{}, errs.E("qemu.Adopt", errs.Corrupt, runFile, err)
	}
	return r, nil
}

// lockRun locks a run's own directory, which is new.
func lockRun(dir string) (*os.File, error) {
	f, held, err := hypervisor.LockDir(dir)
	if err == nil && held {
		err = errs.New("qemu.Start", errs.Conflict, dir, "somebody else uses the run's directory")
	}
	return f, err
}

// runDirs lists the directories of runs under workDir.
func runDirs(workDir string) (dirs []string, err error) {
	all, err := durable.ReadDir(durable.OS{}, workDir)
	if err != nil {
		return nil, errs.E("qemu.Adopt", errs.Unavailable, workDir, err)
	}
	for _, e := range all {
		if e.Dir && strings.HasPrefix(e.Name, runPrefix) {
			dirs = append(dirs, filepath.Join(workDir, e.Name))
		}
	}
	return dirs, nil
}
