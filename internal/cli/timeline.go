package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
)

// leastPrefix is how much of an id must be given to stand for all of it.
const leastPrefix = 4

// timelineFlag is how a command is told which timeline it is about.
type timelineFlag struct{ name string }

func (f *timelineFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "timeline", "", "timeline: its id, the beginning of it, or its label (default: the current one)")
}

// id finds the timeline; zero stands for the current one.
func (f *timelineFlag) id(ctx context.Context, c *journal.Container) (dr.TimelineID, error) {
	if f.name == "" {
		return dr.TimelineID{}, nil
	}
	all, err := c.Timelines(ctx)
	if err != nil {
		return dr.TimelineID{}, err
	}
	t, err := findTimeline(all, f.name)
	return t.ID, err
}

// findTimeline finds a timeline by its id, the beginning of one, or its label.
func findTimeline(all []journal.TimelineInfo, name string) (journal.TimelineInfo, error) {
	const op = "timeline"
	var found []journal.TimelineInfo
	for _, t := range all {
		id := t.ID.String()
		if id == name {
			return t, nil
		}
		if t.Label == name || len(name) >= leastPrefix && strings.HasPrefix(id, strings.ToLower(name)) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return journal.TimelineInfo{}, errs.New(op, errs.NotFound, name, "the container has no such timeline").
			WithRemedy("see them with: holdfast timeline list URL")
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, t := range found {
		ids = append(ids, t.ID.String())
	}
	return journal.TimelineInfo{}, errs.New(op, errs.Invalid, name, fmt.Sprintf("%d timelines are called that", len(found))).
		WithRemedy("give one's id: " + strings.Join(ids, ", "))
}

func newTimelineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "timeline",
		Short: "List, begin and give up branches of a domain's history",
		Long: `A timeline is one branch of a domain's history. A fork begins a new one at a
checkpoint without copying anything: it reads as its parent up to there. What is
published is published to the current timeline, the youngest that is neither
dropped nor a test.`,
	}
	cmd.AddCommand(newTimelineList(), newTimelineFork(), newTimelineDrop())
	return cmd
}

func newTimelineList() *cobra.Command {
	var id identityFlags
	cmd := &cobra.Command{
		Use:     "list URL",
		Short:   "List a domain's timelines, oldest first",
		Example: "  holdfast timeline list file:///srv/dr/erp --key recovery.key",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			all, err := c.Timelines(cmd.Context())
			if err != nil {
				return err
			}
			return print(cmd, all, func(w io.Writer) { printTimelines(w, all) })
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	return cmd
}

func printTimelines(w io.Writer, all []journal.TimelineInfo) {
	fmt.Fprintln(w, "TIMELINE\tCREATED\tBY\tLABEL\tBEGAN AT\tSTATE")
	for _, t := range all {
		began := "-"
		if t.Fork != nil {
			began = fmt.Sprintf("checkpoint %d of %s", t.Fork.ID, t.Parent)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, timeOf(t.Created), t.By, dash(t.Label), began, stateOf(&t))
	}
}

func stateOf(t *journal.TimelineInfo) string {
	switch {
	case t.Dropped != nil:
		return fmt.Sprintf("dropped %s by %s", timeOf(*t.Dropped), t.DroppedBy)
	case t.Current:
		return "current"
	case t.Test:
		return "test"
	}
	return "kept"
}

// dash stands for a text that is empty.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newTimelineFork() *cobra.Command {
	var id identityFlags
	var parent timelineFlag
	var opts journal.ForkOptions
	cmd := &cobra.Command{
		Use:   "fork URL CHECKPOINT",
		Short: "Begin a new timeline at a checkpoint; print its id",
		Long: `Begins a branch of the history at a checkpoint. Nothing is copied; the parent
keeps the checkpoint for as long as the branch is not dropped. The next DRVA that
is started publishes to the new timeline, unless it is a test: a test is used only
where it is named.

CHECKPOINT is named as for "restore --at".`,
		Example: `  holdfast timeline fork file:///srv/dr/erp 812 --key recovery.key --label failover-march
  holdfast timeline fork file:///srv/dr/erp nearest:14:03 --key recovery.key --label drill --test`,
		Args: exactArgs("URL", "CHECKPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, h, cp, err := openPoint(cmd, args[0], args[1], &id, &parent)
			if err != nil {
				return err
			}
			opts.Parent, opts.Checkpoint = h.Timeline(), cp.ID
			t, err := c.Fork(cmd.Context(), opts)
			if err != nil {
				return err
			}
			all, err := c.Timelines(cmd.Context())
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all, func(v journal.TimelineInfo) bool { return v.ID == t })
			if i < 0 {
				return errs.New("timeline fork", errs.Internal, t.String(), "the new timeline is not listed")
			}
			return print(cmd, all[i], func(w io.Writer) { fmt.Fprintln(w, t) })
		},
	}
	id.add(cmd)
	parent.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&opts.Label, "label", "", "name of the branch, for people")
	cmd.Flags().StringVar(&opts.By, "by", "", "who asks for it (default: this host)")
	cmd.Flags().BoolVar(&opts.Test, "test", false, "a test: never the current timeline")
	return cmd
}

// dropReport says what giving a timeline up means.
type dropReport struct {
	Timeline dr.TimelineID   `json:"timeline"`
	Label    string          `json:"label,omitempty"`
	Frees    int64           `json:"frees_bytes"` // -1: never counted
	From     time.Time       `json:"frees_from"`  // earliest
	Branches []dr.TimelineID `json:"branches"`    // of it, that still need what it holds
	Current  dr.TimelineID   `json:"current"`     // the current timeline afterwards
	Dropped  bool            `json:"dropped"`
}

func newTimelineDrop() *cobra.Command {
	var id identityFlags
	var yes, by string
	cmd := &cobra.Command{
		Use:   "drop URL TIMELINE",
		Short: "Give a timeline up, for good",
		Long: `Gives up a timeline: what it alone holds is deleted later by maintenance, and its
checkpoints are gone. This cannot be taken back, so it wants the timeline's label
(or, of one without a label, its id) typed again after --yes; without --yes it
only says what would be freed, and when.

What branches of it need stays until they are dropped too. Nothing is deleted at
once: first the grace passes, then a maintainer of another timeline of the
container gives the room back.`,
		Example: `  holdfast timeline drop file:///srv/dr/erp drill --key recovery.key
  holdfast timeline drop file:///srv/dr/erp drill --key recovery.key --yes drill`,
		Args: exactArgs("URL", "TIMELINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			r, err := dropTimeline(cmd.Context(), c, args[1], yes, by)
			if r == nil {
				return err
			}
			return errors.Join(print(cmd, r, func(w io.Writer) { printDrop(w, r) }), err)
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&yes, "yes", "", "the timeline's label, or its id, to confirm")
	cmd.Flags().StringVar(&by, "by", "", "who gives it up (default: this host)")
	return cmd
}

// dropTimeline drops a timeline if yes names it; a report and an error
// together mean that it was not confirmed.
func dropTimeline(ctx context.Context, c *journal.Container, name, yes, by string) (*dropReport, error) {
	const op = "timeline drop"
	all, err := c.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	t, err := findTimeline(all, name)
	if err != nil {
		return nil, err
	}
	confirm := t.Label
	if confirm == "" {
		confirm = t.ID.String()
	}
	if yes != "" && yes != confirm && yes != t.ID.String() {
		return nil, errs.New(op, errs.Invalid, t.ID.String(), fmt.Sprintf("--yes %q does not name this timeline", yes)).
			WithRemedy("to drop it, repeat with: --yes " + confirm)
	}
	r, err := foretellDrop(ctx, c, all, &t)
	if err != nil {
		return nil, err
	}
	if yes == "" {
		return r, errs.New(op, errs.Invalid, t.ID.String(), "it was not confirmed, and nothing was changed").
			WithRemedy("to drop it for good, repeat with: --yes " + confirm)
	}
	if err := c.DropTimeline(ctx, t.ID, by); err != nil {
		return nil, err
	}
	r.Dropped = true
	return r, nil
}

// foretellDrop finds out what dropping t frees, and when.
func foretellDrop(ctx context.Context, c *journal.Container, all []journal.TimelineInfo, t *journal.TimelineInfo) (*dropReport, error) {
	r := &dropReport{Timeline: t.ID, Label: t.Label, Frees: -1, Branches: []dr.TimelineID{}}
	for _, v := range all {
		if v.Fork != nil && v.Parent == t.ID && v.Dropped == nil {
			r.Branches = append(r.Branches, v.ID)
		}
		if v.ID != t.ID && v.Dropped == nil && !v.Test {
			r.Current = v.ID // the youngest is the last
		}
	}
	m, ok, err := c.ReadManifest(ctx, t.ID)
	if err != nil && !errs.Is(err, errs.Corrupt) {
		return nil, err
	}
	if ok {
		r.Frees = m.Stats.Stored
	}
	grace := maintain.DefaultGrace
	if r.Current.IsZero() {
		return r, nil
	}
	if keeper, ok, err := c.ReadManifest(ctx, r.Current); err == nil && ok {
		grace = maintain.PolicyOf(keeper).Grace
	} else if err != nil && !errs.Is(err, errs.Corrupt) {
		return nil, err
	}
	from := time.Now()
	if t.Dropped != nil {
		from = *t.Dropped
	}
	r.From = from.Add(max(grace, day)).UTC().Truncate(time.Second)
	return r, nil
}

func printDrop(w io.Writer, r *dropReport) {
	state := "would be dropped"
	if r.Dropped {
		state = "dropped"
	}
	fmt.Fprintf(w, "timeline\t%s\t%s\n", r.Timeline, state)
	frees := "what was published to it (not counted: it was never maintained)"
	if r.Frees >= 0 {
		frees = sizeOf(r.Frees)
	}
	if len(r.Branches) > 0 {
		fmt.Fprintf(w, "frees\tnothing as long as these branches need it\t%d\n", len(r.Branches))
		for _, b := range r.Branches {
			fmt.Fprintf(w, "  branch\t%s\n", b)
		}
	} else {
		fmt.Fprintf(w, "frees\t%s, from %s on, when a maintainer looks\n", frees, timeOf(r.From))
	}
	if !r.Current.IsZero() {
		fmt.Fprintf(w, "current then\t%s\n", r.Current)
	}
}
