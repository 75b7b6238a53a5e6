package cli

import (
	"context"
	"log/slog"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/qemu"
)

// platformConfig names the hypervisor whose VMs a host component may protect
// while they run: one of its fields.
type platformConfig struct {
	QMP     []monitorConfig `json:"qmp,omitempty"`     // QEMU processes by their monitors
	Libvirt string          `json:"libvirt,omitempty"` // socket of a libvirt daemon
	Route   libvirt.Route   `json:"route,omitempty"`   // how libvirt's disks are switched over; empty: its driver decides
}

// monitorConfig is the monitor of one QEMU process.
type monitorConfig struct {
	Socket string `json:"socket"`          // of its QMP monitor, which nobody else uses meanwhile
	Agent  string `json:"agent,omitempty"` // of its guest agent's channel
}

// isSet reports whether a platform is named.
func (c *platformConfig) isSet() bool { return len(c.QMP) > 0 || c.Libvirt != "" }

// platforms opens each sort of platform.
var platforms = map[string]func(ctx context.Context, c *platformConfig, log *slog.Logger) (hypervisor.Platform, error){
	"qmp": func(ctx context.Context, c *platformConfig, log *slog.Logger) (hypervisor.Platform, error) {
		o := qemu.LiveOptions{Log: log}
		for _, m := range c.QMP {
			o.VMs = append(o.VMs, qemu.Monitor{QMP: m.Socket, Agent: m.Agent})
		}
		return qemu.NewPlatform(ctx, o)
	},
	"libvirt": func(ctx context.Context, c *platformConfig, log *slog.Logger) (hypervisor.Platform, error) {
		return libvirt.Connect(ctx, libvirt.Options{Socket: c.Libvirt, Route: c.Route, Log: log})
	},
}

// openPlatform opens what c names. Error: Invalid.
func openPlatform(ctx context.Context, c *platformConfig, log *slog.Logger) (hypervisor.Platform, error) {
	const op = "cli.openPlatform"
	sort := "qmp"
	if c.Libvirt != "" {
		sort = "libvirt"
	}
	if len(c.QMP) > 0 && c.Libvirt != "" {
		return nil, errs.New(op, errs.Invalid, "platform", "qmp and libvirt are both named").WithRemedy("name one of them")
	}
	return platforms[sort](ctx, c, log)
}
