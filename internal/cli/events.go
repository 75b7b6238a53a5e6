package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/drva"
	"holdfast/internal/iofilter"
)

// followEvery is how often new events are asked for.
const followEvery = time.Second

// eventPage is what a DRVA or a host component answers to /events.
type eventPage struct {
	Events []json.RawMessage `json:"events"`
	Lost   uint64            `json:"lost"`
}

func newEventsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "events SOCKET [--follow]",
		Short: "Show what happened to a running drva or iofilter",
		Long: `Shows the events of the appliance that answers on SOCKET, oldest first. A host
component's are its changes of state: when, of which disk, from what to what, why,
how much was to be copied and how long that takes; docs/operate/states.md tells
what the states mean. With --follow it goes on until interrupted; -o json writes
one object a line then.`,
		Example: "  holdfast events /run/holdfast/iofilter.sock --follow",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var p eventPage
			if err := control.CallLocal(cmd.Context(), args[0], "/events", eventsRequest{}, &p); err != nil {
				return err
			}
			if !follow {
				return print(cmd, p, func(w io.Writer) { printEvents(w, &p) })
			}
			return followEvents(cmd, args[0], p)
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, and show events as they happen")
	return cmd
}

// followEvents shows p and what comes after it.
func followEvents(cmd *cobra.Command, socket string, p eventPage) error {
	format, err := cmd.Flags().GetString("output")
	if err != nil {
		return usageError{err}
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	after := uint64(0)
	for {
		if format == "json" {
			enc := json.NewEncoder(cmd.OutOrStdout())
			for _, e := range p.Events {
				if err := enc.Encode(e); err != nil {
					return err
				}
			}
		} else if err := print(cmd, p, func(w io.Writer) { printEvents(w, &p) }); err != nil {
			return err
		}
		if n := len(p.Events); n > 0 {
			after = numberOf(p.Events[n-1])
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-tick.C:
		}
		p = eventPage{}
		if err := control.CallLocal(cmd.Context(), socket, "/events", eventsRequest{After: after}, &p); err != nil {
			return err
		}
	}
}

// numberOf is the number by which an event is asked for: a DRVA calls it seq.
func numberOf(raw json.RawMessage) uint64 {
	var e struct{ Seq, Number uint64 }
	_ = json.Unmarshal(raw, &e) // what it is not stays 0
	return max(e.Seq, e.Number)
}

func printEvents(w io.Writer, p *eventPage) {
	if p.Lost > 0 {
		fmt.Fprintf(w, "%d event(s) were not kept\n", p.Lost)
	}
	for _, raw := range p.Events {
		var e drva.Event
		if json.Unmarshal(raw, &e) == nil && e.Code != "" {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\n", timeOf(e.Time), e.Severity, e.Object, e.Code, e.Text, suffix(e.Remedy))
			continue
		}
		var h iofilter.Event
		if json.Unmarshal(raw, &h) == nil {
			printHostEvent(w, &h)
		}
	}
}

func printHostEvent(w io.Writer, e *iofilter.Event) {
	about := "host"
	if e.DiskName != "" {
		about = e.VMName + "/" + e.DiskName
	}
	from := string(e.From)
	if from == "" {
		from = "(begin)"
	}
	var more []string
	if e.DirtyBytes > 0 {
		more = append(more, sizeOf(e.DirtyBytes)+" to copy")
	}
	if e.ETASeconds > 0 {
		more = append(more, "ETA "+(time.Duration(e.ETASeconds)*time.Second).String())
	}
	change := from + " -> " + string(e.To)
	if e.From == e.To {
		change = string(e.To)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", timeOf(e.Time), about, change, e.Cause, strings.Join(more, ", "))
}
