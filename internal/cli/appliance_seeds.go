package cli

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/internal/appliance/rocva"
	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

func newApplianceSeeds() *cobra.Command {
	return group("seeds", "Old disks that a recovery appliance keeps", newSeedsList(), newSeedsDelete())
}

func newSeedsList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list DIR",
		Short: "List the old disks of domains that moved away from a recovery appliance",
		Long: `Lists, by domain, the disks that a recovery appliance keeps for the way back: what
room they take, and when they were last written to. Disks of VMs of the platform are only
noted: they take no room of the appliance's, and are not deleted with the others. It
reads DIR, whether the appliance runs or not.`,
		Example: "  holdfast appliance seeds list /var/lib/holdfast/box",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := seedsDir(args[0])
			if err != nil {
				return err
			}
			list, err := rocva.ListSeeds(cmd.Context(), dir)
			if perr := print(cmd, list, func(w io.Writer) { printSeeds(w, list) }); perr != nil {
				return perr
			}
			return err
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func newSeedsDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete DIR DOMAIN",
		Short: "Delete the old disks of a domain that does not come back",
		Long: `Deletes the disks that a recovery appliance keeps of a domain, and forgets those of the
platform's VMs. When the domain comes back all the same, its disks are fetched as a whole.
It is refused while a recovery that is not over uses one of them.`,
		Example: "  holdfast appliance seeds delete /var/lib/holdfast/box erp",
		Args:    exactArgs("DIR", "DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := seedsDir(args[0])
			if err != nil {
				return err
			}
			d, err := rocva.DeleteSeeds(cmd.Context(), dir, site.Name(args[1]))
			if err != nil {
				return err
			}
			return print(cmd, d, func(w io.Writer) {
				fmt.Fprintf(w, "deleted the old disks of %s: %s given back\n", d.Domain, sizeOf(d.Bytes))
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func seedsDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", errs.E("appliance.seeds", errs.Invalid, dir, err)
	}
	return abs, nil
}

func printSeeds(w io.Writer, list []rocva.DomainSeeds) {
	fmt.Fprintln(w, "DOMAIN\tDISK\tSIZE\tLAST WRITTEN\tWHERE\tUSED BY")
	for _, d := range list {
		for _, s := range d.Disks {
			disk := ""
			if !s.Disk.IsZero() {
				disk = s.Disk.String()
			}
			size := sizeOf(s.Bytes)
			if s.Written.IsZero() {
				size = "gone"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Domain, dash(disk), size, timeOf(s.Written), s.Path, dash(s.UsedBy))
		}
	}
}
