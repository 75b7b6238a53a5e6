package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
	"holdfast/internal/store/limit"
)

// targetRequest names, in a local call, what a command is about. Empty: all of
// the host.
type targetRequest struct {
	VM   string            `json:"vm,omitempty"`   // name or id
	Disk string            `json:"disk,omitempty"` // name or id, of that VM if one is named
	Mode iofilter.SyncMode `json:"mode,omitempty"` // of /sync
}

// hostBandwidth answers a local /bandwidth call of a host component, in the
// words in which a DRVA does.
type hostBandwidth struct {
	Bandwidth string     `json:"bandwidth,omitempty"`
	Up        limit.Rate `json:"up_bytes_per_s"`
	Down      limit.Rate `json:"down_bytes_per_s"`
}

// done answers a local call that has nothing to tell.
type done struct{}

// decodeCall reads the body of a local call strictly. An empty one leaves v.
func decodeCall(op string, body []byte, v any) error {
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return errs.E(op, errs.Invalid, "request", err)
	}
	return nil
}

// hostCalls are the local calls of a host component.
func hostCalls(f *iofilter.Filter) map[string]control.Handler {
	return map[string]control.Handler{
		"/status": func(context.Context, []byte) (any, error) { return f.Status(), nil },
		"/ping":   func(context.Context, []byte) (any, error) { return done{}, f.Ping() },
		"/events": func(_ context.Context, body []byte) (any, error) {
			var r eventsRequest
			if err := decodeCall("iofilter.events", body, &r); err != nil {
				return nil, err
			}
			return f.Events(r.After + 1), nil
		},
		"/pause":  onTarget(f, func(t iofilter.Target, _ iofilter.SyncMode) error { return f.Pause(t) }),
		"/resume": onTarget(f, func(t iofilter.Target, _ iofilter.SyncMode) error { return f.Resume(t) }),
		"/sync":   onTarget(f, f.Sync),
		"/bandwidth": func(_ context.Context, body []byte) (any, error) {
			var r bandwidthRequest
			if err := decodeCall("iofilter.bandwidth", body, &r); err != nil {
				return nil, err
			}
			if r.Schedule != nil {
				s, err := limit.ParseSchedule(*r.Schedule)
				if err != nil {
					return nil, err
				}
				f.SetBandwidth(s)
			}
			s, now := f.Bandwidth()
			return hostBandwidth{Bandwidth: s.String(), Up: now}, nil
		},
	}
}

// onTarget makes a local call of something that is done to disks.
func onTarget(f *iofilter.Filter, do func(iofilter.Target, iofilter.SyncMode) error) control.Handler {
	return func(_ context.Context, body []byte) (any, error) {
		var r targetRequest
		if err := decodeCall("iofilter.target", body, &r); err != nil {
			return nil, err
		}
		t, err := findTarget(f.Protected(), r.VM, r.Disk)
		if err != nil {
			return nil, err
		}
		return done{}, do(t, r.Mode)
	}
}

// findTarget finds what a person names: a VM by name or id, a disk likewise, of
// that VM or of whichever has it. Errors: NotFound; Invalid (the name is not
// unique).
func findTarget(vms []iofilter.VM, vm, disk string) (t iofilter.Target, err error) {
	const op, see = "iofilter.find", "see holdfast status for what it protects"
	if vm != "" {
		vms = slices.DeleteFunc(slices.Clone(vms), func(v iofilter.VM) bool {
			return v.Config.Name != vm && v.Config.ID.String() != vm
		})
		switch len(vms) {
		case 0:
			return t, errs.New(op, errs.NotFound, vm, "this host does not protect a VM of that name or id").WithRemedy(see)
		case 1:
			t.VM = vms[0].Config.ID
		default:
			return t, errs.New(op, errs.Invalid, vm, "several VMs have that name").WithRemedy("name it by its id")
		}
	}
	if disk == "" {
		return t, nil
	}
	for _, v := range vms {
		for _, d := range v.Disks {
			if d.Name == disk || d.ID.String() == disk {
				t.Disks = append(t.Disks, d.ID)
			}
		}
	}
	switch len(t.Disks) {
	case 0:
		return t, errs.New(op, errs.NotFound, path.Join(vm, disk), "no protected disk has that name or id").WithRemedy(see)
	case 1:
		return t, nil
	}
	return t, errs.New(op, errs.Invalid, disk, "several disks have that name").WithRemedy("add --vm, or name it by its id")
}

// targetCommand makes a command that does something to disks.
func targetCommand(name, short, long, told string, modes bool) *cobra.Command {
	var r targetRequest
	cmd := &cobra.Command{
		Use: name + " SOCKET [--vm VM] [--disk DISK]", Short: short, Long: long,
		Example: "  holdfast " + name + " /run/holdfast/iofilter.sock --vm erp1",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body any
			if r != (targetRequest{}) { // a DRVA is asked for all it has
				body = r
			}
			var out json.RawMessage
			if err := control.CallLocal(cmd.Context(), args[0], "/"+name, body, &out); err != nil {
				return err
			}
			return print(cmd, out, func(w io.Writer) { fmt.Fprintln(w, told) })
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&r.VM, "vm", "", "a host component's VM, by name or id; all it has if left out")
	cmd.Flags().StringVar(&r.Disk, "disk", "", "one disk, by name or id")
	if modes {
		cmd.Flags().StringVar((*string)(&r.Mode), "mode", string(iofilter.SyncBitmap), "what to send: bitmap, hash or full")
	}
	return cmd
}

func newPauseCommand() *cobra.Command {
	return targetCommand("pause", "Pause the protection of a domain, a host, a VM or a disk",
		`Has what answers on SOCKET acknowledge writes from the primary disks alone and
remember what changes, until "holdfast resume": a DRVA all hosts of its domain, so
that no checkpoint is cut; a host component all it has and will have, or the disks of
a VM. It holds when the DRVA or a host component is started again. What was
recoverable stays so.`, "paused: the RPO grows until \"holdfast resume\"", false)
}

func newResumeCommand() *cobra.Command {
	return targetCommand("resume", "End a pause",
		`Ends "holdfast pause": hosts send writes again, and what changed meanwhile. Recovery
points cover it again when that has ended.`, "protection goes on; what changed meanwhile is sent", false)
}

func newSyncCommand() *cobra.Command {
	return targetCommand("sync", "Send the content of disks again",
		`Makes the host component that answers on SOCKET send disks' content besides what
is written:

  bitmap  what is known to have changed; this it does by itself
  hash    what differs from the copy the DRVA holds, found block hash by block
          hash: for a copy that is doubted, as after the disk was changed while
          nothing protected it
  full    everything

Recovery points cover the disks again when it has ended; older ones stay usable.`, "begun; see holdfast status for its progress", true)
}
