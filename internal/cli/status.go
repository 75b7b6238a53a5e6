package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/dr"
)

func newStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status SOCKET",
		Short: "Show what a running drva or iofilter is doing",
		Long: `Asks the appliance that answers on the unix socket SOCKET (the "status" setting
of its configuration) for its state.`,
		Example: "  holdfast status /run/holdfast/drva.sock\n  holdfast status /run/holdfast/drva.sock -o json",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var raw json.RawMessage
			if err := control.CallLocal(cmd.Context(), args[0], "/status", nil, &raw); err != nil {
				return err
			}
			return print(cmd, raw, func(w io.Writer) { printTree(w, "", raw) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// printTree renders any JSON as "path value" lines, sorted by path.
func printTree(w io.Writer, path string, raw json.RawMessage) {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) == nil && m != nil {
		keys := make([]string, 0, len(m))
		for k := range m {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			sub := k
			if path != "" {
				sub = path + "." + k
			}
			printTree(w, sub, m[k])
		}
		return
	}
	var l []json.RawMessage
	if json.Unmarshal(raw, &l) == nil && l != nil {
		for i, v := range l {
			printTree(w, fmt.Sprintf("%s[%d]", path, i), v)
		}
		return
	}
	fmt.Fprintf(w, "%s\t%s\n", path, raw)
}

// checkpointRequest is the body of a local /checkpoint call.
type checkpointRequest struct {
	Tag string `json:"tag"`
}

func newCheckpointCommand() *cobra.Command {
	var tag string
	cmd := &cobra.Command{
		Use:     "checkpoint SOCKET",
		Short:   "Take a checkpoint now, with a tag",
		Example: "  holdfast checkpoint /run/holdfast/drva.sock --tag before-upgrade",
		Args:    exactArgs("SOCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cp dr.Checkpoint
			if err := control.CallLocal(cmd.Context(), args[0], "/checkpoint", checkpointRequest{tag}, &cp); err != nil {
				return err
			}
			return print(cmd, cp, func(w io.Writer) {
				fmt.Fprintf(w, "checkpoint %d of %s (%s)\n", cp.ID, timeOf(cp.Time), cp.Scope)
			})
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&tag, "tag", "", "label to find the checkpoint by, as tag:LABEL")
	return cmd
}
