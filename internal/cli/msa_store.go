package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/errs"
	msaapi "holdfast/internal/msa/api"
	"holdfast/internal/msa/runs"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
	"holdfast/internal/store/verify"
)

// storeTrials does the steps that try stores, with the stores' own credentials, or those
// of the manager's process for stores that name none. A trial leaves nothing, so that it
// may be done again.
type storeTrials struct {
	secret func(ctx context.Context, name string) (string, error) // set before it is used
}

// access returns the credentials of a trial.
func (t *storeTrials) access(ctx context.Context, in *msaapi.StoreTrial) (access.Access, error) {
	if in.Credential == "" {
		return access.Access{}, nil
	}
	text, err := t.secret(ctx, string(in.Credential))
	if err != nil {
		return access.Access{}, err
	}
	return access.Parse(text)
}

// Do tries a store.
func (t *storeTrials) Do(ctx context.Context, c *runs.Call) (runs.Result, error) {
	var in msaapi.StoreTrial
	if err := json.Unmarshal(c.Input, &in); err != nil {
		return runs.Result{}, errs.E("store.try", errs.Invalid, "input", err)
	}
	role, err := parseRole(in.Role)
	if err != nil {
		return runs.Result{}, errs.E("store.try", errs.Invalid, "role", err)
	}
	credentials, err := t.access(ctx, &in)
	if err != nil {
		return runs.Result{}, err
	}
	connect := func(ctx context.Context) (store.Store, error) {
		s, err := openStack(ctx, in.URL, stackOptions{elapsed: trialPatience, access: credentials})
		if err != nil {
			return nil, err
		}
		return s.store, nil
	}
	st, err := connect(ctx)
	if err != nil {
		return runs.Result{}, err
	}
	if err := c.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	r, err := verify.Run(ctx, st, verify.Options{Quick: in.Quick, Connect: connect, Progress: func(p verify.Progress) { c.Progress(int64(p.Requests), int64(p.Allowed)) }})
	if err != nil {
		return runs.Result{}, err
	}
	for _, p := range r.Properties {
		if p.Verdict == verify.Warn || p.Verdict == verify.Fail {
			c.Warn(fmt.Sprintf("%s: %s (%s)", p.Name, p.Detail, p.Remedy))
		}
	}
	if err := r.Usable(role); err != nil {
		return runs.Result{}, err
	}
	report, err := json.Marshal(viewOf(r))
	if err != nil {
		return runs.Result{}, errs.E("store.try", errs.Internal, in.URL, err)
	}
	return runs.Result{Memory: report, Note: "a " + in.Role + " can use it"}, nil
}

func newStoreTry() *cobra.Command {
	var how api.TryStore
	cmd := &cobra.Command{
		Use:   "try NAME",
		Short: "Have the manager try one of its stores",
		Long: `Has the manager try, with the store's credential, what holdfast store verify tries from
here. It is a task: with --wait, its end decides the exit code.`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withManager(cmd, func(c *api.Client) error {
				t, err := c.TryStore(cmd.Context(), api.Name(args[0]), how)
				if err != nil {
					return err
				}
				return finishTask(cmd, c, t)
			})
		},
	}
	cmd.Flags().StringVar(&how.Role, "role", string(verify.Publisher), "whose rights are asked for: publisher, maintainer or recovery")
	cmd.Flags().BoolVar(&how.Quick, "quick", false, "fewer rounds, smaller objects")
	addWaitFlag(cmd)
	addManagerFlags(cmd)
	return cmd
}
