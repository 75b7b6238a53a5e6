package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/errs"
)

// addWaitFlag gives a command that starts a task --wait.
func addWaitFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("wait", false, "wait for the end; exit with code 1 if it fails")
}

// finishTask prints a task that was started, or, with --wait, what became of it.
func finishTask(cmd *cobra.Command, c *api.Client, t api.Task) error {
	wait, _ := cmd.Flags().GetBool("wait")
	if wait {
		var err error
		if t, err = waitTask(cmd, c, t.ID); err != nil {
			return err
		}
	}
	if err := printTask(cmd, t); err != nil {
		return err
	}
	if wait {
		return taskError(t)
	}
	return nil
}

// waitTask waits for the end of a task, and tells on stderr how it stands.
func waitTask(cmd *cobra.Command, c *api.Client, id string) (api.Task, error) {
	last := ""
	return c.Wait(cmd.Context(), id, func(t api.Task) {
		words := fmt.Sprintf("%s %s: %s, %.0f %%", t.Operation, t.Subject, t.State, t.Percent)
		if t.ETA != nil {
			words += ", ends about " + t.ETA.UTC().Format("15:04:05") + " UTC"
		}
		if words != last {
			fmt.Fprintln(cmd.ErrOrStderr(), words)
		}
		last = words
	})
}

// taskError is the error of a task that did not end well.
func taskError(t api.Task) error {
	words := "it is " + string(t.State)
	for _, n := range t.Notes {
		if n.Level == "error" {
			words = n.Words
		}
	}
	switch t.State {
	case api.TaskFailed:
		return errs.New("task", errs.Internal, t.Operation+" "+t.Subject, words)
	case api.TaskCancelled:
		return errs.New("task", errs.Canceled, t.Operation+" "+t.Subject, "it was cancelled by "+t.Cancelled)
	case api.TaskParked:
		return errs.New("task", errs.Conflict, t.Operation+" "+t.Subject, "it waits for an operator: "+t.Reason)
	case api.TaskActive, api.TaskSucceeded, api.TaskWithWarnings:
	}
	return nil
}

func printTask(cmd *cobra.Command, t api.Task) error {
	return print(cmd, t, func(w io.Writer) {
		fmt.Fprintf(w, "task\t%s\noperation\t%s %s\nstate\t%s\nsteps\t%d of %d\nprogress\t%.0f %%\nby\t%s\nbegun\t%s\n",
			t.ID, t.Operation, t.Subject, t.State, t.Ended, t.Steps, t.Percent, t.By, timeOf(t.Created))
		if t.Finished != nil {
			fmt.Fprintf(w, "ended\t%s\n", timeOf(*t.Finished))
		}
		if t.ETA != nil {
			fmt.Fprintf(w, "ends about\t%s\n", timeOf(*t.ETA))
		}
		for _, n := range t.Notes {
			fmt.Fprintf(w, "%s\t%s\n", n.Level, n.Words)
		}
		if len(t.Result) > 0 {
			fmt.Fprintf(w, "result\t%s\n", t.Result)
		}
	})
}

func newTaskCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "task", Short: "See and cancel operations of a manager that last"}
	list := &cobra.Command{
		Use: "list", Short: "List tasks, the newest first", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			limit, _ := cmd.Flags().GetInt("limit")
			return withManager(cmd, func(c *api.Client) error {
				page, err := c.Tasks(cmd.Context(), api.ListOptions{Limit: limit})
				if err != nil {
					return err
				}
				return print(cmd, page.Items, func(w io.Writer) {
					fmt.Fprintln(w, "TASK\tOPERATION\tSUBJECT\tSTATE\tPROGRESS\tBY\tBEGUN")
					for _, t := range page.Items {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f %%\t%s\t%s\n", t.ID, t.Operation, t.Subject, t.State, t.Percent, t.By, timeOf(t.Created))
					}
				})
			})
		},
	}
	list.Flags().Int("limit", 50, "at most so many")
	one := func(use, short string, f func(cmd *cobra.Command, c *api.Client, id string) error) *cobra.Command {
		return &cobra.Command{Use: use + " ID", Short: short, Args: exactArgs("ID"), RunE: func(cmd *cobra.Command, args []string) error {
			return withManager(cmd, func(c *api.Client) error { return f(cmd, c, args[0]) })
		}}
	}
	subs := []*cobra.Command{
		list,
		one("show", "Show a task", func(cmd *cobra.Command, c *api.Client, id string) error {
			t, err := c.Task(cmd.Context(), id)
			if err != nil {
				return err
			}
			return printTask(cmd, t)
		}),
		one("wait", "Wait for the end of a task; exit with code 1 if it failed, 4 if it is parked, 130 if it was cancelled", func(cmd *cobra.Command, c *api.Client, id string) error {
			t, err := waitTask(cmd, c, id)
			if err != nil {
				return err
			}
			if err := printTask(cmd, t); err != nil {
				return err
			}
			return taskError(t)
		}),
		one("cancel", "Ask a task to stop", func(cmd *cobra.Command, c *api.Client, id string) error {
			t, err := c.CancelTask(cmd.Context(), id)
			if err != nil {
				return err
			}
			return printTask(cmd, t)
		}),
	}
	for _, s := range subs {
		addManagerFlags(s)
	}
	cmd.AddCommand(subs...)
	return cmd
}

func newWatchCommand() *cobra.Command {
	var after int64
	cmd := &cobra.Command{
		Use:   "watch [KIND…]",
		Short: "Print every change at a manager as it happens",
		Long: `Prints a line for each change: of what is configured, of runs, inventories, alarms.
Goes on by itself where it was when the connection breaks off. With -o json, each
line is an object.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			format, _ := cmd.Flags().GetString("output")
			return withManager(cmd, func(c *api.Client) error {
				return c.Watch(cmd.Context(), api.WatchOptions{After: after, Kinds: args}, func(e api.Event, err error) error {
					return printEvent(cmd, format, e, err)
				})
			})
		},
	}
	cmd.Flags().Int64Var(&after, "after", 0, "begin behind the event of this number (default: now)")
	addManagerFlags(cmd)
	return cmd
}

func printEvent(cmd *cobra.Command, format string, e api.Event, err error) error {
	switch {
	case errors.Is(err, api.ErrReset):
		fmt.Fprintln(cmd.ErrOrStderr(), "some changes are not known any more")
		return nil
	case err != nil:
		return err
	case e.Kind == "":
		return nil
	case format == "json":
		return json.NewEncoder(cmd.OutOrStdout()).Encode(e)
	}
	by := e.By
	if by == "" {
		by = "the manager"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d  %s  %s %s %s  by %s\n", e.Seq, e.At.UTC().Format(time.DateTime), e.Action, e.Kind, e.Name, by)
	return err
}
