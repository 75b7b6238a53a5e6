package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
)

func newGCCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "See and run what thins history and gives room back",
		Long: `Maintenance takes what was published into the index, thins checkpoints by the
retention policy, merges the index, packs data, and deletes what nothing needs: the
grace after the first manifest that does without, and only after everything that
may still need it was looked at again. A DRVA does it for its own timeline, unless
its configuration says "maintain": false; then "gc run --watch" does it elsewhere,
with credentials of its own. Several may run at once: for each step one wins.`,
	}
	cmd.AddCommand(newGCStatus(), newGCPlan(), newGCRun(), newGCNow())
	return cmd
}

// maintainerName is who maintains, for people: a manifest remembers it.
func maintainerName(what string) string {
	const longest = 200
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return what + " on " + host[:min(len(host), longest)]
}

// gcStatus is how the room of a timeline's history is used.
type gcStatus struct {
	maintain.Status
	By          string    `json:"by,omitempty"` // who made the newest manifest
	Lasts       []gcPin   `json:"pins"`         // in force
	Branches    []gcFork  `json:"branches"`     // that need what this timeline holds
	Locked      int64     `json:"locked_bytes"` // held by the store against deletion
	LockedCount int       `json:"locked_objects"`
	LockedUntil time.Time `json:"locked_until"`      // when the last of these runs out
	LockedIdle  int64     `json:"locked_idle_bytes"` // of them needed by nothing, and kept for the lock alone
	Counted     time.Time `json:"counted"`           // when the bytes for each alone were; zero: not yet
	Tombstones  int       `json:"tombstones"`        // objects that nothing needs any more
	Due         time.Time `json:"next_due"`          // when the oldest of them may be deleted
}

// gcPin is a pin that holds.
type gcPin struct {
	ID         dr.UUID         `json:"pin"`
	Kind       journal.PinKind `json:"kind"`
	Checkpoint dr.CheckpointID `json:"checkpoint"`
	Label      string          `json:"label,omitempty"`
	Expires    time.Time       `json:"expires"`
}

// gcFork is a branch that holds.
type gcFork struct {
	Timeline   dr.TimelineID   `json:"timeline"`
	Label      string          `json:"label,omitempty"`
	Checkpoint dr.CheckpointID `json:"checkpoint"`
}

func newGCStatus() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var anew bool
	cmd := &cobra.Command{
		Use:   "status URL",
		Short: "Show how the room is used, what holds it, and how maintenance stands",
		Long: `Shows, as of the newest maintenance pass: bytes stored, live (needed by what is
retained) and reclaimable (needed by nothing, and waiting for the grace); what
besides the schedule holds checkpoints, by name, and how many bytes are there for
each alone; what the store holds locked; when maintenance last ran, and why it
rests if it does. Changes nothing, and needs no right but to read.

The bytes for each alone are counted whenever the whole index is merged, and as old
as "counted" says; --fresh counts them now, by what "gc run --full" does.

When the next pass runs is known by whoever runs it: "holdfast status SOCKET".`,
		Example: `  holdfast gc status file:///srv/dr/erp --key recovery.key
  holdfast gc status file:///srv/dr/erp --key recovery.key --timeline drill -o json`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bars := &stages{out: cmd.ErrOrStderr()}
			c, m, err := openMaintainer(cmd.Context(), args[0], &id, &tl, maintain.Options{By: maintainerName("gc status"), Progress: bars.tell})
			if err != nil {
				return err
			}
			if anew {
				if _, err := counted(cmd, m, true, bars); err != nil {
					return err
				}
			}
			s, err := statusOfGC(cmd.Context(), c, m, time.Now())
			if err != nil {
				return err
			}
			return print(cmd, s, func(w io.Writer) { printGC(w, s) })
		},
	}
	id.add(cmd)
	tl.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&anew, "fresh", false, "count anew first, by a full maintenance pass")
	return cmd
}

func statusOfGC(ctx context.Context, c *journal.Container, m *maintain.Maintainer, now time.Time) (*gcStatus, error) {
	st, err := m.Status(ctx)
	if err != nil {
		return nil, err
	}
	s := &gcStatus{Status: st, Lasts: []gcPin{}, Branches: []gcFork{}}
	pins, err := c.Pins(ctx)
	if err != nil {
		return nil, err
	}
	for i := range pins {
		if p := &pins[i]; p.Timeline == m.Timeline() && p.Active(now) || p.Damaged != "" {
			s.Lasts = append(s.Lasts, gcPin{p.ID, p.Kind, p.Checkpoint, p.Label, p.Expires})
		}
	}
	all, err := c.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t.Fork != nil && t.Parent == m.Timeline() && t.Dropped == nil {
			s.Branches = append(s.Branches, gcFork{t.ID, t.Label, t.Fork.ID})
			s.nameBranch(&t)
		}
	}
	if st.Forecasts != nil {
		s.Counted = st.Forecasts.Made
	}
	man, ok, err := c.ReadManifest(ctx, m.Timeline())
	if err != nil || !ok {
		return s, err
	}
	s.By, s.Tombstones = man.By, len(man.Tombstones)
	if len(man.Tombstones) > 0 {
		s.Due = man.Tombstones[0].Since.Add(maintain.PolicyOf(man).Grace)
	}
	for i := range man.Objects {
		if o := &man.Objects[i]; o.Retain.After(now) {
			s.Locked += o.Size
			if o.Live == 0 {
				s.LockedIdle += o.Size
			}
			s.LockedCount++
			if o.Retain.After(s.LockedUntil) {
				s.LockedUntil = o.Retain
			}
		}
	}
	return s, nil
}

// nameBranch calls what a branch holds by the branch's label, if it has one.
func (s *gcStatus) nameBranch(t *journal.TimelineInfo) {
	s.Held = slices.Clone(s.Held) // shared with the maintainer
	for i := range s.Held {
		if h := &s.Held[i]; h.Reason == string(journal.ByFork) && h.Name == t.ID.String() && t.Label != "" {
			h.Name = t.Label
		}
	}
}

func printGC(w io.Writer, s *gcStatus) {
	printUpkeep(w, &s.Status)
	switch {
	case !s.Counted.IsZero():
		fmt.Fprintf(w, "counted\t%s\n", countedAt(s.Counted, time.Now()))
	case s.Generation > 0:
		fmt.Fprintln(w, "counted\tnot yet: the next merge of the whole index does, or --fresh now")
	}
	if s.NextRun.IsZero() {
		fmt.Fprintln(w, "next run\twhoever maintains it knows: holdfast status SOCKET")
	}
	if s.By != "" {
		fmt.Fprintf(w, "last run by\t%s\n", s.By)
	}
	for _, p := range s.Lasts {
		fmt.Fprintf(w, "pin\t%s %s of checkpoint %d%s\n", p.Kind, p.ID, p.Checkpoint, suffix(p.Label))
	}
	for _, b := range s.Branches {
		fmt.Fprintf(w, "branch\t%s at checkpoint %d%s\n", b.Timeline, b.Checkpoint, suffix(b.Label))
	}
	if s.Tombstones > 0 {
		fmt.Fprintf(w, "to delete\t%d object(s), the first from %s on\n", s.Tombstones, timeOf(s.Due))
	}
	if s.LockedCount > 0 {
		fmt.Fprintf(w, "locked\t%s in %d object(s), the last until %s; %s of it is kept for the lock alone\n",
			sizeOf(s.Locked), s.LockedCount, timeOf(s.LockedUntil), sizeOf(s.LockedIdle))
	}
}

// printUpkeep renders how maintenance of a timeline stands.
func printUpkeep(w io.Writer, s *maintain.Status) {
	fmt.Fprintf(w, "timeline\t%s\n", s.Timeline)
	switch {
	case s.Generation == 0 && s.LastRun.IsZero():
		fmt.Fprintln(w, "maintenance\tnever ran on this timeline")
	case s.Generation == 0:
		fmt.Fprintf(w, "last run\t%s, nothing was published by then\n", timeOf(s.LastRun))
	default:
		fmt.Fprintf(w, "room\t%s stored, %s live, %s reclaimable\n", sizeOf(s.Stats.Stored), sizeOf(s.Stats.Live), sizeOf(s.Stats.Reclaimable))
		fmt.Fprintf(w, "index\t%s, %d entries in %d run(s)\n", sizeOf(s.Stats.Index), s.Entries, s.Runs)
		fmt.Fprintf(w, "history\t%d checkpoint(s), the oldest of %s; the schedule reaches back %s\n", s.Kept, timeOf(s.Oldest), spanOf(s.Promised))
		fmt.Fprintf(w, "last run\t%s, generation %d\n", timeOf(s.LastRun), s.Generation)
	}
	if !s.NextRun.IsZero() {
		fmt.Fprintf(w, "next run\t%s\n", timeOf(s.NextRun))
	}
	if s.Failures > 0 {
		rest := ""
		if s.Resting {
			rest = ", resting"
		}
		fmt.Fprintf(w, "failing\t%d time(s) in a row%s: %s\n", s.Failures, rest, s.LastError)
	}
	for _, p := range s.Paused {
		fmt.Fprintf(w, "paused\t%s\n", p)
	}
	for _, a := range s.Alarms {
		fmt.Fprintf(w, "ALARM\t%s\n", a)
	}
	for _, h := range s.Held {
		fmt.Fprintf(w, "held\t%s\n", heldText(&h))
	}
}

func heldText(h *maintain.Held) string {
	text := "by " + h.Reason
	if h.Name != "" {
		text += " " + h.Name
	}
	if h.Checkpoint != 0 {
		text += fmt.Sprintf(": checkpoint %d", h.Checkpoint)
	}
	switch {
	case h.Bytes > 0 && h.Checkpoint != 0:
		text += ", " + sizeOf(h.Bytes) + " for it alone"
	case h.Bytes > 0:
		text += ", " + sizeOf(h.Bytes)
	case h.Bytes == 0:
		text += ", nothing for it alone"
	}
	if !h.Until.IsZero() {
		text += ", until " + timeOf(h.Until)
	}
	return text
}

func newGCPlan() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var full bool
	cmd := &cobra.Command{
		Use:   "plan URL",
		Short: "Tell what the next pass would do, without doing it",
		Long: `Tells which checkpoints the next maintenance pass would drop and keep, what it
would pack, and which objects it would delete if nothing is found to need them.
Changes nothing, and needs no right but to read.`,
		Example: "  holdfast gc plan file:///srv/dr/erp --key recovery.key --full",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, m, err := openMaintainer(cmd.Context(), args[0], &id, &tl, maintain.Options{})
			if err != nil {
				return err
			}
			if full {
				m.Compact()
			}
			plan, err := m.Plan(cmd.Context())
			if err != nil {
				return err
			}
			return print(cmd, plan, func(w io.Writer) { printPlan(w, plan) })
		},
	}
	id.add(cmd)
	tl.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&full, "full", false, `as "gc run --full" would`)
	return cmd
}

// listedDrops bounds how many checkpoints a plan names.
const listedDrops = 20

func printPlan(w io.Writer, p *maintain.Plan) {
	fmt.Fprintf(w, "timeline\t%s\n", p.Timeline)
	fmt.Fprintf(w, "take in\t%d journal object(s)\n", p.Flushed)
	fmt.Fprintf(w, "keep\t%d checkpoint(s)\n", len(p.Keep))
	fmt.Fprintf(w, "drop\t%d checkpoint(s)\n", len(p.Drop))
	for i := range p.Drop[:min(len(p.Drop), listedDrops)] {
		fmt.Fprintf(w, "\t%d of %s\n", p.Drop[i].ID, timeOf(p.Drop[i].Time))
	}
	if n := len(p.Drop) - listedDrops; n > 0 {
		fmt.Fprintf(w, "\tand %d more\n", n)
	}
	fmt.Fprintf(w, "pack\t%d object(s), moving %s\n", p.Victims, sizeOf(p.Moved))
	fmt.Fprintf(w, "delete\t%d object(s), if nothing is found to need them\n", len(p.Due))
	for _, s := range p.Paused {
		fmt.Fprintf(w, "paused\t%s\n", s)
	}
	for _, s := range p.Alarms {
		fmt.Fprintf(w, "ALARM\t%s\n", s)
	}
}

// gcRequest is what is asked of the next pass; also the body of a local /gc
// call.
type gcRequest struct {
	Full   bool `json:"full,omitempty"`
	Accept bool `json:"accept_clock,omitempty"`
	Clear  bool `json:"clear_suspects,omitempty"`
}

func (r *gcRequest) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.Full, "full", false, "merge the whole index, pack whatever can be, look for orphans")
	cmd.Flags().BoolVar(&r.Accept, "accept-clock", false, "confirm that no clock is wrong: thinning that is held because time passed without checkpoints goes on")
	cmd.Flags().BoolVar(&r.Clear, "clear-suspects", false, "forget all SUSPECT marks: thinning around them goes on")
}

func (r *gcRequest) ask(m *maintain.Maintainer) {
	if r.Full {
		m.Compact()
	}
	if r.Accept {
		m.AcceptClock()
	}
	if r.Clear {
		m.ClearSuspects()
	}
}

// gcRun is how "gc run" is asked to work.
type gcRun struct {
	id       identityFlags
	timeline timelineFlag
	request  gcRequest
	policy   policyText
	watch    bool
	interval time.Duration
	status   string
}

func newGCRun() *cobra.Command {
	var f gcRun
	cmd := &cobra.Command{
		Use:   "run URL",
		Short: "Maintain a timeline now, or with --watch for as long as it runs",
		Long: `Makes a maintenance pass now, and further ones while a backlog is left, and says
what each did. With --watch it goes on until it is stopped: for a machine that
maintains with credentials of its own, while the DRVA's have no right to delete
("maintain": false in its configuration). Interrupting it loses nothing.

The policy is the one the container remembers, see "holdfast retention"; what
--tag-time and --lock name is in force from this run on, and remembered. With
--watch, a rotation of the data key is noticed within half an hour and said in the
log and the status: restart it then, with the key it has.`,
		Example: `  holdfast gc run file:///srv/dr/erp --key gc.key
  holdfast gc run file:///srv/dr/erp --key gc.key --full
  holdfast gc run s3://dr-erp?region=eu-central-1 --key gc.key --watch --status /run/holdfast/gc.sock`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.id.add(cmd)
	f.timeline.add(cmd)
	f.request.add(cmd)
	f.policy.addHolding(cmd.Flags())
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&f.watch, "watch", false, "go on until stopped")
	cmd.Flags().DurationVar(&f.interval, "interval", maintain.DefaultInterval, "with --watch: between passes, 1m to 1h")
	cmd.Flags().StringVar(&f.status, "status", "", `with --watch: unix socket for "holdfast status" and "holdfast gc now"`)
	return cmd
}

func (f *gcRun) run(cmd *cobra.Command, url string) error {
	if f.status != "" && !f.watch {
		return usageError{fmt.Errorf("--status goes with --watch")}
	}
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	c, err := openContainer(ctx, url, &f.id)
	if err != nil {
		return err
	}
	t, err := f.timeline.id(ctx, c)
	if err != nil {
		return err
	}
	opts := maintain.Options{Timeline: t, By: maintainerName("gc run"), Interval: f.interval, Logger: log}
	bars := &stages{out: cmd.ErrOrStderr()}
	if !f.watch {
		opts.Progress = bars.tell
	}
	u := newUpkeep(c, f.policy, opts)
	if err := u.open(ctx); err != nil {
		return err
	}
	f.request.ask(u.maintainer())
	if f.watch {
		u.keys = newKeyWatch(c, log)
		return serve(ctx, log, f.status, u.calls(), u.keys.beside(u.run))
	}
	r, err := passes(cmd, u.maintainer(), bars)
	if err != nil {
		return err
	}
	return print(cmd, r, func(w io.Writer) { printPasses(w, r) })
}

// passes makes passes until no backlog is left, which bars show. The report is
// of all of them: what was done is added up, how things stand is of the last.
func passes(cmd *cobra.Command, m *maintain.Maintainer, bars *stages) (*maintain.Report, error) {
	var sum *maintain.Report
	for n := 1; ; n++ {
		fmt.Fprintf(cmd.ErrOrStderr(), "maintaining %s, pass %d\n", m.Timeline(), n)
		r, err := m.Pass(cmd.Context())
		bars.finish()
		if err != nil {
			return nil, err
		}
		sum = addReport(sum, r)
		if !r.More {
			return sum, nil
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "took in %d journal objects in %s; more are left\n", r.Flushed, spanOf(r.Took))
	}
}

// addReport is the report of sum, which may be nil, and then r.
func addReport(sum, r *maintain.Report) *maintain.Report {
	out := *r
	if sum == nil {
		return &out
	}
	out.Worked = out.Worked || sum.Worked
	out.Full = out.Full || sum.Full
	out.Flushed += sum.Flushed
	out.Dropped += sum.Dropped
	out.Merged += sum.Merged
	out.Packed += sum.Packed
	out.Written += sum.Written
	out.Deleted += sum.Deleted
	out.Freed += sum.Freed
	out.Swept += sum.Swept
	out.Extended += sum.Extended
	out.Took += sum.Took
	if out.Forecasts == nil {
		out.Forecasts = sum.Forecasts
	}
	return &out
}

func printPasses(w io.Writer, r *maintain.Report) {
	if !r.Worked {
		fmt.Fprintln(w, "done\tthere was nothing to do")
	} else {
		full := ""
		if r.Full {
			full = ", all of the index"
		}
		fmt.Fprintf(w, "took in\t%d journal object(s)\n", r.Flushed)
		fmt.Fprintf(w, "checkpoints\t%d dropped, %d kept\n", r.Dropped, r.Kept)
		fmt.Fprintf(w, "index\t%d run(s) merged%s\n", r.Merged, full)
		fmt.Fprintf(w, "packed\t%d object(s)\n", r.Packed)
		fmt.Fprintf(w, "written\t%s\n", sizeOf(r.Written))
		fmt.Fprintf(w, "deleted\t%d object(s), %s, %d of them orphans\n", r.Deleted, sizeOf(r.Freed), r.Swept)
		if r.Extended > 0 {
			fmt.Fprintf(w, "locks\t%d extended\n", r.Extended)
		}
		fmt.Fprintf(w, "took\t%s\n", spanOf(r.Took))
	}
	printUpkeep(w, &maintain.Status{Timeline: r.Timeline, LastRun: time.Now(), Report: *r})
}

func newGCNow() *cobra.Command {
	var r gcRequest
	cmd := &cobra.Command{
		Use:   "now SOCKET",
		Short: "Make a running drva or gc begin its next maintenance pass now",
		Long: `Asks the appliance that answers on the unix socket SOCKET (the "status" setting of
a DRVA, or --status of "gc run --watch") to begin its next pass now, also when it
rests after failures. Returns at once; "holdfast status SOCKET" shows what came of
it.`,
		Example: `  holdfast gc now /run/holdfast/drva.sock
  holdfast gc now /run/holdfast/drva.sock --full`,
		Args: exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := control.CallLocal(cmd.Context(), args[0], "/gc", r, &raw); err != nil {
				return err
			}
			return print(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "asked for a pass") })
		},
	}
	r.add(cmd)
	addOutputFlag(cmd)
	return cmd
}

// errOff is what asking for maintenance where there is none comes to.
func errOff() error {
	return errs.New("gc now", errs.Unavailable, "maintenance", "this appliance does not maintain the history").
		WithRemedy(`ask the one that does, or take "maintain": false out of its configuration`)
}
