package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

func newInspectCommand() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var at string
	cmd := &cobra.Command{
		Use:   "inspect URL",
		Short: "Describe a container, or with --at one of its checkpoints",
		Long: `Describes what the container at URL holds: domain, recipients, timelines, disks,
VMs. Without a key it tells what is in the clear: the domain, and who can open it.

With --at it describes one checkpoint instead, named as for "restore --at": its
disks, its VMs, why it is still there, and how much recovering it reads.`,
		Example: `  holdfast inspect file:///srv/dr/erp --key recovery.key
  holdfast inspect file:///srv/dr/erp --key recovery.key --at nearest:14:03`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case at != "":
				return inspectPoint(cmd, args[0], at, &id, &tl)
			case tl.name != "":
				return usageError{fmt.Errorf("--timeline goes with --at")}
			case id.key == "" && id.passphrase == "" && id.service == "":
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
	tl.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&at, "at", "", "describe this checkpoint")
	return cmd
}

// pointSummary is one checkpoint as recovery would find it.
type pointSummary struct {
	Timeline   dr.TimelineID          `json:"timeline"`
	Checkpoint journal.CheckpointInfo `json:"checkpoint"`
	Disks      []pointDisk            `json:"disks"`
	VMs        []dr.VMConfig          `json:"vms"`
	Objects    int                    `json:"objects_to_read"`
	Bytes      int64                  `json:"bytes_to_read"`
}

// pointDisk is a disk at a checkpoint: how large, and how much of it is not
// zeroes.
type pointDisk struct {
	dr.CheckpointDisk
	Written int64 `json:"written"` // bytes
}

func inspectPoint(cmd *cobra.Command, url, at string, id *identityFlags, tl *timelineFlag) error {
	_, h, cp, err := openPoint(cmd, url, at, id, tl)
	if err != nil {
		return err
	}
	img, err := h.Resolve(cmd.Context(), cp)
	if err != nil {
		return err
	}
	s := &pointSummary{Timeline: h.Timeline(), Checkpoint: cp, Objects: len(img.Objects), VMs: []dr.VMConfig{}}
	for _, d := range img.Disks {
		s.Disks = append(s.Disks, pointDisk{d.CheckpointDisk, d.Bytes})
	}
	for _, o := range img.Objects {
		s.Bytes += o.Stored
	}
	for _, vm := range img.VMs {
		s.VMs = append(s.VMs, vm)
	}
	slices.SortFunc(s.VMs, func(a, b dr.VMConfig) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID.String(), b.ID.String()))
	})
	return print(cmd, s, func(w io.Writer) { printPoint(w, s) })
}

func printPoint(w io.Writer, s *pointSummary) {
	p := &s.Checkpoint
	fmt.Fprintf(w, "checkpoint\t%d\t%s\n", p.ID, timeOf(p.Time))
	fmt.Fprintf(w, "timeline\t%s\n", s.Timeline)
	fmt.Fprintf(w, "kind\t%s, %s\n", p.Kind, scopeOf(p))
	fmt.Fprintf(w, "tags\t%s\n", tagsOf(p))
	fmt.Fprintf(w, "published\t%s\n", timeOf(p.PublishedAt))
	fmt.Fprintf(w, "retained\t%s\n", retainedBecause(p))
	fmt.Fprintf(w, "recoverable\t%s\n", verdict(p))
	fmt.Fprintf(w, "to read\t%s of %d object(s)\n", sizeOf(s.Bytes), s.Objects)
	for _, d := range s.Disks {
		fmt.Fprintf(w, "disk\t%s\t%s, %s written\n", d.ID, sizeOf(d.Size), sizeOf(d.Written))
	}
	for _, v := range s.VMs {
		fmt.Fprintf(w, "vm\t%s\t%s\n", v.ID, v.Name)
	}
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
