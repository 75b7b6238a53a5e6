package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/journal"
)

func newInspectCommand() *cobra.Command {
	var id identityFlags
	cmd := &cobra.Command{
		Use:   "inspect URL",
		Short: "Describe a container: domain, recipients, timelines, disks, VMs",
		Long: `Describes what the container at URL holds. Without a key it tells what is in the
clear: the domain, and who can open it.`,
		Example: "  holdfast inspect file:///srv/dr/erp --key recovery.key",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if id.key == "" && id.passphrase == "" && id.service == "" {
				return inspectClear(cmd, args[0])
			}
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			s, err := c.Inspect(cmd.Context())
			if err != nil {
				return err
			}
			return print(cmd, s, func(w io.Writer) { printSummary(w, s) })
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	return cmd
}

// clearSummary is what a container tells without a key.
type clearSummary struct {
	Domain     journal.Domain          `json:"domain"`
	Recipients []journal.RecipientInfo `json:"recipients"`
}

func inspectClear(cmd *cobra.Command, url string) error {
	st, err := openStore(cmd.Context(), url, false)
	if err != nil {
		return err
	}
	var s clearSummary
	if s.Domain, err = journal.ReadDomain(cmd.Context(), st); err != nil {
		return err
	}
	if s.Recipients, err = journal.Recipients(cmd.Context(), st); err != nil {
		return err
	}
	return print(cmd, s, func(w io.Writer) { printDomain(w, s.Domain, s.Recipients) })
}

func printDomain(w io.Writer, d journal.Domain, recipients []journal.RecipientInfo) {
	fmt.Fprintf(w, "domain\t%s\t%s\n", d.Name, d.ID)
	fmt.Fprintf(w, "created\t%s\n", timeOf(d.Created))
	for _, r := range recipients {
		fmt.Fprintf(w, "recipient\t%s\n", r)
	}
}

func printSummary(w io.Writer, s *journal.Summary) {
	printDomain(w, s.Domain, s.Recipients)
	fmt.Fprintf(w, "objects\t%d\t%s\n", s.Objects, sizeOf(s.Bytes))
	for _, t := range s.Timelines {
		current := ""
		if t.Current {
			current = "current"
		}
		fmt.Fprintf(w, "timeline\t%s\t%s\n", t.ID, current)
		fmt.Fprintf(w, "  epochs\t%d\n", t.Epochs)
		fmt.Fprintf(w, "  journal objects\t%d\t%s\n", t.Objects, sizeOf(t.Bytes))
		fmt.Fprintf(w, "  checkpoints\t%d\t%d recoverable\n", t.Checkpoints, t.Recoverable)
		for _, p := range []*journal.CheckpointInfo{t.First, t.Last} {
			if p != nil {
				fmt.Fprintf(w, "  checkpoint %d\t%s\t%s\n", p.ID, timeOf(p.Time), p.Scope)
			}
		}
		if t.Last != nil {
			for _, d := range t.Last.Disks {
				fmt.Fprintf(w, "  disk\t%s\t%s\n", d.ID, sizeOf(d.Size))
			}
		}
	}
	for _, v := range s.VMs {
		fmt.Fprintf(w, "vm\t%s\t%s\n", v.Name, v.ID)
	}
}
