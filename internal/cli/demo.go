package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/demo"
	"holdfast/internal/errs"
)

func newDemoCommand() *cobra.Command {
	opts := demo.Options{}
	var acts int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Protect two guests, lose the site, boot them from the store alone",
		Long: `Runs the main job on this machine with nothing faked: two QEMU guests on two
host components and one DRVA are protected while they write; at a random moment
every process of their site is killed and its directory removed; then the disks
are rebuilt at the newest group checkpoint from the container and a recovery key
alone, both guests boot, and what their ledgers hold is checked.

The second act does it with "holdfast recover": a test that leaves nothing, the failover
itself, commits at site B until B could be lost, and the way home to a site A built anew,
with nothing lost and bytes counted. --acts 1 leaves it out.

Ends with a table and "demo ok: …", or with an error and exit code other than 0.`,
		Example: "  make demo\n  holdfast demo --image build/guest/ledger.raw --seed 7",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return errs.E("demo", errs.Unavailable, "the holdfast binary", err)
			}
			if acts != 1 && acts != 2 {
				return usageError{fmt.Errorf("--acts %d: choose 1 or 2", acts)}
			}
			opts.Binary, opts.Out, opts.Second = binary, cmd.OutOrStdout(), acts == 2
			res, err := demo.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "demo ok: rpo=%.2fs rto=%.2fs acked=%d recovered=%d\n",
				res.RPO.Seconds(), res.RTO.Seconds(), res.Acked[0]+res.Acked[1], res.Recovered[0]+res.Recovered[1])
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Image, "image", "build/guest/ledger.raw", "the test guest's disk image (make guest)")
	f.StringVar(&opts.Dir, "dir", "", "where to work (default: a new temporary directory)")
	f.BoolVar(&opts.Keep, "keep", false, "leave the container and site B's disks behind")
	f.Uint64Var(&opts.Seed, "seed", 0, "seed of the random moment of the disaster (0: random)")
	f.DurationVar(&opts.Interval, "interval", 5*time.Second, "between checkpoints, 1s to 60s")
	f.DurationVar(&opts.MinRun, "min", 12*time.Second, "earliest disaster after protection is complete")
	f.DurationVar(&opts.MaxRun, "max", 25*time.Second, "latest disaster after protection is complete")
	f.IntVar(&acts, "acts", 2, "1: protect, lose, recover; 2: and test, fail over, fail back")
	f.StringVar(&opts.Ack, "ack", "async", "ack rule: async, ordered or sync")
	return cmd
}
