package cli

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

// shortList is how many checkpoints are listed when nothing else is said.
const shortList = 50

// pointList says which checkpoints to list.
type pointList struct {
	id           identityFlags
	timeline     timelineFlag
	allTimelines bool
	since, until string
	limit        int
	all          bool
}

// listedPoint is a checkpoint with the timeline it is listed of.
type listedPoint struct {
	Timeline dr.TimelineID `json:"timeline"`
	journal.CheckpointInfo
}

func newCheckpointsCommand() *cobra.Command {
	var f pointList
	cmd := &cobra.Command{
		Use:   "checkpoints URL",
		Short: "List the points a domain can be recovered at",
		Long: `Reads the container at URL and lists its checkpoints, newest first: when, of which
kind (crash, app, user), whether consistent over the whole group or partial, its
tags, why it is still there, and whether it can be recovered, and if not, why. A
checkpoint whose content looks wrong, as encrypted by an attacker, is marked
SUSPECT. Needs nothing of the protected site.

RETAINED says what keeps a checkpoint: a slot of the schedule ("schedule 1m"), a
tag, a hold, a fork, a reader, or that it is the newest. "not thinned yet" is one
that no maintenance has looked at.

Times without a zone are UTC; --since and --until also take a time of day (the
last one) or a length of time ago.`,
		Example: `  holdfast checkpoints file:///srv/dr/erp --key recovery.key
  holdfast checkpoints file:///srv/dr/erp --key recovery.key --since 14:00 --until 14:10
  holdfast checkpoints file:///srv/dr/erp --key recovery.key --all-timelines --all -o json`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.id.add(cmd)
	f.timeline.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&f.allTimelines, "all-timelines", false, "every timeline that is not dropped, the youngest first")
	cmd.Flags().StringVar(&f.since, "since", "", "only those at or after this time")
	cmd.Flags().StringVar(&f.until, "until", "", "only those at or before this time")
	cmd.Flags().IntVar(&f.limit, "limit", shortList, "at most so many of each timeline")
	cmd.Flags().BoolVarP(&f.all, "all", "a", false, "list all, whatever --limit says")
	return cmd
}

func (f *pointList) run(cmd *cobra.Command, url string) error {
	now := time.Now()
	since, err := parseWhen("--since", f.since, now)
	if err != nil {
		return err
	}
	until, err := parseWhen("--until", f.until, now)
	if err != nil {
		return err
	}
	switch {
	case !since.IsZero() && !until.IsZero() && until.Before(since):
		return usageError{fmt.Errorf("--until %s is before --since %s", timeOf(until), timeOf(since))}
	case f.limit < 1:
		return usageError{fmt.Errorf("--limit %d: give 1 or more, or --all", f.limit)}
	case f.allTimelines && f.timeline.name != "":
		return usageError{fmt.Errorf("give --timeline or --all-timelines, not both")}
	}
	c, err := openContainer(cmd.Context(), url, &f.id)
	if err != nil {
		return err
	}
	ids, err := f.timelines(cmd, c)
	if err != nil {
		return err
	}
	points := []listedPoint{}
	for _, t := range ids {
		h, err := readHistory(cmd, c, t)
		if err != nil {
			return err
		}
		some, more := f.pick(h, since, until)
		points = append(points, some...)
		if more > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d older checkpoint(s) are not shown; see --all, --limit, --since\n", more)
		}
	}
	return print(cmd, points, func(w io.Writer) { printCheckpoints(w, points, f.allTimelines) })
}

// timelines are those to list; zero stands for the current one.
func (f *pointList) timelines(cmd *cobra.Command, c *journal.Container) ([]dr.TimelineID, error) {
	if !f.allTimelines {
		t, err := f.timeline.id(cmd.Context(), c)
		return []dr.TimelineID{t}, err
	}
	all, err := c.Timelines(cmd.Context())
	if err != nil {
		return nil, err
	}
	var out []dr.TimelineID
	for _, t := range slices.Backward(all) {
		if t.Dropped == nil {
			out = append(out, t.ID)
		}
	}
	return out, nil
}

// pick takes the newest checkpoints between two times, newest first; more is
// how many older ones there are.
func (f *pointList) pick(h *journal.History, since, until time.Time) (out []listedPoint, more int) {
	for _, p := range slices.Backward(h.Checkpoints()) {
		if !since.IsZero() && p.Time.Before(since) || !until.IsZero() && p.Time.After(until) {
			continue
		}
		if !f.all && len(out) >= f.limit {
			more++
			continue
		}
		out = append(out, listedPoint{h.Timeline(), p})
	}
	return out, more
}

func printCheckpoints(w io.Writer, points []listedPoint, timelines bool) {
	if timelines {
		fmt.Fprint(w, "TIMELINE\t")
	}
	fmt.Fprintln(w, "CHECKPOINT\tTIME\tKIND\tSCOPE\tTAG\tRETAINED\tRECOVERABLE")
	for i := range points {
		p := &points[i]
		if timelines {
			fmt.Fprintf(w, "%s\t", p.Timeline)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, timeOf(p.Time), p.Kind, scopeOf(&p.CheckpointInfo),
			tagsOf(&p.CheckpointInfo), retainedBecause(&p.CheckpointInfo), verdict(&p.CheckpointInfo))
	}
}

// readHistory reads a timeline's history, showing progress, and says what in it
// is damaged. The zero timeline is the current one.
func readHistory(cmd *cobra.Command, c *journal.Container, t dr.TimelineID) (*journal.History, error) {
	bar := newProgress(cmd.ErrOrStderr(), "reading history", false)
	h, err := c.History(cmd.Context(), journal.HistoryOptions{
		Timeline: t,
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
