package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
)

func newAlarmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "alarm", Short: "See and acknowledge alarms of a manager"}
	list := managerCommand("list", "List alarms that hold, the newest first", nil, listAlarms)
	list.Flags().Bool("all", false, "also those that do not hold any more")
	list.Flags().Bool("exit-code", false, "exit with code 1 if an alarm of severity error holds and nobody has acknowledged it")
	ack := managerCommand("ack CODE OBJECT", "Say that you know of an alarm", []string{"CODE", "OBJECT"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
		note, _ := cmd.Flags().GetString("note")
		return c.AcknowledgeAlarm(cmd.Context(), api.Acknowledge{Code: args[0], Object: args[1], Note: note})
	})
	ack.Flags().String("note", "", "why, or what is being done")
	events := managerCommand("events", "List what happened, the newest first", nil, listAlarmEvents)
	events.Flags().Int("limit", 100, "at most so many")
	codes := managerCommand("codes", "List every event there is, with what to do", nil, func(cmd *cobra.Command, c *api.Client, _ []string) error {
		all, err := c.AlarmCodes(cmd.Context())
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "CODE\tSEVERITY\tOF\tMEANS\tREMEDY")
			for _, d := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Code, d.Severity, d.Object, d.Words, d.Remedy)
			}
		})
	})
	cmd.AddCommand(list, ack, events, codes)
	return cmd
}

func listAlarms(cmd *cobra.Command, c *api.Client, _ []string) error {
	all, _ := cmd.Flags().GetBool("all")
	found := []api.Alarm{}
	for o := (api.ListOptions{Limit: 1000}); ; {
		page, err := c.Alarms(cmd.Context(), all, o)
		if err != nil {
			return err
		}
		found = append(found, page.Items...)
		if o.Cursor = page.Next; o.Cursor == "" {
			break
		}
	}
	if err := print(cmd, found, func(w io.Writer) {
		fmt.Fprintln(w, "SEVERITY\tCODE\tOBJECT\tRAISED\tSTATE\tDETAIL")
		for _, a := range found {
			state := "holds"
			switch {
			case a.Cleared != nil:
				state = "ended " + timeOf(*a.Cleared)
			case a.Acknowledged != nil:
				state = "known to " + a.By
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Severity, a.Code, a.Object, timeOf(a.Raised), state, dash(a.Detail))
		}
	}); err != nil {
		return err
	}
	if demand, _ := cmd.Flags().GetBool("exit-code"); demand {
		for _, a := range found {
			if a.Severity == string(alarm.Error) && a.Cleared == nil && a.Acknowledged == nil {
				return errs.New("alarm", errs.Internal, a.Code+" "+a.Object, a.Words).WithRemedy(a.Remedy)
			}
		}
	}
	return nil
}

func listAlarmEvents(cmd *cobra.Command, c *api.Client, _ []string) error {
	limit, _ := cmd.Flags().GetInt("limit")
	found := []api.AlarmEvent{}
	for o := (api.ListOptions{}); len(found) < limit; {
		o.Limit = min(1000, limit-len(found))
		page, err := c.AlarmEvents(cmd.Context(), o)
		if err != nil {
			return err
		}
		found = append(found, page.Items...)
		if o.Cursor = page.Next; o.Cursor == "" {
			break
		}
	}
	return print(cmd, found, func(w io.Writer) {
		fmt.Fprintln(w, "AT\tSEVERITY\tSTATE\tCODE\tOBJECT\tDETAIL")
		for _, e := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", timeOf(e.At), e.Severity, e.State, e.Code, e.Object, dash(e.Detail))
		}
	})
}

func newOutletCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "outlet", Short: "See and change where a manager sends events: mail, syslog, webhooks"}
	cmd.AddCommand(
		managerCommand("list", "List outlets, and how they do", nil, func(cmd *cobra.Command, c *api.Client, _ []string) error {
			list, err := c.Outlets(cmd.Context())
			if err != nil {
				return err
			}
			return printOutlets(cmd, list)
		}),
		managerCommand("show NAME", "Show an outlet", []string{"NAME"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
			o, err := c.Outlet(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printOutlets(cmd, []api.OutletState{o})
		}),
		newOutletPutCommand(),
		managerCommand("delete NAME", "Delete an outlet, and what waits there", []string{"NAME"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
			return c.DeleteOutlet(cmd.Context(), args[0])
		}),
		managerCommand("test NAME", "Send a test to an outlet", []string{"NAME"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
			if err := c.TestOutlet(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "it is sent in a moment: see holdfast outlet show %s\n", args[0])
			return nil
		}),
	)
	return cmd
}

func printOutlets(cmd *cobra.Command, list []api.OutletState) error {
	return print(cmd, list, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tSORT\tADDRESS\tSEVERITY\tSENT\tWAITING\tDROPPED\tLAST\tERROR")
		for _, o := range list {
			last := "-"
			if o.Last != nil {
				last = timeOf(*o.Last)
			}
			least := string(o.Least)
			if least == "" {
				least = string(alarm.Warning)
			}
			if o.Off {
				least = "off"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", o.Name, o.Sort, o.Address, least, o.Sent, o.Pending, o.Dropped, last, dash(o.Error))
		}
	})
}

func newOutletPutCommand() *cobra.Command {
	var o api.Outlet
	var sort, least, ca string
	var codes []string
	cmd := managerCommand("put NAME", "Make an outlet, or change what is given of one", []string{"NAME"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
		given := cmd.Flags().Changed
		now, err := c.Outlet(cmd.Context(), args[0])
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		next := now.Outlet
		next.Name = args[0]
		for flag, set := range map[string]func(){
			"sort": func() { next.Sort = alarm.Sort(sort) }, "address": func() { next.Address = o.Address }, "tls": func() { next.TLS = o.TLS },
			"from": func() { next.From = o.From }, "to": func() { next.To = o.To }, "user": func() { next.User = o.User }, "secret": func() { next.Secret = o.Secret },
			"facility": func() { next.Facility = o.Facility }, "severity": func() { next.Least = alarm.Severity(least) }, "off": func() { next.Off = o.Off },
			"code": func() {
				next.Codes = nil
				for _, word := range codes {
					next.Codes = append(next.Codes, alarm.Code(word))
				}
			},
		} {
			if given(flag) {
				set()
			}
		}
		if given("ca") {
			b, err := os.ReadFile(ca)
			if err != nil {
				return errs.E("outlet", errs.NotFound, ca, err)
			}
			next.CA = string(b)
		}
		_, err = c.PutOutlet(cmd.Context(), next)
		return err
	})
	cmd.Example = `  holdfast outlet put mail --sort smtp --address mail.example.com:587 --tls starttls --from holdfast@example.com --to ops@example.com --user dr --secret smtp
  holdfast outlet put log --sort syslog --address log.example.com:6514 --tls tls --severity info
  holdfast outlet put chat --sort webhook --address https://chat.example.com/hook --secret chat-key`
	f := cmd.Flags()
	f.StringVar(&sort, "sort", "", "smtp, syslog or webhook")
	f.StringVar(&o.Address, "address", "", "HOST:PORT; of a webhook its URL")
	f.StringVar(&o.TLS, "tls", "", "starttls (smtp) or tls; empty: none")
	f.StringVar(&ca, "ca", "", "file with the certificates that are trusted, PEM (default: the system's)")
	f.StringVar(&o.From, "from", "", "smtp: the sender's address")
	f.StringSliceVar(&o.To, "to", nil, "smtp: who gets it (repeatable)")
	f.StringVar(&o.User, "user", "", "smtp: to log in as")
	f.StringVar(&o.Secret, "secret", "", "name of the stored secret: smtp's password, or the webhook's key")
	f.IntVar(&o.Facility, "facility", 0, "syslog: 0 to 23; 0 is 16, local0")
	f.StringVar(&least, "severity", "", "the least that is sent: info, warning (also empty) or error")
	f.StringSliceVar(&codes, "code", nil, "only events of this code (repeatable)")
	f.BoolVar(&o.Off, "off", false, "send nothing for now")
	return cmd
}

func newStatsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "stats", Short: "See how things went: statistics of a manager"}
	show := managerCommand("show METRIC OBJECT", "Show a metric of an object, as rpo_ms \"domain erp\"", []string{"METRIC", "OBJECT"}, showStats)
	show.Flags().Duration("last", time.Hour, "how far back")
	objects := managerCommand("objects METRIC", "List which objects have samples of a metric", []string{"METRIC"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
		list, err := c.StatObjects(cmd.Context(), args[0], "", 1000)
		if err != nil {
			return err
		}
		return print(cmd, list, func(w io.Writer) { fmt.Fprintln(w, strings.Join(list, "\n")) })
	})
	metrics := managerCommand("metrics", "List every metric that is kept", nil, func(cmd *cobra.Command, c *api.Client, _ []string) error {
		list, err := c.Metrics(cmd.Context())
		if err != nil {
			return err
		}
		return print(cmd, list, func(w io.Writer) {
			fmt.Fprintln(w, "METRIC\tUNIT\tOF\tWHAT")
			for _, m := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Metric, m.Unit, m.Of, m.Words)
			}
		})
	})
	prometheus := managerCommand("prometheus", "Print what Prometheus would be told", nil, func(cmd *cobra.Command, c *api.Client, _ []string) error {
		text, err := c.PrometheusMetrics(cmd.Context())
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		return err
	})
	cmd.AddCommand(show, objects, metrics, prometheus)
	return cmd
}

func showStats(cmd *cobra.Command, c *api.Client, args []string) error {
	last, _ := cmd.Flags().GetDuration("last")
	if last <= 0 {
		return usageError{fmt.Errorf("--last %v: give a time, as 24h", last)}
	}
	now := time.Now()
	s, err := c.Stats(cmd.Context(), args[0], args[1], now.Add(-last), now.Add(time.Minute))
	if err != nil {
		return err
	}
	return print(cmd, s, func(w io.Writer) {
		fmt.Fprintf(w, "BY THE %s\tMEAN\tLEAST\tMOST\tSAMPLES\n", strings.ToUpper(s.Every))
		for _, p := range s.Points {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", timeOf(p.At), p.Mean, p.Least, p.Most, p.Samples)
		}
	})
}

func newSupportBundleCommand() *cobra.Command {
	return managerCommand("support-bundle FILE", "Write what somebody who helps has to know of a manager, without a secret", []string{"FILE"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
		b, err := c.SupportBundle(cmd.Context())
		if err != nil {
			return err
		}
		if err := durable.WriteFile(durable.OS{}, args[0], b); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s; look through it before you send it\n", args[0], sizeOf(int64(len(b))))
		return nil
	})
}
