package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

const (
	// revealTries is how often a reveal goes on after a passing failure of the
	// store, revealPause apart: what it did stays done.
	revealTries = 5
	revealPause = 3 * time.Second
	// maxRevealed bounds the names in the result; all are counted.
	maxRevealed = 10_000
)

// revealView is the result of a reveal.
type revealView struct {
	store.RevealReport
	DryRun bool           `json:"dry_run"`
	Names  []store.Hidden `json:"names"` // at most maxRevealed
}

func newStoreReveal() *cobra.Command {
	var overwritten, dry bool
	cmd := &cobra.Command{
		Use:   "reveal URL",
		Short: "Bring back locked objects that somebody deleted or wrote over",
		Long: `A locked object cannot be removed, but whoever may delete can still hide it behind
a marker, and whoever may write can lay another version on its name. This removes
the markers in a bucket that keeps versions, so that readers see again what was
created; with --overwritten also the versions written over a name: Holdfast creates
a name once, so the oldest version is the one that counts.

Take the attacker's credentials away first: what he may still delete he will hide
again. --dry-run changes nothing and shows what was done to the container. Then
run fsck, and restore. Objects that were not locked, or whose lock has run out, may
be gone for good; fsck names what is missing.

It needs the rights to list versions and to delete versions. Exit code ` + fmt.Sprint(exitDenied) + ` when some name
is still not as it was created.`,
		Example: `  holdfast store reveal s3://dr-erp/erp?region=eu-central-1 --dry-run
  holdfast store reveal s3://dr-erp/erp?region=eu-central-1 --overwritten`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := reveal(cmd, args[0], store.RevealOptions{Overwritten: overwritten, DryRun: dry})
			if err != nil {
				return err
			}
			if err := print(cmd, v, func(w io.Writer) { printReveal(w, v) }); err != nil {
				return err
			}
			if v.Left > 0 {
				return errs.New("store reveal", errs.Denied, args[0], fmt.Sprintf("%d names are still not as they were created", v.Left)).
					WithRemedy("--overwritten removes what was written over a name; of what is locked itself wait for the lock's end, or read the older version with the store's own tools")
			}
			return nil
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&overwritten, "overwritten", false, "also remove versions written over a name")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "change nothing")
	return cmd
}

// reveal goes on where a passing failure ended it. The counts are of all
// tries; a name is told once, as it was found last.
func reveal(cmd *cobra.Command, rawURL string, opts store.RevealOptions) (*revealView, error) {
	ctx := cmd.Context()
	u, err := store.ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	driver, err := openDriver(ctx, u, false)
	if err != nil {
		return nil, err
	}
	r, ok := driver.(store.Revealer)
	if !ok {
		return nil, errs.New("store reveal", errs.Invalid, rawURL, "this kind of store keeps nothing behind what was deleted that could be brought back from here").
			WithRemedy("use the store's own tools: snapshots of the file system; undelete and previous versions of Azure")
	}
	v := &revealView{DryRun: opts.DryRun, Names: []store.Hidden{}}
	at := map[string]int{}
	opts.Found = func(h store.Hidden) {
		if i, ok := at[h.Key]; ok {
			v.Names[i] = h
		} else if len(v.Names) < maxRevealed {
			at[h.Key] = len(v.Names)
			v.Names = append(v.Names, h)
		}
	}
	for try := 1; ; try++ {
		report, err := r.Reveal(ctx, "", opts)
		report.Markers += v.Markers
		report.Versions += v.Versions
		report.Hidden += v.Hidden
		v.RevealReport = report
		if err == nil || try == revealTries || !errs.Is(err, errs.Transient) && !errs.Is(err, errs.Unavailable) {
			return v, err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "the store failed, going on: %v\n", err)
		timer := time.NewTimer(revealPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func printReveal(w io.Writer, v *revealView) {
	for _, h := range v.Names {
		what := "was deleted"
		if h.Covers > 0 {
			what = "was written over"
		}
		fmt.Fprintf(w, "%s\t%s%s\n", h.Key, what, suffix(h.Left))
	}
	did := "removed"
	if v.DryRun {
		did = "to remove"
	}
	fmt.Fprintf(w, "names\t%d, of which %d were deleted and %d written over\n", v.Keys, v.Hidden, v.Covered)
	fmt.Fprintf(w, "%s\t%d markers of deletion, %d versions\n", did, v.Markers, v.Versions)
	fmt.Fprintf(w, "not as created\t%d\n", v.Left)
	if v.Gone > 0 {
		fmt.Fprintf(w, "gone\t%d names have nothing behind their markers\n", v.Gone)
	}
}
