package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/store/limit"
)

// bandwidthRequest is the body of a local /bandwidth call. A nil Schedule asks
// without changing anything.
type bandwidthRequest struct {
	Schedule *string `json:"schedule,omitempty"`
}

// changeBandwidth answers a local /bandwidth call.
func changeBandwidth(st *stack, l *limit.Limiter, body []byte) (storeStatus, error) {
	var r bandwidthRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return storeStatus{}, errs.E("drva", errs.Invalid, "bandwidth", err)
	}
	if r.Schedule != nil {
		s, err := limit.ParseSchedule(*r.Schedule)
		if err != nil {
			return storeStatus{}, err
		}
		l.Set(s)
	}
	return storeStatusOf(st, l), nil
}

func newBandwidthCommand() *cobra.Command {
	var set string
	cmd := &cobra.Command{
		Use:   "bandwidth SOCKET [--set SCHEDULE]",
		Short: "Show or change what a running drva or iofilter may send",
		Long: `Shows the bandwidth limit of the appliance that answers on SOCKET, or sets another
one: a DRVA's is that of its store, a host component's that of first copies and
resyncs, of which the rate for up counts. It holds at once and until the appliance
is started again: then its configuration's "bandwidth" or "sync_bandwidth" counts. "holdfast drva --help" says how a schedule is
written; an empty one lifts the limit.`,
		Example: `  holdfast bandwidth /run/holdfast/drva.sock
  holdfast bandwidth /run/holdfast/drva.sock --set '* up 5MB/s'`,
		Args: exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r bandwidthRequest
			if cmd.Flags().Changed("set") {
				if _, err := limit.ParseSchedule(set); err != nil {
					return err
				}
				r.Schedule = &set
			}
			var s storeStatus
			if err := control.CallLocal(cmd.Context(), args[0], "/bandwidth", r, &s); err != nil {
				return err
			}
			return print(cmd, s, func(w io.Writer) {
				schedule := s.Bandwidth
				if schedule == "" {
					schedule = "none"
				}
				fmt.Fprintf(w, "schedule\t%s\nnow\t%s up, %s down\n", schedule, s.Up, s.Down)
			})
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&set, "set", "", "new schedule")
	return cmd
}
