package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"holdfast/internal/hypervisor"
)

// watch tells of changes until the connection or ctx ends. QEMU has events for
// some of them; the rest is found by looking.
func (v *LiveVM) watch(ctx context.Context, q *qmp) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.done:
			return
		case e := <-v.news:
			if v.heard(ctx, e) {
				v.compare(ctx)
			}
		case <-tick.C:
			v.compare(ctx)
		}
	}
}

// heard tells of an event and reports whether it is a reason to look.
func (v *LiveVM) heard(ctx context.Context, e event) (look bool) {
	var d struct {
		Node      string `json:"node-name"`
		Device    string `json:"device"`
		Path      string `json:"path"`
		QOM       string `json:"qom-path"`
		Operation string `json:"operation"`
		Action    string `json:"action"`
		Reason    string `json:"reason"`
		Error     string `json:"error"`
	}
	if err := json.Unmarshal(e.data, &d); err != nil && len(e.data) > 0 {
		return true // of a form we do not know
	}
	switch e.name {
	case "RESUME":
		v.stalled = false
		v.tell(hypervisor.ChangedState, "", strings.ToLower(e.name))
	case "STOP", "RESET", "SUSPEND", "WAKEUP", "GUEST_PANICKED":
		v.tell(hypervisor.ChangedState, "", strings.ToLower(e.name))
	case "SHUTDOWN", "POWERDOWN":
		v.tell(hypervisor.ChangedState, "", strings.ToLower(e.name)+" "+d.Reason)
	case "BLOCK_IO_ERROR":
		if d.Action == "stop" {
			disk := v.diskOfEvent(d.Node, d.Device, d.QOM)
			if disk == "" { // just after a switch QEMU names a node that was not looked at yet
				v.compare(ctx)
				disk = v.diskOfEvent(d.Node, d.Device, d.QOM)
			}
			v.tell(hypervisor.DiskStalled, disk, d.Operation+" error: "+d.Reason)
			v.stalled = true
		}
	case "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED":
		if strings.HasPrefix(d.Device, nodePrefix) && d.Error != "" {
			v.tell(hypervisor.ChangedDisks, "", "the mirror to the export ended: "+d.Error)
		}
		return true
	case "DEVICE_DELETED", "DEVICE_TRAY_MOVED", "BLOCK_JOB_PENDING", "JOB_STATUS_CHANGE":
		return true
	}
	return false
}

// diskOfEvent returns the name of the disk QEMU speaks of; it gives a node, a
// back end or a device, as it likes.
func (v *LiveVM) diskOfEvent(words ...string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.known {
		for _, w := range words {
			if w != "" && (w == d.path || w == d.backend || w == d.node || strings.HasPrefix(d.path, w+"/") || strings.HasSuffix(d.path, "/"+w)) {
				return d.name
			}
		}
	}
	return ""
}

// compare looks again and tells what is different.
func (v *LiveVM) compare(ctx context.Context) {
	limited, cancel := context.WithTimeoutCause(ctx, commandLimit, errors.New("QEMU did not answer in time"))
	defer cancel()
	release, err := v.take(limited, "qemu.Info")
	if err != nil {
		return
	}
	defer release()
	v.mu.Lock()
	before := v.last
	v.mu.Unlock()
	after, err := v.look(limited)
	if err != nil {
		v.p.log.Debug("vm was not looked at", "vm", before.Config.ID, "err", err)
		return
	}
	v.difference(before, after)
	v.stall(after)
}

// stall tells of a VM that waits because of an I/O error whose event was lost.
func (v *LiveVM) stall(info hypervisor.VMInfo) {
	v.mu.Lock()
	waits := v.status == "io-error"
	v.mu.Unlock()
	if waits && !v.stalled {
		var disk string
		for _, d := range info.Disks {
			if d.Attached && disk != "" {
				disk = "" // one of several
				break
			}
			if d.Attached {
				disk = d.Name
			}
		}
		v.tell(hypervisor.DiskStalled, disk, "the VM was found waiting because of an I/O error")
	}
	v.stalled = waits
}

// difference tells of each kind of difference once.
func (v *LiveVM) difference(before, after hypervisor.VMInfo) {
	a, b := before.Config, after.Config
	if a.Name != b.Name || a.CPUs != b.CPUs || a.MemoryMiB != b.MemoryMiB || !slices.Equal(a.NICs, b.NICs) {
		v.tell(hypervisor.ChangedConfig, "", "")
	}
	if !slices.Equal(a.Disks, b.Disks) {
		v.tell(hypervisor.ChangedDisks, "", "")
	}
	for _, d := range before.Disks {
		i := slices.IndexFunc(after.Disks, func(o hypervisor.LiveDisk) bool { return o.Name == d.Name })
		if i >= 0 && (after.Disks[i].Path != d.Path || after.Disks[i].Format != d.Format) {
			v.tell(hypervisor.ChangedChain, d.Name, after.Disks[i].Path)
		}
	}
}
