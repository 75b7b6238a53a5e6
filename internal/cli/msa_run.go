package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/errs"
)

func newRunCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "run", Short: "See the runs of recovery plans, and their reports"}
	one := func(use, short string, f func(cmd *cobra.Command, c *api.Client, id string) error) *cobra.Command {
		return &cobra.Command{Use: use + " ID", Short: short, Args: exactArgs("ID"), RunE: func(cmd *cobra.Command, args []string) error {
			return withManager(cmd, func(c *api.Client) error { return f(cmd, c, args[0]) })
		}}
	}
	var format, words string
	report := one("report", "Write the report of a run", func(cmd *cobra.Command, c *api.Client, id string) error {
		text, err := c.RunReport(cmd.Context(), id, format)
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		return err
	})
	report.Flags().StringVar(&format, "format", "html", "html (one page that prints well), json or csv")
	notes := one("notes", "Write down something about a run, for its report", func(cmd *cobra.Command, c *api.Client, id string) error {
		return c.AnnotateRun(cmd.Context(), id, words)
	})
	notes.Flags().StringVar(&words, "text", "", "what is to be there")
	subs := []*cobra.Command{
		one("show", "Show a run, step by step", func(cmd *cobra.Command, c *api.Client, id string) error {
			r, err := c.PlanRun(cmd.Context(), id)
			if err != nil {
				return err
			}
			return printPlanRun(cmd, r)
		}),
		one("wait", "Wait for the end of a run; exit with code 1 if it failed, 4 if it waits for somebody, 130 if it was cancelled", func(cmd *cobra.Command, c *api.Client, id string) error {
			r, err := waitRun(cmd, c, id)
			if err != nil {
				return err
			}
			if err := printPlanRun(cmd, r); err != nil {
				return err
			}
			return runError(cmd.Context(), c, r)
		}),
		report, notes,
	}
	for _, s := range subs {
		addManagerFlags(s)
	}
	cmd.AddCommand(subs...)
	return cmd
}

// runPoll is how often a run that is waited for is looked at.
const runPoll = 2 * time.Second

// waitRun waits until a run has ended, or waits for somebody, and tells on stderr how it
// stands.
func waitRun(cmd *cobra.Command, c *api.Client, id string) (api.PlanRun, error) {
	last := ""
	for {
		r, err := c.PlanRun(cmd.Context(), id)
		if err != nil || r.Ended != nil {
			return r, err
		}
		s, err := c.PlanStatus(cmd.Context(), r.Plan)
		if err != nil || s.State == "waiting-for-user-input" {
			return r, err
		}
		if s.Run != id || !s.Running { // it may have ended between the two questions
			return c.PlanRun(cmd.Context(), id)
		}
		ended, now := 0, ""
		for _, st := range r.Steps {
			switch {
			case st.Status == "running":
				now = st.Title
			case st.Status != "inactive":
				ended++
			}
		}
		if line := fmt.Sprintf("%s of %s: %d of %d steps, %s", r.Operation, r.Plan, ended, len(r.Steps), now); line != last {
			fmt.Fprintln(cmd.ErrOrStderr(), line)
			last = line
		}
		select {
		case <-time.After(runPoll):
		case <-cmd.Context().Done():
			return r, errs.E("cli", errs.Canceled, "run "+id, context.Cause(cmd.Context())).WithRemedy("it goes on: holdfast run wait " + id)
		}
	}
}

// runError is the error of a run that did not end well, or waits.
func runError(ctx context.Context, c *api.Client, r api.PlanRun) error {
	object := r.Operation + " of " + string(r.Plan)
	switch {
	case r.Ended == nil:
		s, err := c.PlanStatus(ctx, r.Plan)
		if err != nil {
			return err
		}
		return errs.New("run", errs.Conflict, object, "it waits for somebody: "+s.Means).WithRemedy(s.Else)
	case r.Status == "error":
		return errs.New("run", errs.Internal, object, "it has failed: the plan is "+r.State).WithRemedy("see holdfast run report " + r.Run)
	case r.Status == "cancelled":
		return errs.New("run", errs.Canceled, object, "it was cancelled: the plan is "+r.State)
	}
	return nil
}

func printPlanRun(cmd *cobra.Command, r api.PlanRun) error {
	return print(cmd, r, func(w io.Writer) {
		fmt.Fprintf(w, "run\t%s\noperation\t%s of %s\nstatus\t%s\nby\t%s\nbegan\t%s\n", r.Run, r.Operation, r.Plan, r.Status, r.By, timeOf(r.Began))
		if r.Agreed != "" {
			fmt.Fprintf(w, "agreed\t%s\n", r.Agreed)
		}
		if r.Ended != nil {
			fmt.Fprintf(w, "ended\t%s\nplan\t%s\n", timeOf(*r.Ended), r.State)
		}
		for _, st := range r.Steps {
			if st.Phase == "undo" && st.Began == nil {
				continue // there was nothing to undo
			}
			words := st.Note
			if st.Question != "" {
				words = "asks: " + st.Question
			}
			fmt.Fprintf(w, "%d %s\t%s\t%s\n", st.Step, st.Status, st.Title, words)
		}
	})
}
