package cli

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/qemu"
)

// providerFlags say what runs recovered VMs.
type providerFlags struct {
	platform string
	libvirt  string // socket of a libvirt daemon
}

// add adds the flags to a command.
func (f *providerFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.platform, "platform", "qemu", "what runs the VMs: qemu (on this host, with no management layer) or libvirt")
	cmd.Flags().StringVar(&f.libvirt, "libvirt-socket", libvirt.DefaultSocket, "with --platform libvirt: the daemon's unix socket")
}

// providers opens each sort of provider.
var providers = map[string]func(ctx context.Context, f *providerFlags, log *slog.Logger) (hypervisor.Provider, error){
	"qemu": func(_ context.Context, _ *providerFlags, log *slog.Logger) (hypervisor.Provider, error) {
		return qemu.New(qemu.Options{Log: log})
	},
	"libvirt": func(ctx context.Context, f *providerFlags, log *slog.Logger) (hypervisor.Provider, error) {
		return libvirt.NewProvider(ctx, libvirt.ProviderOptions{
			Socket: f.libvirt, Log: log,
			// The daemon runs the same QEMU on the same host: what holds for one
			// holds for the other.
			Probe: func(ctx context.Context) (hypervisor.Accelerator, error) {
				p, err := qemu.New(qemu.Options{Log: log})
				if err != nil {
					return "", err
				}
				defer p.Close()
				acc, _, err := p.Accelerator(ctx)
				return acc, err
			},
		})
	},
}

// open opens the provider the flags name, which its caller closes.
func (f *providerFlags) open(ctx context.Context, log *slog.Logger) (hypervisor.Provider, error) {
	openOne, known := providers[f.platform]
	if !known {
		names := slices.Sorted(maps.Keys(providers))
		return nil, usageError{fmt.Errorf("--platform %q is not known: use %s", f.platform, strings.Join(names, " or "))}
	}
	return openOne(ctx, f, log)
}
