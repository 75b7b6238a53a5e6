package cli

import (
	"context"
	"log/slog"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/qemu"
)

// platformConfig names the hypervisor whose VMs a host component may protect
// while they run: one of its fields.
type platformConfig struct {
	QMP     []monitorConfig `json:"qmp,omitempty"`     // QEMU processes by their monitors
	Libvirt string          `json:"libvirt,omitempty"` // socket of a libvirt daemon
}

// monitorConfig is the monitor of one QEMU process.
type monitorConfig struct {
	Socket string `json:"socket"`          // of its QMP monitor, which nobody else uses meanwhile
	Agent  string `json:"agent,omitempty"` // of its guest agent's channel
}

// isSet reports whether a platform is named.
func (c *platformConfig) isSet() bool { return len(c.QMP) > 0 || c.Libvirt != "" }

// platforms opens each sort of platform. A sort that this build has no driver
// of is not in it.
var platforms = map[string]func(ctx context.Context, c *platformConfig, log *slog.Logger) (hypervisor.Platform, error){
	"qmp": func(ctx context.Context, c *platformConfig, log *slog.Logger) (hypervisor.Platform, error) {
		o := qemu.LiveOptions{Log: log}
		for _, m := range c.QMP {
			o.VMs = append(o.VMs, qemu.Monitor{QMP: m.Socket, Agent: m.Agent})
		}
		return qemu.NewPlatform(ctx, o)
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
	open := platforms[sort]
	if open == nil {
		return nil, errs.New(op, errs.Invalid, sort, "this build has no driver for that platform").
			WithRemedy("name another, or leave platform out and list the VMs in the configuration")
	}
	return open(ctx, c, log)
}
