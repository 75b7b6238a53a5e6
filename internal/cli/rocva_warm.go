package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/warm"
)

// warmSocket is where the standby of a directory answers.
func warmSocket(dir string) string { return filepath.Join(dir, "warm.sock") }

type warmFlags struct {
	restoreFlags
	again bool
	poll  time.Duration
}

func newWarmCommand() *cobra.Command {
	var f warmFlags
	cmd := &cobra.Command{
		Use:   "warm URL",
		Short: "Keep disks that follow a domain as it publishes, ready to boot",
		Long: `Rebuilds the disks of the container at URL into --out and goes on to apply every
checkpoint that is published: what differs is fetched and written. Runs until Ctrl-C,
or until the disks are handed over with "rocva failover"; started again it goes on
where it was, also after a crash.

Disks that follow have names that end in .partial: they are nobody's to boot before
they are handed over. "rocva standby" shows how far behind they are.

After a failover --again takes the disks up once more: they are compared, and what
their VMs have written is overwritten.`,
		Example: `  holdfast rocva warm file:///srv/dr/erp --key recovery.key --out /var/lib/standby
  holdfast rocva standby /var/lib/standby
  holdfast rocva failover /var/lib/standby --at latest
  holdfast rocva boot /var/lib/standby`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.follow(cmd, args[0]) },
	}
	f.id.add(cmd)
	f.timeline.add(cmd)
	cmd.Flags().StringVar(&f.out, "out", "", "directory for the disks")
	cmd.Flags().StringSliceVar(&f.vms, "vm", nil, "only this VM, by name or id (repeatable)")
	cmd.Flags().IntVar(&f.parallel, "parallel", 0, "reads under way at once (0: default)")
	cmd.Flags().BoolVar(&f.again, "again", false, "follow again with disks that were handed over")
	cmd.Flags().DurationVar(&f.poll, "poll", 0, "how often to look for something new (0: 5 s)")
	return cmd
}

// follow runs a standby until it is handed over or cmd's context ends.
func (f *warmFlags) follow(cmd *cobra.Command, url string) error {
	if f.out == "" {
		return usageError{fmt.Errorf("--out is missing: the directory for the disks")}
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
	if err := durable.MkdirAll(durable.OS{}, f.out); err != nil {
		return err
	}
	s, err := warm.Open(ctx, c, f.out, warm.Options{Timeline: t, Place: f.place, Again: f.again, Poll: f.poll, Parallel: f.parallel, Logger: log})
	if err != nil {
		return err
	}
	defer s.Close()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	g, running := errgroup.WithContext(serving)
	g.Go(func() error { return control.ServeLocal(serving, warmSocket(f.out), warmCalls(s, f.out)) })
	err = s.Run(running)
	if err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "handed over; boot with: holdfast rocva boot %s\n", f.out)
		// The answer to who asked for it is still on its way.
		time.AfterFunc(time.Second, stop)
	} else {
		stop()
	}
	if serr := g.Wait(); serr != nil {
		return serr
	}
	return err
}

// place lays disks out as a restore does, below the directory.
func (f *warmFlags) place(img *journal.Image) ([]rocva.Target, error) {
	targets, err := f.layOut(img, new(restored))
	for i := range targets {
		if rel, rerr := filepath.Rel(f.out, targets[i].Path); rerr == nil {
			targets[i].Path = rel
		}
	}
	return targets, err
}

type failoverRequest struct {
	At string `json:"at"`
}

func warmCalls(s *warm.Standby, dir string) map[string]control.Handler {
	return map[string]control.Handler{
		"/status": func(context.Context, []byte) (any, error) { return s.Status(), nil },
		"/failover": func(ctx context.Context, body []byte) (any, error) {
			var r failoverRequest
			if err := json.Unmarshal(body, &r); err != nil {
				return nil, errs.E("rocva.failover", errs.Invalid, "request", err)
			}
			h, err := s.FailoverTo(ctx, r.At)
			if err != nil {
				return nil, err
			}
			return h, writeHandover(dir, s.Status().Name, h)
		},
	}
}

// writeHandover leaves what a restore leaves, for "rocva boot".
func writeHandover(dir, name string, h *warm.Handover) error {
	r := restored{Domain: h.Domain, Name: name, Checkpoint: h.Checkpoint}
	for _, v := range h.VMs {
		r.VMs = append(r.VMs, recoveredVM{Config: v})
	}
	for _, d := range h.Disks {
		rel, err := filepath.Rel(dir, d.Path)
		if err != nil {
			return errs.E("rocva.failover", errs.Internal, d.Path, err)
		}
		r.Disks = append(r.Disks, recoveredDisk{ID: d.ID, VM: d.VM, Size: d.Size, Path: rel})
	}
	return r.write(dir)
}

func newStandbyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "standby DIR",
		Short:   "Show how a standby follows",
		Long:    `Asks the process that keeps the standby in DIR where it stands: its checkpoint, how far it lies behind, and why it does not follow if it does not.`,
		Example: "  holdfast rocva standby /var/lib/standby",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s warm.Status
			if err := control.CallLocal(cmd.Context(), warmSocket(args[0]), "/status", nil, &s); err != nil {
				return err
			}
			return print(cmd, s, func(w io.Writer) { printStandby(w, &s) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func printStandby(w io.Writer, s *warm.Status) {
	fmt.Fprintf(w, "domain\t%s\n", s.Name)
	fmt.Fprintf(w, "state\t%s\n", s.State)
	fmt.Fprintf(w, "stands at\t#%d of %s\n", s.Checkpoint, timeOf(s.Time))
	fmt.Fprintf(w, "newest\t#%d of %s\n", s.Newest, timeOf(s.NewestTime))
	fmt.Fprintf(w, "behind\t%.1f s, %s stored\n", s.Lag, sizeOf(s.LagBytes))
	if a := s.Applying; a != nil {
		fmt.Fprintf(w, "applying\t#%d: %s of %s\n", a.Checkpoint, sizeOf(a.Bytes), sizeOf(a.BytesTotal))
	}
	fmt.Fprintf(w, "applied\t%d checkpoints, %s read, %s written\n", s.Applied, sizeOf(s.Fetched), sizeOf(s.Written))
	if s.Error != "" {
		fmt.Fprintf(w, "does not follow\t%s\n", s.Error)
		fmt.Fprintf(w, "remedy\t%s\n", dash(s.Remedy))
	}
	for _, d := range s.Disks {
		fmt.Fprintf(w, "disk %s\t%s, %s\n", d.ID, sizeOf(d.Size), d.Path)
	}
}

func newFailoverCommand() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use:   "failover DIR",
		Short: "Hand a standby's disks over, to be booted",
		Long: `Ends the following of the standby in DIR and gives its disks their own names, with
recovery.json beside them. --at takes what "restore" takes; an older point than the
standby's rewrites what differs. "as-is" takes where the standby stands and asks no
store; it works also when no process keeps the standby.`,
		Example: `  holdfast rocva failover /var/lib/standby
  holdfast rocva failover /var/lib/standby --at "yesterday 14:03"
  holdfast rocva failover /var/lib/standby --at as-is`,
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := failOver(cmd.Context(), args[0], at)
			if err != nil {
				return err
			}
			return print(cmd, h, func(w io.Writer) { printHandover(w, h) })
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&at, "at", "latest", "which checkpoint")
	return cmd
}

// failOver asks the standby's process, or does without it.
func failOver(ctx context.Context, dir, at string) (*warm.Handover, error) {
	h := new(warm.Handover)
	err := control.CallLocal(ctx, warmSocket(dir), "/failover", failoverRequest{at}, h)
	switch {
	case err == nil:
		return h, nil
	case !errs.Is(err, errs.Unavailable):
		return nil, err
	case at != warm.AsIs:
		return nil, errs.E("rocva.failover", errs.Unavailable, dir, err).
			WithRemedy("start it again with \"holdfast rocva warm\", or take the disks as they are with --at " + warm.AsIs)
	}
	if h, err = warm.HandOver(durable.OS{}, dir); err != nil {
		return nil, err
	}
	return h, writeHandover(dir, h.Domain.String(), h)
}

func printHandover(w io.Writer, h *warm.Handover) {
	fmt.Fprintf(w, "checkpoint\t#%d of %s\n", h.Checkpoint.ID, timeOf(h.Checkpoint.Time))
	for _, d := range h.Disks {
		fmt.Fprintf(w, "disk %s\t%s, %s\n", d.ID, sizeOf(d.Size), d.Path)
	}
}
