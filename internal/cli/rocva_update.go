package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/unshipped"
)

// diskFlags name disk images: --disk ID=PATH, once for each.
type diskFlags struct{ disks []string }

func (f *diskFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.disks, "disk", nil, "a disk's id and its raw image, as ID=PATH (repeatable)")
}

func (f *diskFlags) targets() ([]rocva.Target, error) {
	if len(f.disks) == 0 {
		return nil, usageError{fmt.Errorf("--disk is missing: ID=PATH for each disk")}
	}
	var out []rocva.Target
	for _, s := range f.disks {
		id, path, ok := strings.Cut(s, "=")
		u, err := dr.ParseUUID(id)
		if !ok || err != nil || path == "" {
			return nil, usageError{fmt.Errorf("--disk %q: give ID=PATH", s)}
		}
		out = append(out, rocva.Target{Disk: dr.DiskID{UUID: u}, Path: path})
	}
	return out, nil
}

type updateFlags struct {
	id       identityFlags
	timeline timelineFlag
	disks    diskFlags
	at       string
	parallel int
	force    bool
}

// updated is what "rocva update" prints.
type updated struct {
	Checkpoint journal.CheckpointInfo `json:"checkpoint"`
	Changed    int64                  `json:"changed_bytes"`
	Compared   int64                  `json:"compared_bytes"`
	Fetched    int64                  `json:"fetched_bytes"`
	Written    int64                  `json:"written_bytes"`
	Seconds    float64                `json:"seconds"`
}

func newUpdateCommand() *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update URL",
		Short: "Make disks that are there hold a checkpoint, by what differs",
		Long: `Compares raw disk images with the checkpoint --at names, block by block, by hashes,
and fetches and writes only what differs: the disks of a site that comes back, or an
old copy. A file that is missing is built whole. Nothing may use the disks meanwhile;
what they hold beyond the checkpoint is overwritten: "rocva unshipped keep" keeps it.

A disk under update is named PATH.partial until all of them are done. After Ctrl-C
or a crash the same command goes on.`,
		Example: `  holdfast rocva update file:///srv/dr/erp --key recovery.key --at latest \
      --disk 0190c1b2-7f3e-7a5b-8c6d-112233445566=/var/lib/vms/db.raw`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := f.run(cmd, args[0])
			if err != nil {
				return err
			}
			return print(cmd, u, func(w io.Writer) {
				fmt.Fprintf(w, "checkpoint\t#%d of %s\n", u.Checkpoint.ID, timeOf(u.Checkpoint.Time))
				fmt.Fprintf(w, "differed\t%s of %s compared\n", sizeOf(u.Changed), sizeOf(u.Compared))
				fmt.Fprintf(w, "read from the store\t%s\n", sizeOf(u.Fetched))
				fmt.Fprintf(w, "written\t%s in %.1f s\n", sizeOf(u.Written), u.Seconds)
			})
		},
	}
	f.id.add(cmd)
	f.timeline.add(cmd)
	f.disks.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&f.at, "at", "latest", "which checkpoint")
	cmd.Flags().IntVar(&f.parallel, "parallel", 0, "reads under way at once (0: default)")
	cmd.Flags().BoolVar(&f.force, "force", false, "overwrite a block device")
	return cmd
}

func (f *updateFlags) run(cmd *cobra.Command, url string) (*updated, error) {
	targets, err := f.disks.targets()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	c, h, cp, err := openPoint(cmd, url, f.at, &f.id, &f.timeline)
	if err != nil {
		return nil, err
	}
	release, err := holdForReading(cmd, c, h.Timeline(), cp.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	plan := rocva.Plan{History: h, Checkpoint: cp}
	for _, t := range targets {
		plan.Targets = append(plan.Targets, rocva.UpdateTarget{Target: t})
	}
	bar := newProgress(cmd.ErrOrStderr(), "updating", true)
	res, err := rocva.Update(cmd.Context(), c, plan, rocva.Options{Parallel: f.parallel, Force: f.force,
		Progress: func(p rocva.Progress) { bar.set(p.Bytes, p.BytesTotal) }})
	bar.finish()
	if err != nil {
		return nil, err
	}
	return &updated{cp, res.Changed, res.Compared, res.Fetched, res.Written, time.Since(start).Seconds()}, nil
}

func newUnshippedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unshipped",
		Short: "What a site had written and never published",
		Long: `When a lost site comes back, its disks may hold writes that no checkpoint has. Before
the disks are overwritten they are kept as a branch of the domain's history, which is
never the current timeline by itself; it is recovered with --timeline, and given up with
"timeline drop".`,
	}
	cmd.AddCommand(newKeepCommand(), newUnshippedListCommand())
	return cmd
}

func newKeepCommand() *cobra.Command {
	var id identityFlags
	var timeline timelineFlag
	var disks diskFlags
	var base, site string
	cmd := &cobra.Command{
		Use:   "keep URL",
		Short: "Keep what a returning site's disks hold beyond a checkpoint",
		Long: `Compares the disks, which are only read, with the checkpoint --base names: the last
one the site published. What differs is published as one checkpoint of a new branch
"unshipped of SITE", and listed. Interrupted, the same command goes on.`,
		Example: `  holdfast rocva unshipped keep file:///srv/dr/erp --key recovery.key --site a --base 4711 \
      --disk 0190c1b2-7f3e-7a5b-8c6d-112233445566=/var/lib/vms/db.raw`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := disks.targets()
			if err != nil {
				return err
			}
			if site == "" || base == "" {
				return usageError{fmt.Errorf("--site and --base are needed: whose disks they are, and what it published last")}
			}
			c, h, cp, err := openPoint(cmd, args[0], base, &id, &timeline)
			if err != nil {
				return err
			}
			bar := newProgress(cmd.ErrOrStderr(), "comparing", true)
			opts := unshipped.Options{Base: h.Ref(cp), Site: site, Progress: bar.set}
			for _, t := range targets {
				opts.Disks = append(opts.Disks, unshipped.Disk{ID: t.Disk, Path: t.Path})
			}
			r, err := unshipped.Keep(cmd.Context(), c, opts)
			bar.finish()
			if err != nil {
				return err
			}
			return print(cmd, r, func(w io.Writer) { printKept(w, r) })
		},
	}
	id.add(cmd)
	timeline.add(cmd)
	disks.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&base, "base", "", "the last checkpoint the site published, of the timeline it published")
	cmd.Flags().StringVar(&site, "site", "", "whose disks they are")
	return cmd
}

func printKept(w io.Writer, r *unshipped.Result) {
	if r.Timeline.IsZero() {
		fmt.Fprintf(w, "the disks hold nothing beyond checkpoint #%d\n", r.Base.Checkpoint)
		return
	}
	fmt.Fprintf(w, "kept\tcheckpoint #%d of timeline %s\n", r.Checkpoint, r.Timeline)
	fmt.Fprintf(w, "beyond\tcheckpoint #%d\n", r.Base.Checkpoint)
	for _, d := range r.Disks {
		fmt.Fprintf(w, "disk %s\t%s in %d stretches%s\t%s\n", d.Disk, sizeOf(d.Bytes), len(d.Ranges), more(d.More), d.Path)
		for _, x := range d.Ranges[:min(len(d.Ranges), shownRanges)] {
			fmt.Fprintf(w, "\t%s\n", rangeOf(x))
		}
	}
}

// shownRanges is how many stretches of a disk people are shown; JSON has more.
const shownRanges = 5

func more(is bool) string {
	if is {
		return " and more"
	}
	return ""
}

func rangeOf(x extent.Range) string { return fmt.Sprintf("%s from byte %d", sizeOf(x.Len), x.Off) }

func newUnshippedListCommand() *cobra.Command {
	var id identityFlags
	cmd := &cobra.Command{
		Use:     "list URL",
		Short:   "List what returning sites had not published",
		Long:    `Lists the branches that "unshipped keep" made and that are not dropped.`,
		Example: "  holdfast rocva unshipped list file:///srv/dr/erp --key recovery.key",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			all, err := unshipped.List(cmd.Context(), c)
			if err != nil {
				return err
			}
			return print(cmd, all, func(w io.Writer) {
				fmt.Fprintln(w, "SITE\tTIMELINE\tMADE\tBASE\tCHECKPOINT\tSTORED")
				for _, b := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t#%d\t#%d\t%s\n", b.Site, b.Timeline, timeOf(b.Created), b.Base.Checkpoint, b.Checkpoint, sizeOf(b.Stored))
				}
			})
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	return cmd
}
