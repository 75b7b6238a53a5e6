package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

func newRocVACommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rocva",
		Short: "Recovery appliance: rebuild disks, keep them warm, boot their VMs",
		Long: `The recovery appliance rebuilds disks from a container and boots their VMs. It
needs the container and one recipient's secret, nothing of the protected site.

"rocva full" is the same work as "restore". "rocva warm" keeps disks that follow
the domain, "rocva failover" hands them over. "rocva boot" starts the VMs whose disks
one of them left in a directory, by QEMU alone or by libvirt. "rocva update" makes
disks that are there hold a checkpoint, by what differs; "rocva unshipped" keeps
before what they hold beyond it.`,
	}
	cmd.AddCommand(newFullCommand("full URL", "Rebuild disks completely, as restore does"), newBootCommand(),
		newWarmCommand(), newStandbyCommand(), newFailoverCommand(), newUpdateCommand(), newUnshippedCommand())
	return cmd
}

func newBootCommand() *cobra.Command {
	var accel string
	var vms []string
	var platform providerFlags
	cmd := &cobra.Command{
		Use:   "boot DIR",
		Short: "Boot the VMs whose disks a restore left in DIR",
		Long: `Boots the VMs that recovery.json in DIR describes, with the configuration they
had at the checkpoint: processors, memory, firmware, disks in their order, and
network cards, which are joined to an isolated network. Prints the unix socket of
each VM's serial port. Runs until the VMs end; Ctrl-C shuts them down.

With --platform libvirt a libvirt daemon of this host runs the VMs. They have no
definition there: a VM that ends is gone.`,
		Example: `  holdfast rocva boot /var/lib/vms
  holdfast rocva boot /var/lib/vms --platform libvirt --libvirt-socket /run/libvirt/libvirt-sock`,
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := readRecovery(args[0])
			if err != nil {
				return err
			}
			return bootAll(cmd, args[0], r, vms, &platform, hypervisor.Accelerator(accel))
		},
	}
	cmd.Flags().StringVar(&accel, "accel", "", "kvm or tcg; default: kvm where it was proved to work")
	cmd.Flags().StringSliceVar(&vms, "vm", nil, "only this VM, by name or id (repeatable)")
	platform.add(cmd)
	return cmd
}

// bootAll boots what a restore left. The VM is built from the configuration of the
// checkpoint, not of today, on the disks just rebuilt, away from production's
// network.
func bootAll(cmd *cobra.Command, dir string, r *restored, only []string, platform *providerFlags, accel hypervisor.Accelerator) error {
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	p, err := platform.open(cmd.Context(), log)
	if err != nil {
		return err
	}
	defer p.Close()
	want := restoreFlags{vms: only}
	var running []hypervisor.VM
	for _, vm := range r.VMs {
		if !want.wanted(vm.Config) {
			continue
		}
		v, err := p.Start(cmd.Context(), bootSpec(dir, r, vm.Config, accel))
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s running, serial port %s\n", vm.Config.Name, v.Serial())
		running = append(running, v)
	}
	if len(running) == 0 {
		return errs.New("rocva boot", errs.NotFound, dir, "no VM to boot: the checkpoint holds no configuration of the VMs asked for").
			WithRemedy("see recovery.json; the disks can be attached to a VM by hand")
	}
	return waitAll(cmd.Context(), running)
}

func bootSpec(dir string, r *restored, cfg dr.VMConfig, accel hypervisor.Accelerator) hypervisor.Spec {
	spec := hypervisor.Spec{Config: cfg, Sources: map[dr.DiskID]hypervisor.Source{}}
	spec.Serial, spec.Accelerator = true, accel
	spec.Networks = map[string]hypervisor.Network{}
	for _, n := range cfg.NICs {
		spec.Networks[n.Network] = hypervisor.Network{Kind: hypervisor.Isolated}
	}
	for _, d := range r.Disks {
		if d.VM == cfg.ID {
			spec.Sources[d.ID] = hypervisor.Source{Path: filepath.Join(dir, d.Path)}
		}
	}
	return spec
}

// waitAll waits until every VM has ended. When ctx ends first it shuts them
// down, by force if they do not obey.
func waitAll(ctx context.Context, vms []hypervisor.VM) error {
	var wg sync.WaitGroup
	fail := make([]error, len(vms))
	for i, v := range vms {
		wg.Go(func() {
			if _, err := v.Wait(ctx); err != nil && ctx.Err() != nil {
				fail[i] = v.Stop(context.WithoutCancel(ctx), hypervisor.StopOptions{Force: true})
			} else {
				fail[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(fail...)
}
