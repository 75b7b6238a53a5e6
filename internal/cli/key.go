package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make recovery keys; say who can open a container, and change it"}
	cmd.AddCommand(newKeyListCommand(), newKeyAddCommand(), newKeyRemoveCommand(), newKeyReplaceCommand(), newKeyRotateCommand(), newKeyEraseCommand())
	cmd.AddCommand(&cobra.Command{
		Use:   "new FILE",
		Short: "Make an X25519 recovery key; print its public part",
		Long: `Makes a recovery key and writes its secret part to FILE (mode 0600, never
overwritten). The public part, printed, is what "domain create --recipient"
takes. Keep FILE away from the protected site: whoever has it and the container
can read every disk, and whoever has lost it can not.`,
		Example: "  holdfast key new recovery.key",
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := journal.NewRecoveryKey()
			if err != nil {
				return err
			}
			if err := durable.CreateOnce(durable.OS{}, args[0], key.FileText()); err != nil {
				if errs.Is(err, errs.Exists) {
					return errs.E("key new", errs.Exists, args[0], err).
						WithRemedy("a key file is never overwritten; choose another name")
				}
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
			return err
		},
	})
	return cmd
}
