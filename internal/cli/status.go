package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/drva/order"
	"holdfast/internal/iofilter"
)

func newStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status SOCKET",
		Short: "Show what a running drva, iofilter or gc is doing",
		Long: `Asks the appliance that answers on the unix socket SOCKET (the "status" setting
of its configuration; --status of "gc run --watch") for its state.`,
		Example: "  holdfast status /run/holdfast/drva.sock\n  holdfast status /run/holdfast/drva.sock -o json",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := control.CallLocal(cmd.Context(), args[0], "/status", nil, &raw); err != nil {
				return err
			}
			return print(cmd, raw, func(w io.Writer) { printStatus(w, raw) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// printStatus renders the state of a DRVA or a host component for people.
func printStatus(w io.Writer, raw json.RawMessage) {
	var kind struct {
		Publisher, Stream, Maintenance json.RawMessage
	}
	_ = json.Unmarshal(raw, &kind) // what it is not stays empty
	switch {
	case kind.Publisher != nil:
		var s drvaStatus
		if json.Unmarshal(raw, &s) == nil {
			printDRVA(w, &s)
			return
		}
	case kind.Stream != nil:
		var s iofilter.Status
		if json.Unmarshal(raw, &s) == nil {
			printHost(w, &s)
			return
		}
	case kind.Maintenance != nil:
		var s gcWatchStatus
		if json.Unmarshal(raw, &s) == nil {
			printMaintenance(w, s.Maintenance)
			if s.DataKey != nil {
				printDataKey(w, s.DataKey)
			}
			return
		}
	}
	fmt.Fprintf(w, "%s\n", raw)
}

func printDRVA(w io.Writer, s *drvaStatus) {
	fmt.Fprintf(w, "drva\t%s\t%s\n", s.State, s.Address)
	fmt.Fprintf(w, "domain\t%s\n", s.Domain)
	rpo := "no recoverable group checkpoint yet"
	if s.RPO >= 0 {
		rpo = fmt.Sprintf("%.1f s", s.RPO)
	}
	if s.RPOTarget > 0 {
		rpo += fmt.Sprintf(", target %v: %s", time.Duration(s.RPOTarget*float64(time.Second)), s.RPOState)
	}
	fmt.Fprintf(w, "rpo\t%s\n", rpo)
	if s.Paused != nil {
		fmt.Fprintf(w, "paused\tby a user since %s\n", timeOf(s.Paused.Since))
	}
	c := &s.Checkpoints
	fmt.Fprintf(w, "checkpoints\t%d taken, %d group, %d partial, %d published\n", c.Taken, c.Group, c.Partial, c.Published)
	absorbs := "as long as nothing changes"
	if s.Log.Absorbs >= 0 {
		absorbs = (time.Duration(s.Log.Absorbs) * time.Second).String()
	}
	fmt.Fprintf(w, "log\t%s of %s, absorbs an outage of the store of %s\n", sizeOf(s.Log.Used), sizeOf(s.Log.Quota), absorbs)
	if s.Load.Level > drva.LevelNormal {
		fmt.Fprintf(w, "overload\t%s since %s%s\n", s.Load.Level, timeOf(s.Load.Since), suffix(s.Load.Cause))
	}
	fmt.Fprintf(w, "bytes\t%s in, %s stored in %d objects\n", sizeOf(int64(s.BytesIn)), sizeOf(int64(s.BytesStored)), s.Objects)
	p := &s.Publisher
	fmt.Fprintf(w, "publisher\tepoch %d, object %d, %d under way%s\n", p.Epoch, p.Published, p.UnderWay, suffix(p.LastError+p.Stopped))
	t := &s.Store
	fmt.Fprintf(w, "store\t%d requests, %d failed, %s up, %s down, allowed now %s up, %s down\n", t.Requests(), t.Failed,
		sizeOf(int64(t.BytesIn)), sizeOf(int64(t.BytesOut)), t.Up, t.Down)
	printDataKey(w, &s.DataKey)
	for i := range s.Copies {
		printCopy(w, &s.Copies[i])
	}
	for _, h := range s.Hosts {
		fmt.Fprintf(w, "host %s\t%s\t%s\n", h.Name, h.State, h.Ack)
	}
	for _, d := range s.Disks {
		fmt.Fprintf(w, "disk %s\t%s\t%s on %s\n", d.ID, d.State, sizeOf(d.Size), d.Host)
	}
	printMaintenance(w, s.Maintenance)
	for _, e := range s.Errors {
		fmt.Fprintf(w, "error %s\t%s\n", timeOf(e.Time), e.Error)
	}
}

func printDataKey(w io.Writer, k *keyStatus) {
	rotated := ""
	if !k.Newer.IsZero() {
		rotated = ", but there is a newer one: " + restartWords
	}
	fmt.Fprintf(w, "data key\tgeneration %d%s\n", k.Generation, rotated)
}

func printHost(w io.Writer, s *iofilter.Status) {
	fmt.Fprintf(w, "host %s\t%s%s\t%s\n", s.Name, s.State, suffix(s.Cause), s.Ack)
	if s.Remedy != "" {
		fmt.Fprintf(w, "what to do\t%s\n", s.Remedy)
	}
	link := "up"
	if !s.Link.Up {
		link = "down" + suffix(s.Link.Error)
	}
	fmt.Fprintf(w, "link\t%s\n", link)
	if d := s.Watchdog; d != nil {
		line := fmt.Sprintf("process %d since %s", d.PID, timeOf(d.Since))
		if d.PID == 0 {
			line = "none since " + timeOf(d.Since)
		}
		fmt.Fprintf(w, "watchdog\t%s%s\n", line, suffix(d.Error))
	}
	t := &s.Stream
	fmt.Fprintf(w, "stream\t%s sent, %s of %s kept until durable, %d record(s) not durable\n",
		sizeOf(int64(t.SentBytes)), sizeOf(t.RingUsed), sizeOf(t.RingBytes), uint64(t.Next)-1-uint64(t.Durable))
	fmt.Fprintf(w, "stalls\t%d, tracked %d time(s), longest hold %.2f ms\n", t.Stalls, t.Trackings, s.Rounds.LongestHoldMS)
	for _, d := range s.Disks {
		line := fmt.Sprintf("%s%s", d.State, suffix(d.Cause))
		switch {
		case d.SyncTotal > 0 && d.SyncDone < d.SyncTotal:
			line += fmt.Sprintf(", %d%% of %s, ETA %d s", 100*d.SyncDone/d.SyncTotal, sizeOf(d.SyncTotal), d.ETASeconds)
		case d.DirtyBytes > 0:
			line += ", " + sizeOf(d.DirtyBytes) + " to copy"
		}
		if d.Remedy != "" && d.Remedy != s.Remedy {
			line += " (" + d.Remedy + ")"
		}
		fmt.Fprintf(w, "disk %s/%s\t%s\t%s\tsince %s\n", d.VMName, d.Name, line, sizeOf(d.Size), timeOf(d.Since))
	}
}

// suffix renders a cause behind a state, or nothing.
func suffix(cause string) string {
	if cause == "" {
		return ""
	}
	return ": " + cause
}

// checkpointRequest is the body of a local /checkpoint call.
type checkpointRequest struct {
	Tag string `json:"tag"`
	App bool   `json:"app,omitempty"` // freeze the guests
}

// checkpointReply is its answer.
type checkpointReply struct {
	dr.Checkpoint
	Faults []order.FreezeFault `json:"faults,omitempty"` // why it is not application-consistent
}

func newCheckpointCommand() *cobra.Command {
	var r checkpointRequest
	cmd := &cobra.Command{
		Use:   "checkpoint SOCKET",
		Short: "Take a checkpoint now, with a tag",
		Long: `Cuts a checkpoint of the domain whose DRVA answers on SOCKET.

With --app the guests are frozen at the cut, by their agents or by the scripts the
host components are configured with, and thawed right after it, by the hosts' own
timers if need be. When one could not be frozen the checkpoint is kept, as
crash-consistent, and the command says which VM and why.`,
		Example: "  holdfast checkpoint /run/holdfast/drva.sock --tag before-upgrade\n  holdfast checkpoint /run/holdfast/drva.sock --app --tag nightly",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cp checkpointReply
			if err := control.CallLocal(cmd.Context(), args[0], "/checkpoint", r, &cp); err != nil {
				return err
			}
			for _, f := range cp.Faults {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: VM %s on %s was not frozen: %s\n", f.VM, f.Host, f.Reason)
			}
			return print(cmd, cp, func(w io.Writer) {
				fmt.Fprintf(w, "checkpoint %d of %s (%s, %s)\n", cp.ID, timeOf(cp.Time), cp.Kind, cp.Scope)
			})
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&r.Tag, "tag", "", "label to find the checkpoint by, as tag:LABEL")
	cmd.Flags().BoolVar(&r.App, "app", false, "freeze the guests at the cut")
	return cmd
}
