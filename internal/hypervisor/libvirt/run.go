package libvirt

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// RunURI names the part of a VM's <metadata> in which a [Provider] says what a
// VM is that it started. Another form gets another URI.
//
//	<run xmlns="urn:holdfast:run:1" workdir="/var/lib/…" dir="/var/lib/…/holdfast-lv-1"
//	     state="started" keep="true" serial="true" screen="false" defined="true">
//	  <disk target="vda" id="…" name="system" size="…" path="/…" socket="/…" export="…" state="export"/>
//	</run>
const RunURI = "urn:holdfast:run:1"

// runKey is the prefix under which libvirt shows it.
const runKey = "holdfast-run"

// runPrefix begins the names of runs' directories.
const runPrefix = "holdfast-lv-"

// States of a run, and of its disks.
const (
	starting = "starting" // a disk may not be on its export yet: the guest has not run
	started  = "started"
	onExport = "export"
	onImage  = "image"
)

// stillRecovering says why such a disk cannot be captured.
const stillRecovering = "it is being recovered, and its image is not complete: protect it once the recovery has moved it there"

// run is what a provider must know of a VM that another one started. Its pointer
// may be nil: a VM no provider started.
type run struct {
	XMLName xml.Name  `xml:"run"`
	WorkDir string    `xml:"workdir,attr"`
	Dir     string    `xml:"dir,attr"` // the run's own
	State   string    `xml:"state,attr"`
	Keep    bool      `xml:"keep,attr"`
	Defined bool      `xml:"defined,attr,omitempty"` // it has a definition, or is about to: its directory stays
	Serial  bool      `xml:"serial,attr"`
	Screen  bool      `xml:"screen,attr"`
	Disks   []runDisk `xml:"disk"`
}

// runDisk is a disk of a run.
type runDisk struct {
	Target string `xml:"target,attr"`
	ID     string `xml:"id,attr"`
	Name   string `xml:"name,attr"`
	Size   int64  `xml:"size,attr"` // bytes
	Path   string `xml:"path,attr"`
	Socket string `xml:"socket,attr"`
	Export string `xml:"export,attr"`
	State  string `xml:"state,attr"`
}

// newRun describes the VM of spec; targets are libvirt's names of its disks.
func newRun(spec *hypervisor.Spec, dir string, targets []string) *run {
	r := &run{
		WorkDir: spec.WorkDir, Dir: dir, State: starting, Keep: spec.Keep, Serial: spec.Serial, Screen: spec.Screen,
	}
	for i, d := range spec.Config.Disks {
		src := spec.Sources[d.ID]
		state := onImage
		if src.Socket != "" {
			state = onExport
		}
		r.Disks = append(r.Disks, runDisk{
			Target: targets[i], ID: d.ID.String(), Name: d.Name, Size: d.Size,
			Path: src.Path, Socket: src.Socket, Export: src.Export, State: state,
		})
	}
	return r
}

// abs returns path as an absolute one; "" stays.
func abs(path string) string {
	if full, err := filepath.Abs(path); err == nil && path != "" {
		return full
	}
	return path
}

// String renders r for libvirt, which puts our prefix on it.
func (r *run) String() string {
	b, err := xml.Marshal(r)
	if err != nil {
		panic("libvirt: strings and numbers always marshal: " + err.Error())
	}
	return string(b)
}

// inDomain renders r as part of a VM's description.
func (r *run) inDomain() string {
	return strings.Replace(r.String(), "<run ", "<run xmlns='"+RunURI+"' ", 1)
}

// disk returns a disk by its identity, or nil.
func (r *run) disk(id dr.DiskID) *runDisk {
	i := slices.IndexFunc(r.Disks, func(d runDisk) bool { return d.ID == id.String() })
	if i < 0 {
		return nil
	}
	return &r.Disks[i]
}

// onExport reports whether a guest's disk is on an export of a recovery, in
// front of an image that is not complete.
func (r *run) onExport(target string) bool {
	return r != nil && slices.ContainsFunc(r.Disks, func(d runDisk) bool {
		return d.Target == target && d.State == onExport && d.Path != ""
	})
}

// nameOf returns the configured name of the disk libvirt calls target.
func (r *run) nameOf(target string) string {
	for _, d := range r.Disks {
		if d.Target == target {
			return d.Name
		}
	}
	return target
}

// sweepRuns removes the directories under workDir of runs that are over: all
// but those in use.
func sweepRuns(workDir string, inUse map[string]bool) error {
	all, err := durable.ReadDir(durable.OS{}, workDir)
	if err != nil {
		return errs.E("libvirt.Adopt", errs.Unavailable, workDir, err)
	}
	for _, e := range all {
		dir := filepath.Join(workDir, e.Name)
		if !e.Dir || !strings.HasPrefix(e.Name, runPrefix) || inUse[dir] {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return errs.E("libvirt.Adopt", errs.Unavailable, dir, err)
		}
	}
	return nil
}
