package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// SwitchDisk moves a disk from its export to its image, as hypervisor.VM
// promises: the image is opened as diskN-image, and diskN gets it as its file
// in place of the export, between two requests of the guest. A provider that was
// killed may have left the image open.
func (v *VM) SwitchDisk(ctx context.Context, disk dr.DiskID) (hypervisor.Switch, error) {
	const op = "qemu.SwitchDisk"
	i := slices.IndexFunc(v.run.Disks, func(d runDisk) bool { return d.ID == disk })
	if i < 0 {
		return hypervisor.Switch{}, errs.New(op, errs.NotFound, v.run.Name+" "+disk.String(), "the VM has no such disk")
	}
	d := v.run.Disks[i]
	if s := v.Status(); s.State.Final() {
		return hypervisor.Switch{}, errs.New(op, errs.Conflict, v.run.Name, "the VM is "+s.State.String()+": "+s.Reason)
	}
	if d.From.Socket == "" {
		return hypervisor.Switch{Route: "none"}, nil
	}
	if d.From.Path == "" {
		return hypervisor.Switch{}, errs.New(op, errs.Conflict, v.run.Name+" "+d.Name, "the disk has no image besides its export")
	}
	sw, err := v.switchNode(ctx, "disk"+strconv.Itoa(i), d)
	if err != nil {
		return hypervisor.Switch{}, errs.E(op, errs.Internal, v.run.Name+" "+d.Name, err)
	}
	v.log.Info("disk switched to its image", "disk", d.Name, "pause", sw.Pause)
	return sw, nil
}

// switchNode does the work of SwitchDisk for one node.
func (v *VM) switchNode(ctx context.Context, node string, d runDisk) (hypervisor.Switch, error) {
	export, image := node+"-file", node+"-image"
	nodes, err := v.nodeNames(ctx)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	if !nodes[export] {
		return hypervisor.Switch{Route: "none"}, nil
	}
	if err := hypervisor.CheckImage(d.From.Path, d.Name, d.Size); err != nil {
		return hypervisor.Switch{}, err
	}
	if !nodes[image] {
		if err := v.qmp.execute(ctx, "blockdev-add", localNode(image, d.From.Path, v.run.Direct), nil); err != nil {
			return hypervisor.Switch{}, err
		}
	}
	// From here on it is finished, or undone, whatever the caller does.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchLimit)
	defer cancel()
	begin := time.Now()
	reopen := object{"options": []object{guestNode(node, image)}}
	if err := v.qmp.execute(ctx, "blockdev-reopen", reopen, nil); err != nil {
		if undo := v.qmp.execute(ctx, "blockdev-del", object{"node-name": image}, nil); undo != nil {
			err = fmt.Errorf("%w; and the image is still open: %w", err, undo)
		}
		return hypervisor.Switch{}, err
	}
	// The export's node was made as part of diskN, and goes with its last user.
	return hypervisor.Switch{Pause: time.Since(begin), Route: "reopen"}, nil
}

// nodeNames returns the names of QEMU's block nodes.
func (v *VM) nodeNames(ctx context.Context) (map[string]bool, error) {
	var list []struct {
		Name string `json:"node-name"`
	}
	if err := v.qmp.execute(ctx, "query-named-block-nodes", object{"flat": true}, &list); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, n := range list {
		names[n.Name] = true
	}
	return names, nil
}

// Screenshot returns what the guest shows, as hypervisor.VM promises.
func (v *VM) Screenshot(ctx context.Context) ([]byte, error) {
	const op = "qemu.Screenshot"
	if s := v.Status(); s.State.Final() || !v.run.Screen {
		return nil, errs.New(op, errs.Conflict, v.run.Name, "the VM has ended, or was started without a screen")
	}
	path := filepath.Join(v.dir, fmt.Sprintf("screen-%d.png", v.shots.Add(1)))
	err := v.qmp.execute(ctx, "screendump", object{"filename": path, "format": "png"}, nil)
	if err != nil {
		return nil, errs.E(op, errs.Internal, v.run.Name, err)
	}
	b, err := durable.ReadFile(durable.OS{}, path, hypervisor.MaxScreenshot)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, v.run.Name, err)
	}
	return b, durable.Remove(durable.OS{}, path)
}
