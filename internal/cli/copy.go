package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/copies"
	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
	"holdfast/internal/store/limit"
)

const copyLong = `Copies the container at SOURCE to COPY: the same objects under the same names, which
the same keys open. The copy is made if it is missing; where there is one already, what
it lacks is added, and what the source's upkeep has freed goes, a day later.

At any instant the copy is a container whose history the source had: a command that is
broken off, by Ctrl-C say, leaves what it copied, and is begun again to go on. What is
published meanwhile is copied too; the command ends when the copy has all there is.

A DRVA keeps copies by itself (see "holdfast drva", copies). This is for moving a
container to another store, and for a copy of one that nobody publishes to. Nothing is
copied to a place that holds something else, or to a copy that somebody has recovered
from.

The source is read, and pins and tests' branches of the copy's readers are carried back
to it; the copy is created, read, listed and, where the right is there, deleted in.`

func newCopyCommand() *cobra.Command {
	var id identityFlags
	var to, bandwidth string
	cmd := &cobra.Command{
		Use:   "copy SOURCE COPY",
		Short: "Copy a container to another store, or bring a copy up to date",
		Long:  copyLong,
		Example: `  holdfast copy file:///srv/dr/erp s3://dr-copy/erp?region=eu-central-1 --key recovery.key
  holdfast copy s3://old/erp azblob://contoso/backup/erp --key recovery.key --store-credentials old.env --copy-credentials new.env`,
		Args: exactArgs("SOURCE", "COPY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCopy(cmd, args[0], args[1], &id, to, bandwidth)
		},
	}
	id.add(cmd)
	cmd.Flags().StringVar(&to, "copy-credentials", "", "as --store-credentials, for the copy's store")
	cmd.Flags().StringVar(&bandwidth, "bandwidth", "", `limit of the traffic with the copy's store, as "20MB/s"`)
	addOutputFlag(cmd)
	return cmd
}

func runCopy(cmd *cobra.Command, from, to string, id *identityFlags, credentials, bandwidth string) error {
	ctx := cmd.Context()
	schedule, err := limit.ParseSchedule(bandwidth)
	if err != nil {
		return err
	}
	if u, err := store.ParseURL(from); err == nil {
		if v, err := store.ParseURL(to); err == nil && u.String() == v.String() {
			return usageError{fmt.Errorf("the container and its copy are the same place: %s", u.String())}
		}
	}
	a, err := access.ReadFile(credentials)
	if err != nil {
		return err
	}
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	c, err := openContainer(ctx, from, id)
	if err != nil {
		return err
	}
	st, err := openStack(ctx, to, stackOptions{create: true, limiter: limit.NewLimiter(schedule), logger: log, access: a})
	if err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr(), "copying", true)
	began := time.Now()
	m, err := copies.New(c, st.store, copies.Options{Name: to, Progress: func(b copies.Behind) {
		done := int64(st.meter.Counts().BytesIn)
		bar.set(done, done+b.Bytes)
	}})
	if err == nil {
		err = m.CatchUp(ctx)
	}
	bar.finish()
	if ctx.Err() != nil {
		return errs.E("copy", errs.Canceled, to, context.Cause(ctx)).WithRemedy("give the same command to go on: what was copied stays")
	} else if err != nil {
		return err
	}
	s := m.Status()
	return print(cmd, s, func(w io.Writer) {
		fmt.Fprintf(w, "copied\t%d object(s), %s, in %s\n", s.Copied, sizeOf(s.CopiedBytes), spanOf(time.Since(began)))
		if s.Deleted > 0 {
			fmt.Fprintf(w, "deleted\t%d object(s) that the source had freed\n", s.Deleted)
		}
		printCopy(w, &s)
	})
}
