package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/journal"
)

func newCheckpointsCommand() *cobra.Command {
	var id identityFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "checkpoints URL",
		Short: "List the points a domain can be recovered at",
		Long: `Reads the container at URL and lists its checkpoints, newest first: whether
each is consistent over the whole group, and whether it can be recovered, and if
not, why. Needs nothing of the protected site.`,
		Example: `  holdfast checkpoints file:///srv/dr/erp --key recovery.key
  holdfast checkpoints file:///srv/dr/erp --key recovery.key --all -o json`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			h, err := readHistory(cmd, c)
			if err != nil {
				return err
			}
			points := newestFirst(h.Checkpoints(), all)
			return print(cmd, points, func(w io.Writer) { printCheckpoints(w, points) })
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list all, not only the newest 50")
	return cmd
}

// shortList is how many checkpoints are listed without --all.
const shortList = 50

func newestFirst(points []journal.CheckpointInfo, all bool) []journal.CheckpointInfo {
	out := make([]journal.CheckpointInfo, 0, len(points))
	for i := len(points) - 1; i >= 0 && (all || len(out) < shortList); i-- {
		out = append(out, points[i])
	}
	return out
}

func printCheckpoints(w io.Writer, points []journal.CheckpointInfo) {
	fmt.Fprintln(w, "CHECKPOINT\tTIME\tKIND\tSCOPE\tTAG\tOBJECT\tRECOVERABLE")
	for _, p := range points {
		state := "yes"
		if !p.Recoverable {
			state = "no: " + p.Why
		}
		tag := p.Tag
		if tag == "" {
			tag = "-"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", p.ID, timeOf(p.Time), p.Kind, p.Scope, tag, p.Object, state)
	}
}

// readHistory walks the container's history, showing progress, and says what
// in it is damaged.
func readHistory(cmd *cobra.Command, c *journal.Container) (*journal.History, error) {
	bar := newProgress(cmd.ErrOrStderr(), "reading history", false)
	h, err := c.History(cmd.Context(), journal.HistoryOptions{
		Progress: func(p journal.HistoryProgress) { bar.set(int64(p.Objects), int64(p.Objects)) },
	})
	bar.finish()
	if err != nil {
		return nil, err
	}
	for _, p := range h.Problems() {
		fmt.Fprintf(cmd.ErrOrStderr(), "damaged: %s: %s\n", p.Object, p.What)
	}
	return h, nil
}
