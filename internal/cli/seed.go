package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
)

// seedCall is the body of a local /seed call, and its answer.
type seedCall struct {
	Disk   dr.DiskID `json:"disk"`
	VM     dr.VMID   `json:"vm"`
	Image  string    `json:"image,omitempty"`
	Cancel bool      `json:"cancel,omitempty"`
}

// seedDisk answers a local /seed call.
func seedDisk(s *drva.Server, body []byte) (seedCall, error) {
	var r seedCall
	if err := json.Unmarshal(body, &r); err != nil {
		return r, errs.E("drva", errs.Invalid, "seed", err)
	}
	if r.Cancel {
		return r, s.CancelSeed(r.Disk)
	}
	return r, s.Seed(r.Disk, r.VM, r.Image)
}

func newSeedCommand() *cobra.Command {
	var disk, vm, image string
	var stop bool
	cmd := &cobra.Command{
		Use:   "seed SOCKET --disk ID --vm ID --image PATH",
		Short: "Store an image of a disk before its host protects it",
		Long: `Has the DRVA that answers on SOCKET read a raw image or block device on its own
machine, an old replica, a backup or a template, and store it as what is known of a
disk that is not protected yet. When its host protects the disk, under the same ids,
it compares block hashes and ships only what differs from the image.

To seed from a disk of another container, or of another id, recover it to a file
first ("holdfast restore"). "holdfast status SOCKET -o json" shows how far a seed is;
--cancel ends it. To resume begin again: what is there is compared, not stored twice.`,
		Example: "  holdfast seed /run/holdfast/drva.sock --disk c3f1… --vm 51d0… --image /srv/seed/erp1.raw",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := seedCall{Image: image, Cancel: stop}
			id, err := dr.ParseUUID(disk)
			if err != nil {
				return usageError{fmt.Errorf("--disk: %w", err)}
			}
			r.Disk = dr.DiskID{UUID: id}
			if !stop {
				if id, err = dr.ParseUUID(vm); err != nil {
					return usageError{fmt.Errorf("--vm: %w", err)}
				}
				r.VM = dr.VMID{UUID: id}
			}
			var a seedCall
			if err := control.CallLocal(cmd.Context(), args[0], "/seed", r, &a); err != nil {
				return err
			}
			state := "waiting"
			if stop {
				state = "cancelled"
			}
			return print(cmd, a, func(w io.Writer) { fmt.Fprintf(w, "disk\t%s\nstate\t%s\n", a.Disk, state) })
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&disk, "disk", "", "the disk's UUID")
	cmd.Flags().StringVar(&vm, "vm", "", "the UUID of the VM it belongs to")
	cmd.Flags().StringVar(&image, "image", "", "raw image or block device, on the DRVA's machine")
	cmd.Flags().BoolVar(&stop, "cancel", false, "end the seed of the disk; what is stored is kept")
	return cmd
}
