package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
)

func newPauseCommand() *cobra.Command {
	return pauseCommand("pause", "Pause the protection of a domain", `Has all hosts of the domain whose DRVA answers on SOCKET acknowledge writes from
their own disks alone and remember what changes. No checkpoint is cut until
"holdfast resume", also when the DRVA or a host is started again; what was
recoverable stays so.`, "paused: the RPO grows until \"holdfast resume\"")
}

func newResumeCommand() *cobra.Command {
	return pauseCommand("resume", "Resume the protection of a paused domain", `Ends a pause: hosts send what changed meanwhile, and checkpoints are cut again.`,
		"protection goes on; hosts resync what changed")
}

func pauseCommand(word, short, long, done string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     word + " SOCKET",
		Short:   short,
		Long:    long,
		Example: "  holdfast " + word + " /run/holdfast/drva.sock",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := control.CallLocal(cmd.Context(), args[0], "/"+word, nil, &raw); err != nil {
				return err
			}
			return print(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, done) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}
