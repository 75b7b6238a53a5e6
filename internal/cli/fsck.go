package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// maxFsckState bounds a check's state file in bytes; a real one is 200.
const maxFsckState = 64 << 10

// fsckFlags say what to check and how hard.
type fsckFlags struct {
	id      identityFlags
	mode    string
	deep    bool
	resume  string
	rate    float64 // MB/s
	percent float64
}

func newFsckCommand() *cobra.Command {
	var f fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck URL",
		Short: "Check a container, without changing it",
		Long: `Checks the container at URL and tells what is damaged, and which checkpoints that
touches. A check never writes to the store. There are three depths:

  quick   names, manifests, the chain of journal objects behind the newest one and
          its fences, headers, footers, pins, keys; reads neither index nor content
  index   and every part of the index, and that everything it refers to is there;
          counts live bytes again
  deep    and all content: opens every frame, compares every block with its hash
          and every object with its digest

A deep check may be done in portions: --resume FILE keeps how far it came, and
--percent how much of the content one call reads, so that a check of 4 percent
every day goes round in 25 days. --rate slows reading down.

Exit codes: 0 clean; 6 something is damaged; 5 the store did not answer, and 7 it
or the key refused, so that nothing can be said; 2 wrong use; 130 interrupted.`,
		Example: `  holdfast fsck file:///srv/dr/erp --key recovery.key
  holdfast fsck file:///srv/dr/erp --key recovery.key --mode deep
  holdfast fsck s3://dr-erp?region=eu-central-1 --key recovery.key --mode deep --resume /var/lib/holdfast/fsck --percent 4 --rate 20`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.id.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&f.mode, "mode", string(journal.FsckQuick), "how deep: quick, index or deep")
	cmd.Flags().BoolVar(&f.deep, "deep", false, "the same as --mode deep")
	cmd.Flags().StringVar(&f.resume, "resume", "", "with deep: file that keeps how far the check came; it is made if absent")
	cmd.Flags().Float64Var(&f.rate, "rate", 0, "with deep: read content no faster, in MB/s (0: as fast as it goes)")
	cmd.Flags().Float64Var(&f.percent, "percent", 0, "with deep: read so much of the content in this call (0: all of it)")
	return cmd
}

// options are what the flags ask for.
func (f *fsckFlags) options(changed func(string) bool) (journal.FsckOptions, error) {
	opts := journal.FsckOptions{Mode: journal.FsckMode(f.mode)}
	if f.deep {
		if changed("mode") && opts.Mode != journal.FsckDeep {
			return opts, usageError{fmt.Errorf("--deep and --mode %s: give one", f.mode)}
		}
		opts.Mode = journal.FsckDeep
	}
	switch opts.Mode {
	case journal.FsckQuick, journal.FsckIndex:
		for _, flag := range []string{"resume", "rate", "percent"} {
			if changed(flag) {
				return opts, usageError{fmt.Errorf("--%s is for a deep check: add --mode deep", flag)}
			}
		}
	case journal.FsckDeep:
	default:
		return opts, usageError{fmt.Errorf("--mode %q: choose quick, index or deep", f.mode)}
	}
	const mb = 1e6
	if !(f.rate >= 0 && f.rate < math.MaxInt64/mb) {
		return opts, usageError{fmt.Errorf("--rate %g: give MB/s above 0, or 0 for no limit", f.rate)}
	}
	if !(f.percent >= 0 && f.percent <= 100) {
		return opts, usageError{fmt.Errorf("--percent %g: give 0 to 100", f.percent)}
	}
	if f.percent > 0 && f.percent < 100 && f.resume == "" {
		return opts, usageError{fmt.Errorf("--percent %g without --resume FILE would check the same part every time", f.percent)}
	}
	opts.BytesPerSecond, opts.Share = int64(f.rate*mb), f.percent/100
	return opts, nil
}

func (f *fsckFlags) run(cmd *cobra.Command, url string) error {
	opts, err := f.options(cmd.Flags().Changed)
	if err != nil {
		return err
	}
	if opts.Cursor, err = readCursor(f.resume); err != nil {
		return err
	}
	c, err := openContainer(cmd.Context(), url, &f.id)
	if err != nil {
		return err
	}
	r, err := check(cmd, c, opts)
	if err != nil {
		return err
	}
	if err := writeCursor(f.resume, r.Cursor); err != nil {
		return err
	}
	if err := print(cmd, r, func(w io.Writer) { printReport(w, r) }); err != nil {
		return err
	}
	if !r.Clean {
		return errs.New("fsck", errs.Corrupt, url, fmt.Sprintf("%d problem(s) found", len(r.Problems)+r.More)).
			WithRemedy("checkpoints that are not touched can be recovered; protect the VMs again for a whole history")
	}
	return nil
}

// check runs a check with a bar for each of its stages.
func check(cmd *cobra.Command, c *journal.Container, opts journal.FsckOptions) (*journal.Report, error) {
	bars := &stages{out: cmd.ErrOrStderr()}
	defer bars.finish()
	opts.Progress = func(p journal.FsckProgress) {
		if p.ToRead > 0 {
			bars.set("checking "+p.Stage, true, min(p.Bytes, p.ToRead), p.ToRead)
			return
		}
		bars.set("checking "+p.Stage, false, int64(p.Objects), int64(p.Total))
	}
	return c.Fsck(cmd.Context(), opts)
}

// readCursor reads how far an earlier check came; nil where none did.
func readCursor(path string) (*journal.FsckCursor, error) {
	const op = "fsck"
	if path == "" {
		return nil, nil
	}
	b, err := durable.ReadFile(durable.OS{}, path, maxFsckState)
	switch {
	case errs.Is(err, errs.NotFound):
		return nil, nil
	case err != nil:
		return nil, errs.E(op, errs.Internal, path, err)
	}
	var s *journal.FsckCursor
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, errs.E(op, errs.Invalid, path, err).
			WithRemedy("this is no state of a check: name another file, or remove it to begin a new round")
	}
	return s, nil
}

// writeCursor keeps how far a check came; a round that ended leaves "null", so
// that the next one begins anew.
func writeCursor(path string, at *journal.FsckCursor) error {
	if path == "" {
		return nil
	}
	b, err := json.Marshal(at)
	if err != nil {
		return errs.E("fsck", errs.Internal, path, err)
	}
	return durable.WriteFile(durable.OS{}, path, append(b, '\n'))
}

func printReport(w io.Writer, r *journal.Report) {
	for _, t := range r.Timelines {
		fmt.Fprintf(w, "timeline %s: %d objects in %d epochs, %d checkpoints, %d recoverable", t.ID, t.Objects, t.Epochs, t.Checkpoints, t.Recoverable)
		if t.Manifest > 0 {
			fmt.Fprintf(w, ", manifest %d", t.Manifest)
		}
		if t.Parts > 0 {
			fmt.Fprintf(w, ", %d index parts of %d entries, %s live", t.Parts, t.Entries, sizeOf(t.Live))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%s check of %d objects, %s", r.Mode, r.Objects, sizeOf(r.Bytes))
	if r.Mode == journal.FsckDeep {
		fmt.Fprintf(w, ", %d frames, %d blocks compared", r.Frames, r.Blocks)
	}
	fmt.Fprintln(w)
	if r.Cursor != nil {
		fmt.Fprintf(w, "portion of a round begun %s: %d objects, %s so far\n", timeOf(r.Cursor.Started), r.Cursor.Objects, sizeOf(r.Cursor.Bytes))
	}
	if r.Clean {
		fmt.Fprintln(w, "clean")
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%s: %s: %s", p.Kind, p.Object, p.What)
		if p.Touched.Count > 0 {
			fmt.Fprintf(w, " (checkpoints %d-%d)", p.Touched.First, p.Touched.Last)
		}
		fmt.Fprintln(w)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "and %d more\n", r.More)
	}
}
