package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/errs"
)

func newPlanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Carry recovery plans out by a manager",
		Long: `What plans are is written in files: holdfast apply -f. Here they are carried out:

  holdfast plan status erp
  holdfast plan do erp test --wait
  holdfast plan do erp cleanup --wait
  holdfast plan do erp planned --confirm erp --wait
  holdfast plan do erp commit --confirm erp --wait`,
	}
	subs := []*cobra.Command{
		onePlan("status", "Show where a plan stands, and what it allows", func(cmd *cobra.Command, c *api.Client, n api.Name) error {
			s, err := c.PlanStatus(cmd.Context(), n)
			return shownStatus(cmd, s, err)
		}),
		onePlan("ready", "Dry-run a plan: a score, and every problem", planReady),
		newPlanPreviewCommand(), newPlanDoCommand(), newPlanAskCommand(),
		onePlan("cancel", "Cancel what a plan does; what can be taken back is", func(cmd *cobra.Command, c *api.Client, n api.Name) error {
			s, err := c.CancelPlan(cmd.Context(), n)
			return shownStatus(cmd, s, err)
		}),
		onePlan("resume", "Have a plan's parked run go on", func(cmd *cobra.Command, c *api.Client, n api.Name) error {
			s, err := c.ResumePlan(cmd.Context(), n)
			return shownStatus(cmd, s, err)
		}),
		newPlanStepCommand("answer NAME STEP ANSWER", "Answer what a plan's run asks", 3, func(ctx context.Context, c *api.Client, n api.Name, step int, words string) (api.PlanStatus, error) {
			return c.AnswerPrompt(ctx, n, step, words)
		}),
		newPlanStepCommand("skip NAME STEP", "Leave out a step of a plan's parked run; then resume it", 2, func(ctx context.Context, c *api.Client, n api.Name, step int, _ string) (api.PlanStatus, error) {
			return c.SkipStep(ctx, n, step)
		}),
		newPlanPromptsCommand(), newPlanHistoryCommand(),
	}
	for _, s := range subs {
		addManagerFlags(s)
	}
	cmd.AddCommand(subs...)
	return cmd
}

// onePlan is a command about one plan.
func onePlan(use, short string, f func(*cobra.Command, *api.Client, api.Name) error) *cobra.Command {
	return &cobra.Command{Use: use + " NAME", Short: short, Args: exactArgs("NAME"), RunE: func(cmd *cobra.Command, args []string) error {
		return withManager(cmd, func(c *api.Client) error { return f(cmd, c, api.Name(args[0])) })
	}}
}

// shownStatus prints where a plan stands.
func shownStatus(cmd *cobra.Command, s api.PlanStatus, err error) error {
	if err != nil {
		return err
	}
	return print(cmd, s, func(w io.Writer) {
		fmt.Fprintf(w, "plan\t%s\nstate\t%s: %s\n", s.Plan, s.State, s.Means)
		if s.Doing != "" {
			fmt.Fprintf(w, "operation\t%s\nrun\t%s\n", s.Doing, s.Run)
		}
		if s.Reason != "" {
			fmt.Fprintf(w, "interrupted\t%s\n", s.Reason)
		}
		fmt.Fprintf(w, "allowed\t%s\n", strings.Join(s.Allowed, ", "))
		if len(s.Allowed) == 0 {
			fmt.Fprintf(w, "why not\t%s\n", s.Else)
		}
		if s.Reversed {
			fmt.Fprintln(w, "direction\tagainst the plan's home")
		}
		if s.Due != nil {
			fmt.Fprintf(w, "by itself\t%s at %s\n", s.Decide, timeOf(*s.Due))
		}
		if s.Tested != nil {
			fmt.Fprintf(w, "tested\t%s, %s\n", timeOf(*s.Tested), map[bool]string{true: "well", false: "with errors"}[s.TestOK])
		}
		if s.Overdue != "" {
			fmt.Fprintf(w, "to be seen to\t%s\n", s.Overdue)
		}
		for _, d := range s.Domains {
			fmt.Fprintf(w, "domain %s\t%s\n", d.Name, d.Failover)
		}
	})
}

func planFaults(w io.Writer, faults []api.Fault) {
	for _, f := range faults {
		fmt.Fprintf(w, "%s\t%s\n", f.Severity, f.String())
	}
}

func planReady(cmd *cobra.Command, c *api.Client, n api.Name) error {
	r, err := c.Readiness(cmd.Context(), n)
	if err != nil {
		return err
	}
	return print(cmd, r, func(w io.Writer) {
		fmt.Fprintf(w, "score\t%d of 100\nVMs\t%d\nsteps\t%d\n", r.Score, r.VMs, r.Steps)
		planFaults(w, r.Faults)
	})
}

// addQuestionFlags gives a command what says which run is meant.
func addQuestionFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSlice("vm", nil, "only this VM, by name or id (repeatable)")
	f.String("at", "", "the newest checkpoint not after this time, as 2026-11-29T12:00:00Z")
	f.String("tag", "", "the newest checkpoint with this tag")
	f.Bool("app", false, "the newest application-consistent checkpoint")
	f.StringToString("checkpoint", nil, "a checkpoint for a domain, as erp=1234 (repeatable)")
}

func question(cmd *cobra.Command, op string) (q api.RunQuestion, err error) {
	f := cmd.Flags()
	q.Operation = op
	vms, _ := f.GetStringSlice("vm")
	for _, v := range vms {
		q.VMs = append(q.VMs, api.Ref(v))
	}
	var p api.RunPoint
	at, _ := f.GetString("at")
	if at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return q, errs.E("cli", errs.Invalid, "--at", err).WithRemedy("write it as 2026-11-29T12:00:00Z")
		}
		p.At = &t
	}
	p.Tag, _ = f.GetString("tag")
	p.App, _ = f.GetBool("app")
	points, _ := f.GetStringToString("checkpoint")
	for d, text := range points {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return q, errs.E("cli", errs.Invalid, "--checkpoint", err).WithRemedy("write DOMAIN=NUMBER")
		}
		if p.Domains == nil {
			p.Domains = map[api.Name]uint64{}
		}
		p.Domains[api.Name(d)] = n
	}
	if p.At != nil || p.Tag != "" || p.App || p.Domains != nil {
		q.Point = &p
	}
	return q, nil
}

func newPlanPreviewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "preview NAME OPERATION", Short: "Show what an operation of a plan would do", Args: exactArgs("NAME", "OPERATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := question(cmd, args[1])
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				p, err := c.Preview(cmd.Context(), api.Name(args[0]), q)
				if err != nil {
					return err
				}
				return print(cmd, p, func(w io.Writer) {
					planFaults(w, p.Faults)
					for _, g := range p.Groups {
						fmt.Fprintf(w, "%s\t%s\n", g.Name, g.Title)
						for _, s := range g.Steps {
							fmt.Fprintf(w, "\t  %s\n", s)
						}
					}
				})
			})
		},
	}
	addQuestionFlags(cmd)
	return cmd
}

func newPlanDoCommand() *cobra.Command {
	var confirm, approval, notes string
	var alone bool
	cmd := &cobra.Command{
		Use:   "do NAME OPERATION",
		Short: "Begin an operation of a plan: test, cleanup, planned, disaster, commit, rollback, reprotect, failback, rerun, …",
		Long: `Begins what the plan's state allows (holdfast plan status). What changes production
needs --confirm with the plan's name, and the version you see is the one you confirm.
A plan that asks for a second person: holdfast plan ask, then --approval.
With --wait: until the run has ended or needs somebody. It fails with code 1 when the
run did, 4 when it waits for an operator or an answer, 130 when it was cancelled.`,
		Args: exactArgs("NAME", "OPERATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := api.Name(args[0])
			q, err := question(cmd, args[1])
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				start := api.StartRun{RunQuestion: q, Notes: notes}
				if confirm != "" {
					p, err := c.Plans().Get(cmd.Context(), name)
					if err != nil {
						return err
					}
					start.Confirm = &api.ConfirmRun{Plan: api.Name(confirm), Version: uint64(p.Version), Operation: q.Operation, Alone: alone, Approval: approval}
				}
				s, err := c.PlanStatus(cmd.Context(), name)
				if err != nil {
					return err
				}
				run, err := c.StartRun(cmd.Context(), name, s.Doing, start)
				if err != nil {
					return err
				}
				return finishRun(cmd, c, run)
			})
		},
	}
	addQuestionFlags(cmd)
	addWaitFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&confirm, "confirm", "", "the plan's name again: you know that this changes production")
	f.BoolVar(&alone, "alone", false, "forced: you know that the protected site is not asked, and may still run its VMs")
	f.StringVar(&approval, "approval", "", "the second person's approval, of holdfast plan ask")
	f.StringVar(&notes, "notes", "", "what the report is to say besides")
	return cmd
}

// finishRun prints a run that was begun, or, with --wait, what became of it.
func finishRun(cmd *cobra.Command, c *api.Client, run api.StartedRun) error {
	if wait, _ := cmd.Flags().GetBool("wait"); !wait {
		return print(cmd, run, func(w io.Writer) {
			fmt.Fprintf(w, "run\t%s\noperation\t%s\nstate\t%s\n", run.Run, run.Operation, run.State)
			planFaults(w, run.Faults)
		})
	}
	r, err := waitRun(cmd, c, run.Run)
	if err != nil {
		return err
	}
	if err := printPlanRun(cmd, r); err != nil {
		return err
	}
	return runError(cmd.Context(), c, r)
}

func newPlanAskCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ask NAME OPERATION", Short: "Ask a second person to agree to a run of a plan", Args: exactArgs("NAME", "OPERATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := question(cmd, args[1])
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				a, err := c.AskApproval(cmd.Context(), api.Name(args[0]), q)
				if err != nil {
					return err
				}
				return print(cmd, a, func(w io.Writer) { fmt.Fprintf(w, "approval\t%s\nexpires\t%s\n", a.ID, timeOf(a.Expires)) })
			})
		},
	}
	addQuestionFlags(cmd)
	return cmd
}

// newPlanStepCommand is a command about a step of a plan's run.
func newPlanStepCommand(use, short string, args int, f func(context.Context, *api.Client, api.Name, int, string) (api.PlanStatus, error)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: exactArgs(strings.Fields(use)[1:]...), RunE: func(cmd *cobra.Command, words []string) error {
		step, err := strconv.Atoi(words[1])
		if err != nil {
			return errs.E("cli", errs.Invalid, "step", err).WithRemedy("give the number that holdfast run show tells")
		}
		return withManager(cmd, func(c *api.Client) error {
			s, err := f(cmd.Context(), c, api.Name(words[0]), step, words[args-1])
			return shownStatus(cmd, s, err)
		})
	}}
}

func newPlanPromptsCommand() *cobra.Command {
	return &cobra.Command{Use: "prompts", Short: "List the questions that hold runs", Args: exactArgs(), RunE: func(cmd *cobra.Command, _ []string) error {
		return withManager(cmd, func(c *api.Client) error {
			list, err := c.Prompts(cmd.Context())
			if err != nil {
				return err
			}
			return print(cmd, list, func(w io.Writer) {
				fmt.Fprintln(w, "PLAN\tSTEP\tASKED\tQUESTION")
				for _, p := range list {
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", p.Plan, p.Step, timeOf(p.Asked), p.Question)
				}
			})
		})
	}}
}

func newPlanHistoryCommand() *cobra.Command {
	var limit int
	cmd := onePlan("history", "List the runs of a plan, the newest first", func(cmd *cobra.Command, c *api.Client, n api.Name) error {
		page, err := c.PlanRuns(cmd.Context(), n, api.ListOptions{Limit: limit})
		if err != nil {
			return err
		}
		return print(cmd, page.Items, func(w io.Writer) {
			fmt.Fprintln(w, "RUN\tOPERATION\tSTATUS\tBY\tBEGAN\tPLAN AFTERWARDS")
			for _, r := range page.Items {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Run, r.Operation, r.Status, r.By, timeOf(r.Began), r.State)
			}
		})
	})
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	return cmd
}
