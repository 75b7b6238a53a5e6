package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/recovery"
)

// actCommand is a command that does an action on a run: by its owner if it has
// one, else in the foreground.
func actCommand(use, short, long, example string, act func(*recovery.Run, context.Context) error, ask func(context.Context, *recovery.Service, string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			platform, err := platformOf(args[0])
			if err != nil {
				return err
			}
			return withService(cmd, platform, func(s *recovery.Service) error {
				r, err := s.Open(args[0])
				if errs.Is(err, errs.Conflict) {
					return printAfter(cmd, s, args[0], ask(cmd.Context(), s, args[0]))
				}
				if err != nil {
					return err
				}
				return ownRun(cmd, r, func(ctx context.Context) error { return act(r, ctx) })
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// printAfter shows a run after its owner was asked for something.
func printAfter(cmd *cobra.Command, s *recovery.Service, dir string, err error) error {
	if err != nil {
		return err
	}
	st, err := s.Status(cmd.Context(), dir)
	if err != nil {
		return err
	}
	return print(cmd, st, func(w io.Writer) { printRun(w, st) })
}

func newRecoverCommit() *cobra.Command {
	return actCommand("commit DIR", "Make a recovery final, and protect what it recovered",
		`Ends the time of looking: what the VMs in DIR wrote counts from now on, and there is no
way back but failback. Unless the run was begun with --no-protect, a DRVA and a host
component are started here, on the run's own timeline, once the disks are whole; they
outlive this command, and ship only what differs from the point.`,
		"  holdfast recover commit /var/lib/dr/erp",
		func(r *recovery.Run, ctx context.Context) error { return r.Do(ctx, recovery.Commit) },
		func(ctx context.Context, s *recovery.Service, dir string) error { return s.Commit(ctx, dir) })
}

func newRecoverRollback() *cobra.Command {
	var at string
	cmd := actCommand("rollback DIR", "Discard what was recovered; perhaps try another point",
		`Stops the VMs in DIR, discards their disks and drops the fork: the source's timeline is
the current one again. With --at another point is tried at once. The guests of a planned
migration's source are started again; its DRVA, which was fenced, has to be started, and
goes on with its own log.`,
		`  holdfast recover rollback /var/lib/dr/erp
  holdfast recover rollback /var/lib/dr/erp --at nearest:13:55`,
		func(r *recovery.Run, ctx context.Context) error { return rollBack(ctx, r, at) },
		func(ctx context.Context, s *recovery.Service, dir string) error {
			if at != "" {
				return errs.New("recover rollback", errs.Conflict, dir, "another process owns the run").
					WithRemedy("roll back without --at, and then: holdfast recover resume " + dir + " --at " + at)
			}
			return s.Rollback(ctx, dir)
		})
	cmd.Flags().StringVar(&at, "at", "", "try this checkpoint next, as for restore --at")
	return cmd
}

func rollBack(ctx context.Context, r *recovery.Run, at string) error {
	if err := r.Rollback(ctx); err != nil || at == "" {
		return err
	}
	return r.Resume(ctx, at)
}

func newRecoverReprotect() *cobra.Command {
	return actCommand("reprotect DIR", "Wait until what was recovered can be recovered from here",
		`Starts the protection of a committed recovery's VMs if it does not run, and returns when
the container holds a recovery point of them: the domain could be recovered elsewhere.
Only what differs from the point they were recovered at is shipped.`,
		"  holdfast recover reprotect /var/lib/dr/erp",
		func(r *recovery.Run, ctx context.Context) error { return r.Do(ctx, recovery.Reprotect) },
		func(ctx context.Context, s *recovery.Service, dir string) error { return s.Reprotect(ctx, dir) })
}

func newRecoverCleanup() *cobra.Command {
	var force bool
	cmd := actCommand("cleanup DIR", "Remove all a recovery made, but evidence and report",
		`Ends the VMs in DIR and removes their disks and sockets, releases the pin and drops a
fork that was not committed. run.json, report.json and evidence/ stay; remove the
directory when you have read them.

--force goes on over errors and says what it had to leave. It is also needed for a
recovery that waits for its commit, and for a committed one whose domain has moved on:
while these VMs are the domain, nothing removes them.`,
		"  holdfast recover cleanup /var/tmp/t1",
		func(r *recovery.Run, ctx context.Context) error {
			return r.DoWith(ctx, recovery.Cleanup, recovery.ActOptions{Force: force})
		},
		func(ctx context.Context, s *recovery.Service, dir string) error { return s.Cleanup(ctx, dir, force) })
	cmd.Flags().BoolVar(&force, "force", false, "go on over errors; discard what waits for its commit or was superseded")
	return cmd
}

func newRecoverResume() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use:   "resume DIR",
		Short: "Go on with a recovery that was interrupted or failed",
		Long: `Goes on where a recovery stopped, whatever stopped it: steps that were done are not
done again, VMs that run are found. Also serves again the disks of VMs that run on
disks which are still being filled, starts again VMs, and boxes of the protection here,
that have ended, and lets VMs go on that a disk error paused. A process that looks after
the recovery is asked to do so.
--at names the point to try next after a rollback.`,
		Example: "  holdfast recover resume /var/lib/dr/erp",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			platform, err := platformOf(args[0])
			if err != nil {
				return err
			}
			return withService(cmd, platform, func(s *recovery.Service) error {
				r, err := s.Open(args[0])
				if errs.Is(err, errs.Conflict) && at == "" {
					return printAfter(cmd, s, args[0], s.Revive(cmd.Context(), args[0]))
				}
				if err != nil {
					return err
				}
				return ownRun(cmd, r, func(ctx context.Context) error { return r.Resume(ctx, at) })
			})
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&at, "at", "", "after a rollback: the checkpoint to try, as for restore --at")
	return cmd
}

func newRecoverCancel() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel DIR",
		Short: "Have a recovery's process stop what it does",
		Long: `Stops what the process that owns the recovery in DIR does. What was done stays; resume,
rollback or cleanup follow. A planned migration that has not ended the source's history
yet puts the source back in service.`,
		Example: "  holdfast recover cancel /var/lib/dr/erp",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			platform, err := platformOf(args[0])
			if err != nil {
				return err
			}
			return withService(cmd, platform, func(s *recovery.Service) error { return s.Cancel(cmd.Context(), args[0]) })
		},
	}
}

func newRecoverStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status DIR",
		Short:   "Show where a recovery stands, and what may be done",
		Example: "  holdfast recover status /var/lib/dr/erp",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := recovery.New(recovery.Options{}).Status(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if st.Unwatched() {
				err = lookAt(cmd, args[0], &st)
			}
			return errors.Join(print(cmd, st, func(w io.Writer) { printRun(w, st) }), err)
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// lookAt asks the hypervisor what has become of a run's VMs. On error *st is as it
// was: what the record says.
func lookAt(cmd *cobra.Command, dir string, st **recovery.Status) error {
	platform, err := platformOf(dir)
	if err != nil {
		return err
	}
	return withService(cmd, platform, func(s *recovery.Service) error {
		seen, err := s.Look(cmd.Context(), dir)
		if err == nil {
			*st = seen
		}
		return err
	})
}

func newRecoverReport() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "report DIR",
		Short:   "Print the report of a recovery: steps, times, point, evidence",
		Example: "  holdfast recover report /var/tmp/t1 -o json",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := recovery.New(recovery.Options{}).Report(args[0])
			if err != nil {
				return err
			}
			var told error
			err = print(cmd, p, func(w io.Writer) { told = p.Print(w) })
			return errors.Join(err, told)
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func newRecoverList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list PARENT",
		Short:   "List the recoveries in the directories below PARENT",
		Example: "  holdfast recover list /var/lib/dr",
		Args:    exactArgs("PARENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := recovery.New(recovery.Options{}).List(cmd.Context(), args[0])
			if all == nil {
				all = []*recovery.Status{}
			}
			return errors.Join(print(cmd, all, func(w io.Writer) {
				fmt.Fprintln(w, "DIRECTORY\tOPERATION\tDOMAIN\tSTATE\tBEGUN\tOWNED")
				for _, st := range all {
					state := string(st.State)
					if st.Interrupted {
						state += " (interrupted)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%v\n", st.Dir, st.Operation, dash(st.Name), state, timeOf(st.Created), st.Owned)
				}
			}), err)
		},
	}
	addOutputFlag(cmd)
	return cmd
}
