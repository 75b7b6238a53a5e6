package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
)

// resyncCall is the body of a local /resync call, and its answer.
type resyncCall struct {
	Disk dr.DiskID `json:"disk"`
}

// resyncDisk answers a local /resync call.
func resyncDisk(f *iofilter.Filter, body []byte) (resyncCall, error) {
	var r resyncCall
	if err := json.Unmarshal(body, &r); err != nil {
		return resyncCall{}, errs.E("iofilter", errs.Invalid, "resync", err)
	}
	return r, f.Resync(r.Disk)
}

func newResyncCommand() *cobra.Command {
	var disk string
	cmd := &cobra.Command{
		Use:   "resync SOCKET --disk ID",
		Short: "Compare a protected disk with its copy and ship what differs",
		Long: `Has the host component that answers on SOCKET compare all of a disk with what the
container holds of it, block hash by block hash, and ship the blocks that differ:
for a copy that is doubted, as after the disk was changed while it was not
protected. The guest goes on meanwhile; the disk counts as syncing until it is
done, and checkpoints taken before stay recoverable. "holdfast status" shows how
far it is. Where nothing can be compared, all is shipped.`,
		Example: "  holdfast resync /run/holdfast/iofilter.sock --disk c3f1…",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := dr.ParseUUID(disk)
			if err != nil {
				return usageError{fmt.Errorf("--disk: %w", err)}
			}
			var a resyncCall
			if err := control.CallLocal(cmd.Context(), args[0], "/resync", resyncCall{dr.DiskID{UUID: id}}, &a); err != nil {
				return err
			}
			return print(cmd, a, func(w io.Writer) { fmt.Fprintf(w, "disk\t%s\nstate\tcomparing\n", a.Disk) })
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&disk, "disk", "", "the disk's UUID")
	return cmd
}
