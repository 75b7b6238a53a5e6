package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

func newFsckCommand() *cobra.Command {
	var id identityFlags
	var deep bool
	cmd := &cobra.Command{
		Use:   "fsck URL",
		Short: "Check a container, without changing it",
		Long: `Checks the container at URL: names, the chain of journal objects and its fences,
headers and footers; with --deep every frame is opened and every block compared
with its hash. Tells what is damaged and which checkpoints it touches. Exit code
6 when something is.`,
		Example: "  holdfast fsck file:///srv/dr/erp --key recovery.key --deep",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			opts := journal.FsckOptions{Mode: journal.FsckQuick}
			if deep {
				opts.Mode = journal.FsckDeep
			}
			bar := newProgress(cmd.ErrOrStderr(), "checking objects", false)
			opts.Progress = func(p journal.FsckProgress) { bar.set(int64(p.Objects), int64(p.Total)) }
			r, err := c.Fsck(cmd.Context(), opts)
			bar.finish()
			if err != nil {
				return err
			}
			if err := print(cmd, r, func(w io.Writer) { printReport(w, r) }); err != nil {
				return err
			}
			if !r.Clean {
				return errs.New("fsck", errs.Corrupt, args[0], fmt.Sprintf("%d problem(s) found", len(r.Problems)+r.More)).
					WithRemedy("checkpoints that are not touched can be recovered; protect the VMs again for a whole history")
			}
			return nil
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&deep, "deep", false, "open every frame and compare every block with its hash")
	return cmd
}

func printReport(w io.Writer, r *journal.Report) {
	for _, t := range r.Timelines {
		fmt.Fprintf(w, "timeline %s: %d objects in %d epochs, %d checkpoints, %d recoverable\n", t.ID, t.Objects, t.Epochs, t.Checkpoints, t.Recoverable)
	}
	fmt.Fprintf(w, "%s check of %d objects, %s", r.Mode, r.Objects, sizeOf(r.Bytes))
	if r.Mode == journal.FsckDeep {
		fmt.Fprintf(w, ", %d frames, %d blocks compared", r.Frames, r.Blocks)
	}
	fmt.Fprintln(w)
	if r.Clean {
		fmt.Fprintln(w, "clean")
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%s: %s: %s", p.Kind, p.Object, p.What)
		if p.Touched.Count > 0 {
			fmt.Fprintf(w, " (checkpoints %d-%d)", p.Touched.First, p.Touched.Last)
		}
		fmt.Fprintln(w)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "and %d more\n", r.More)
	}
}
