package libvirt

import (
	"context"
	"time"

	"holdfast/internal/hypervisor"
)

// slipIn puts the export beneath the disk, behind libvirt's back.
func (c *change) slipIn(ctx context.Context, r record) (hypervisor.Switch, error) {
	top, like, err := c.top(ctx)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	if err := c.addExport(ctx, r, like, c.x.unmaps(), c.x.patience()); err != nil {
		return hypervisor.Switch{}, err
	}
	begin := time.Now()
	sw := hypervisor.Switch{Route: routeMonitor + " reopen"}
	if top == c.x.formatNode() {
		err = c.reopen(ctx, like, ownName(r.Name), c.x.unmaps())
	} else { // a libvirt that leaves out nodes of format raw
		sw.Route = routeMonitor + " qom-set"
		err = c.plug(ctx, c.x, ownName(r.Name))
	}
	sw.Pause = time.Since(begin)
	return sw, err
}

// slipOut is the way back.
func (c *change) slipOut(ctx context.Context) (hypervisor.Switch, error) {
	top, like, err := c.top(ctx)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	begin := time.Now()
	sw := hypervisor.Switch{Route: routeMonitor + " reopen"}
	if top == c.x.formatNode() {
		err = c.reopen(ctx, like, c.x.storageNode(), c.x.unmaps())
	} else {
		sw.Route = routeMonitor + " qom-set"
		err = c.plug(ctx, c.x, c.x.storageNode())
	}
	sw.Pause = time.Since(begin)
	if err != nil {
		return sw, err
	}
	return sw, c.drop(ctx, ownName(c.x.Target.Dev))
}

// top returns the node the guest's device is on.
func (c *change) top(ctx context.Context) (string, blockNode, error) {
	top, err := c.topNode(ctx, c.x)
	if err != nil {
		return "", blockNode{}, err
	}
	nodes, err := c.blockNodes(ctx)
	return top, nodes[top], err
}
