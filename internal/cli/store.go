package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/verify"
)

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Try an object store before anything is trusted to it; bring back what was deleted"}
	cmd.AddCommand(newStoreVerify(), newStoreTry(), newStoreReveal())
	return cmd
}

func newStoreVerify() *cobra.Command {
	var role string
	var quick bool
	var connections int
	full, short := verify.Options{Connect: noStore}.Budget(), verify.Options{Connect: noStore, Quick: true}.Budget()
	cmd := &cobra.Command{
		Use:   "verify URL",
		Short: "Try adversarially whether a store keeps its promises, and which rights there are",
		Long: fmt.Sprintf(`Tries, against the real store, every property that Holdfast relies on: writers race
for one name over several connections while readers look, names are created
again and again after deletion, lists are read in pages of one, ranges are cut at
every edge. Says for each property pass, fail, warn, unknown or not-permitted, and
what to do about it, and which roles can use the store:

  publisher   the DRVA: create, read, list; needs no right to delete
  maintainer  retention and garbage collection: and delete
  recovery    restore, fsck, inspect: read and list

A store that a role cannot use is refused with an exit code: %d when it is not fit,
%d when a right is missing, %d when it could not be found out.

Cost: at most %d requests, %s up and %s down; with --quick %d requests,
%s and %s. Everything is written below probe/ and removed at the end, when the
credentials may delete; otherwise it is named. Run it again after the provider,
a gateway or a proxy on the way has changed.

Credentials come from the environment, never from the address: AZURE_STORAGE_KEY,
AZURE_STORAGE_SAS_TOKEN or a managed identity; AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, a shared credentials file or an instance's role.`,
			exitUsage, exitDenied, exitUnavailable,
			full.Requests, sizeOf(full.Up), sizeOf(full.Down), short.Requests, sizeOf(short.Up), sizeOf(short.Down)),
		Example: `  holdfast store verify s3://dr-erp?region=eu-central-1
  holdfast store verify azblob://contoso/dr-erp --role maintainer
  holdfast store verify file:///srv/dr/erp --quick -o json`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			as, err := parseRole(role)
			if err != nil {
				return err
			}
			r, err := runTrial(cmd, args[0], verify.Options{Quick: quick, Connections: connections})
			if r == nil {
				return err
			}
			if perr := print(cmd, viewOf(r), func(w io.Writer) { printTrial(w, r) }); perr != nil {
				return errors.Join(err, perr)
			}
			if err != nil {
				return err
			}
			return r.Usable(as)
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&role, "role", string(verify.Publisher), "whose rights are asked for: publisher, maintainer or recovery")
	cmd.Flags().BoolVar(&quick, "quick", false, "fewer rounds, smaller objects")
	cmd.Flags().IntVar(&connections, "connections", 0, "independent connections to use, 2 to 8 (default 3)")
	return cmd
}

// noStore stands for a connection where only its being there counts.
func noStore(context.Context) (store.Store, error) { return nil, nil }

func parseRole(s string) (verify.Role, error) {
	for _, r := range verify.Roles() {
		if s == string(r) {
			return r, nil
		}
	}
	return "", usageError{fmt.Errorf("--role %q: choose publisher, maintainer or recovery", s)}
}

// trialPatience is how long a trial repeats a failing call: what a busy store
// needs to recover; one that always fails is to be found out soon.
const trialPatience = 5 * time.Second

// runTrial tries the store that rawURL names, with progress on stderr.
func runTrial(cmd *cobra.Command, rawURL string, opts verify.Options) (*verify.Report, error) {
	opts.Connect = func(ctx context.Context) (store.Store, error) {
		s, err := openStack(ctx, rawURL, stackOptions{elapsed: trialPatience})
		if err != nil {
			return nil, err
		}
		return s.store, nil
	}
	st, err := opts.Connect(cmd.Context())
	if err != nil {
		return nil, err
	}
	b := opts.Budget()
	fmt.Fprintf(cmd.ErrOrStderr(), "trying the store: at most %d requests, %s up, %s down, below %s\n",
		b.Requests, sizeOf(b.Up), sizeOf(b.Down), verify.Prefix)
	bar := newProgress(cmd.ErrOrStderr(), "trying", false)
	defer bar.finish()
	opts.Progress = func(p verify.Progress) { bar.set(int64(p.Requests), int64(p.Allowed)) }
	return verify.Run(cmd.Context(), st, opts)
}

// trustStore tries the store for a container that is to be made in it, and
// refuses one that a publisher could not rely on.
func trustStore(cmd *cobra.Command, rawURL string, quick bool) error {
	r, err := runTrial(cmd, rawURL, verify.Options{Quick: quick})
	if err != nil {
		return err
	}
	if err := r.Usable(verify.Publisher); err != nil {
		e := errs.E("domain create", errs.Internal, "the store is refused", err)
		return e.WithRemedy(strings.TrimPrefix(errs.RemedyOf(err)+"; \"holdfast store verify\" shows everything that was tried", "; "))
	}
	for _, p := range r.Properties {
		if p.Verdict == verify.Warn {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s: %s\n  %s\n", p.Name, p.Detail, p.Remedy)
		}
	}
	if r.LeftCount > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "the trial left %d objects below %s: %s\n", r.LeftCount, r.Prefix, r.LeftWhy)
	}
	return nil
}

// trialView is a report as JSON has it.
type trialView struct {
	*verify.Report
	Roles []roleView `json:"roles"`
}

// roleView says whether a role can use the store, and what is in the way.
type roleView struct {
	Role    verify.Role `json:"role"`
	Usable  bool        `json:"usable"`
	Refused []string    `json:"refused,omitempty"` // property names, worst first
}

func viewOf(r *verify.Report) trialView {
	v := trialView{Report: r}
	for _, role := range verify.Roles() {
		rv := roleView{Role: role}
		for _, p := range r.Refused(role) {
			rv.Refused = append(rv.Refused, p.Name)
		}
		rv.Usable = len(rv.Refused) == 0
		v.Roles = append(v.Roles, rv)
	}
	return v
}

func printTrial(w io.Writer, r *verify.Report) {
	fmt.Fprintln(w, "PROPERTY\tVERDICT\tTOOK\tDETAIL")
	for _, p := range r.Properties {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.Verdict, took(p.Took), p.Detail)
		if p.Remedy != "" && (p.Verdict == verify.Fail || p.Verdict == verify.Warn) {
			fmt.Fprintf(w, "\t\t\t  %s\n", p.Remedy)
		}
	}
	fmt.Fprintln(w)
	for _, v := range viewOf(r).Roles {
		words := "can use it"
		if !v.Usable {
			words = "cannot: " + strings.Join(v.Refused, ", ")
		}
		fmt.Fprintf(w, "%s\t%s\n", v.Role, words)
	}
	left := "nothing is left behind"
	if r.LeftCount > 0 {
		left = fmt.Sprintf("%d objects are left below %s: %s", r.LeftCount, r.Prefix, r.LeftWhy)
	}
	fmt.Fprintf(w, "\n%d requests over %d connections, %s up, %s down, in %s; %s\n",
		r.Used.Requests, r.Connections, sizeOf(r.Used.Up), sizeOf(r.Used.Down), took(r.Took), left)
}

// took renders a duration to three digits or so.
func took(d time.Duration) string {
	if d >= time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
