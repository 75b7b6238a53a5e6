package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
)

func newRetentionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Show, change and forecast how much history is kept",
		Long: `Retention is a schedule ("5s for 1h, 1m for 24h, 1h for 30d": one checkpoint of
every 5 seconds for an hour, then of every minute for a day, …), beside which tags,
holds and branches keep their own; how long tags last; a limit of the history's
size; a grace, for which what nothing needs any more stays in the store; and a
lock, for which nobody can delete what is needed. The container remembers it, for
whoever maintains it next. An appliance whose configuration names a part of it
decides that part.

However the size is limited, replication is never stopped by it, and the newest
hour is never given up for it.`,
	}
	cmd.AddCommand(newRetentionShow(), newRetentionSet(), newRetentionForecast())
	return cmd
}

// retentionView is what a timeline keeps.
type retentionView struct {
	Timeline   dr.TimelineID `json:"timeline"`
	Policy     policyView    `json:"policy"`
	Default    bool          `json:"default"`    // the container remembers none yet
	Generation uint64        `json:"generation"` // of the manifest that remembers it
	By         string        `json:"by,omitempty"`
	At         time.Time     `json:"at"`

	Checkpoints int            `json:"checkpoints"` // up to the manifest
	Reasons     map[string]int `json:"retained_by"`
	Oldest      time.Time      `json:"oldest"`
	Live        int64          `json:"live_bytes"`
	Stored      int64          `json:"stored_bytes"`
	Paused      string         `json:"paused,omitempty"`
}

func newRetentionShow() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	cmd := &cobra.Command{
		Use:   "show URL",
		Short: "Show the retention policy and what it keeps",
		Long: `Shows the policy the container remembers, as of the newest maintenance pass, and
how many checkpoints are kept for which reason. A checkpoint may be kept for more
than one.`,
		Example: "  holdfast retention show file:///srv/dr/erp --key recovery.key",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := openMaintainer(cmd.Context(), args[0], &id, &tl, maintain.Options{})
			if err != nil {
				return err
			}
			v, err := viewRetention(cmd.Context(), c, m.Timeline())
			if err != nil {
				return err
			}
			return print(cmd, v, func(w io.Writer) { printRetention(w, v) })
		},
	}
	id.add(cmd)
	tl.add(cmd)
	addOutputFlag(cmd)
	return cmd
}

// openMaintainer opens a container and a maintainer of one of its timelines,
// which does nothing by itself.
func openMaintainer(ctx context.Context, url string, id *identityFlags, tl *timelineFlag, opts maintain.Options) (*journal.Container, *maintain.Maintainer, error) {
	c, err := openContainer(ctx, url, id)
	if err != nil {
		return nil, nil, err
	}
	if opts.Timeline, err = tl.id(ctx, c); err != nil {
		return nil, nil, err
	}
	m, err := maintain.New(ctx, c, opts)
	return c, m, err
}

// policyOf is the policy a timeline's newest manifest remembers, or the
// default one; m is nil when there is no manifest.
func policyOf(ctx context.Context, c *journal.Container, t dr.TimelineID) (p maintain.Policy, m *journal.Manifest, err error) {
	m, ok, err := c.ReadManifest(ctx, t)
	if err != nil {
		return p, nil, err
	}
	if !ok {
		p = maintain.PolicyOf(&journal.Manifest{})
		p.TagFor = 0 // nobody has said that it is to stay when the schedule changes
		return p, nil, nil
	}
	return maintain.PolicyOf(m), m, nil
}

func viewRetention(ctx context.Context, c *journal.Container, t dr.TimelineID) (*retentionView, error) {
	p, m, err := policyOf(ctx, c, t)
	if err != nil {
		return nil, err
	}
	v := &retentionView{Timeline: t, Policy: viewPolicy(&p), Default: m == nil, Reasons: make(map[string]int)}
	if m == nil {
		return v, nil
	}
	v.Generation, v.By, v.At = m.Generation, m.By, m.Created
	v.Checkpoints, v.Live, v.Stored, v.Paused = len(m.Points), m.Stats.Live, m.Stats.Stored, m.Stats.Paused
	for i := range m.Points {
		q := &m.Points[i]
		if t := q.Time; v.Oldest.IsZero() || t.Before(v.Oldest) {
			v.Oldest = t
		}
		for _, r := range q.Reasons {
			word := string(r.Kind)
			if r.Kind == journal.BySchedule {
				word = r.String()
			}
			v.Reasons[word]++
		}
	}
	return v, nil
}

func printRetention(w io.Writer, v *retentionView) {
	fmt.Fprintf(w, "timeline\t%s\n", v.Timeline)
	printPolicy(w, &v.Policy)
	if v.Default {
		fmt.Fprintln(w, "in force\tthe default: no maintenance has run yet")
		return
	}
	fmt.Fprintf(w, "in force\tsince generation %d at %s, by %s, or earlier\n", v.Generation, timeOf(v.At), dash(v.By))
	fmt.Fprintf(w, "checkpoints\t%d, the oldest of %s\n", v.Checkpoints, timeOf(v.Oldest))
	for _, k := range slices.Sorted(maps.Keys(v.Reasons)) {
		word := k
		if k == string(journal.ByNewest) && v.Reasons[k] > 1 {
			word += ", or too new to be thinned" // what no manifest had shown yet stays for one
		}
		fmt.Fprintf(w, "  by %s\t%d\n", word, v.Reasons[k])
	}
	fmt.Fprintf(w, "history\t%s live, %s stored\n", sizeOf(v.Live), sizeOf(v.Stored))
	if v.Paused != "" {
		fmt.Fprintf(w, "paused\t%s\n", v.Paused)
	}
}

// retentionChange is what changing a policy does.
type retentionChange struct {
	Timeline dr.TimelineID     `json:"timeline"`
	Before   policyView        `json:"before"`
	After    policyView        `json:"after"`
	Keep     int               `json:"checkpoints_kept"`    // after the change
	Going    int               `json:"checkpoints_going"`   // which go now in any case
	Lost     []dr.CheckpointID `json:"checkpoints_lost"`    // which go for the change
	Shortens []string          `json:"shortens,omitempty"`  // in which ways less is kept
	Applied  bool              `json:"applied"`             // the container remembers it
	At       uint64            `json:"generation,omitzero"` // of the manifest that does
}

func newRetentionSet() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var text policyText
	var yes, dry bool
	cmd := &cobra.Command{
		Use:   "set URL [flags]",
		Short: "Change the retention policy",
		Long: `Changes the parts of the policy that are named, and runs one maintenance pass
under it, with which the container remembers it; every maintainer follows it from
then on. Before anything is changed it says what would go. A change that keeps less
than before wants --yes.

What goes can not be had back: its room is given back later, the grace after the
pass that needs it no more. Needs the rights of maintenance: create, and delete.`,
		Example: `  holdfast retention set file:///srv/dr/erp --key gc.key --schedule "5s for 2h, 1m for 48h, 1h for 90d"
  holdfast retention set file:///srv/dr/erp --key gc.key --size-limit "2TB alarm" --dry-run
  holdfast retention set file:///srv/dr/erp --key gc.key --size-limit 500GB --yes
  holdfast retention set s3://dr-erp?region=eu-central-1 --key gc.key --tag-time 365d --lock "governance for 30d"`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := notEmpty(&text, "retention set"); err != nil {
				return err
			}
			if err := text.apply(&maintain.Policy{}); err != nil {
				return err
			}
			c, m, err := openMaintainer(cmd.Context(), args[0], &id, &tl, maintain.Options{})
			if err != nil {
				return err
			}
			return setRetention(cmd, c, m, &text, yes, dry)
		},
	}
	id.add(cmd)
	tl.add(cmd)
	addOutputFlag(cmd)
	text.add(cmd.Flags())
	cmd.Flags().BoolVar(&yes, "yes", false, "do it although less is kept than before")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	return cmd
}

// setRetention says what a change does and makes it, if it may.
func setRetention(cmd *cobra.Command, c *journal.Container, now *maintain.Maintainer, text *policyText, yes, dry bool) error {
	const op = "retention set"
	ctx := cmd.Context()
	before, m, err := policyOf(ctx, c, now.Timeline())
	if err != nil {
		return err
	}
	after := before
	if err := text.apply(&after); err != nil {
		return err
	}
	next, err := maintain.New(ctx, c, maintain.Options{Timeline: now.Timeline(), By: maintainerName("retention set"), Policy: &after})
	if err != nil {
		return err
	}
	ch := &retentionChange{Timeline: now.Timeline(), Before: viewPolicy(&before), After: viewPolicy(&after), Lost: []dr.CheckpointID{}}
	if err := ch.foretell(ctx, now, next); err != nil {
		return err
	}
	var live int64
	if m != nil {
		live = m.Stats.Live
	}
	if ways := shortens(&before, &after, live); len(ways) > 0 || len(ch.Lost) > 0 {
		ch.Shortens = append(ways, fmt.Sprintf("%d checkpoint(s) go", len(ch.Lost)))
	}
	refused := len(ch.Shortens) > 0 && !yes && !dry
	if !refused && !dry {
		r, err := next.Pass(ctx)
		if err != nil {
			return err
		}
		if r.Generation == 0 {
			return errs.New(op, errs.Unavailable, now.Timeline().String(), "nothing was published to this timeline yet, so there is nothing to remember the policy with").
				WithRemedy("start the DRVA first, or name the policy in its configuration")
		}
		ch.Applied, ch.At = true, r.Generation
	}
	if err := print(cmd, ch, func(w io.Writer) { ch.print(w) }); err != nil {
		return err
	}
	if refused {
		return unconfirmed(op, now.Timeline().String(), ch.Shortens)
	}
	return nil
}

// foretell finds out which checkpoints go now, and which for the change.
func (ch *retentionChange) foretell(ctx context.Context, now, next *maintain.Maintainer) error {
	was, err := now.Plan(ctx)
	if err != nil {
		return err
	}
	will, err := next.Plan(ctx)
	if err != nil {
		return err
	}
	going := make(map[dr.CheckpointID]bool, len(was.Drop))
	for i := range was.Drop {
		going[was.Drop[i].ID] = true
	}
	for i := range will.Drop {
		if id := will.Drop[i].ID; !going[id] {
			ch.Lost = append(ch.Lost, id)
		}
	}
	ch.Keep, ch.Going = len(will.Keep), len(will.Drop)-len(ch.Lost)
	return nil
}

func (ch *retentionChange) print(w io.Writer) {
	fmt.Fprintln(w, "POLICY\tBEFORE\tAFTER")
	after := ch.After.rows()
	for i, r := range ch.Before.rows() {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r[0], r[1], after[i][1])
	}
	fmt.Fprintf(w, "checkpoints\t%d\t%d\n", ch.Keep+len(ch.Lost), ch.Keep)
	for _, s := range ch.Shortens {
		fmt.Fprintf(w, "shorter\t%s\n", s)
	}
	if ch.Applied {
		fmt.Fprintf(w, "in force\tfrom generation %d on\n", ch.At)
	} else {
		fmt.Fprintln(w, "nothing was changed")
	}
}

// forecastView is how far back a history of some size reaches.
type forecastView struct {
	Bytes    int64   `json:"bytes"`
	Keeps    float64 `json:"keeps_seconds"`
	Measured bool    `json:"measured"` // counted; else the growth so far carried on
}

// retentionForecast is what the history takes, and what more or less would
// keep.
type retentionForecast struct {
	Timeline    dr.TimelineID  `json:"timeline"`
	Live        int64          `json:"live_bytes"`
	Checkpoints int            `json:"checkpoints"`
	Reaches     float64        `json:"reaches_seconds"`
	Promised    float64        `json:"promised_seconds"`
	Counted     time.Time      `json:"counted"` // when it was
	Forecasts   []forecastView `json:"forecasts"`
}

func newRetentionForecast() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var sizes []string
	var anew bool
	cmd := &cobra.Command{
		Use:   "forecast URL",
		Short: "Tell how far back a history of so many bytes reaches",
		Long: `Tells how far back the history reaches with so much room. What each checkpoint
needs is counted, frame by frame, whenever maintenance merges the whole index; the
container remembers it, and the answer says how old it is. Up to what was kept then
it is exact; beyond that it is the growth of the older half carried on.

This changes nothing, and needs no right but to read. --fresh counts anew: it does
what "gc run --full" does, and needs its rights and its time.`,
		Example: `  holdfast retention forecast file:///srv/dr/erp --key recovery.key
  holdfast retention forecast file:///srv/dr/erp --key recovery.key --size 500GB --size 1TB
  holdfast retention forecast file:///srv/dr/erp --key gc.key --fresh`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var asked []int64
			for _, s := range sizes {
				n, err := parseSize("--size", s)
				if err != nil {
					return err
				}
				asked = append(asked, n)
			}
			bars := &stages{out: cmd.ErrOrStderr()}
			_, m, err := openMaintainer(cmd.Context(), args[0], &id, &tl, maintain.Options{By: maintainerName("retention forecast"), Progress: bars.tell})
			if err != nil {
				return err
			}
			r, err := counted(cmd, m, anew, bars)
			if err != nil {
				return err
			}
			f, err := forecast(r, asked)
			if err != nil {
				return err
			}
			return print(cmd, f, func(w io.Writer) { printForecast(w, f) })
		},
	}
	id.add(cmd)
	tl.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringSliceVar(&sizes, "size", nil, "room to tell about, as 500GB (repeatable; default: half to four times of what is needed now)")
	cmd.Flags().BoolVar(&anew, "fresh", false, "count anew, by a full maintenance pass")
	return cmd
}

// counted is how things stand with what the last full merge counted, or with
// what one counts now.
func counted(cmd *cobra.Command, m *maintain.Maintainer, anew bool, bars *stages) (*maintain.Report, error) {
	if anew {
		m.Compact()
		return passes(cmd, m, bars)
	}
	s, err := m.Status(cmd.Context())
	if err != nil {
		return nil, err
	}
	if s.Generation == 0 || s.Forecasts == nil {
		return nil, errs.New("retention forecast", errs.Unavailable, m.Timeline().String(), "maintenance has not counted this history yet").
			WithRemedy("it does within a day; or count now, with the rights of maintenance: repeat with --fresh")
	}
	return &s.Report, nil
}

// forecast reads a forecast out of a pass that counted.
func forecast(r *maintain.Report, asked []int64) (*retentionForecast, error) {
	if r.Forecasts == nil || len(r.Forecasts.Time) == 0 {
		return nil, errs.New("retention forecast", errs.Unavailable, r.Timeline.String(), "there is no history to count yet").
			WithRemedy("wait until checkpoints were published")
	}
	live := r.Forecasts.From(0)
	if len(asked) == 0 {
		for _, n := range []int64{live / 2, live, 2 * live, 4 * live} {
			if n > 0 {
				asked = append(asked, n)
			}
		}
	}
	f := &retentionForecast{Timeline: r.Timeline, Live: live, Checkpoints: len(r.Forecasts.Time),
		Reaches: max(0, r.Forecasts.At.Sub(r.Forecasts.Time[0]).Seconds()), Promised: r.Promised.Seconds(), Counted: r.Forecasts.Made}
	for _, n := range asked {
		v := r.Forecasts.Forecast(n)
		f.Forecasts = append(f.Forecasts, forecastView{v.Bytes, v.Keeps.Seconds(), v.Measured})
	}
	return f, nil
}

func printForecast(w io.Writer, f *retentionForecast) {
	fmt.Fprintf(w, "history\t%s in %d checkpoints, reaches back %s of %s\n", sizeOf(f.Live), f.Checkpoints,
		spanOf(secondsOf(f.Reaches)), spanOf(secondsOf(f.Promised)))
	fmt.Fprintf(w, "counted\t%s\n", countedAt(f.Counted, time.Now()))
	for _, v := range f.Forecasts {
		how := "counted"
		if !v.Measured {
			how = "if it grows as so far"
		}
		fmt.Fprintf(w, "with %s\t%s\t%s\n", sizeOf(v.Bytes), v.keeps(), how)
	}
}

// countedAt says when a full merge counted, and how long ago that is.
func countedAt(at, now time.Time) string {
	ago := now.Sub(at).Truncate(time.Second)
	if ago < 0 {
		return timeOf(at)
	}
	return timeOf(at) + ", " + spanOf(ago) + " ago"
}

// keeps says how far back the history then reaches.
func (v *forecastView) keeps() string {
	if v.Keeps == 0 {
		return "you keep the newest checkpoint at most"
	}
	return "you keep " + spanOf(secondsOf(v.Keeps).Round(time.Second))
}
