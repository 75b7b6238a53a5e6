package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// erased is what key erase says.
type erased struct {
	*journal.EraseReport
	// Tried is whether the identity given opened the container before, and
	// does not any more. Absent when none was given.
	Tried *bool `json:"opened_before,omitempty"`
}

func newKeyEraseCommand() *cobra.Command {
	var name string
	var id identityFlags
	cmd := &cobra.Command{
		Use:   "erase URL",
		Short: "Delete every wrapped key: nobody can ever open the container again",
		Long: `Deletes all wrapped keys of all data keys. No recovery key is needed, and none
opens the container after that: one that is given is tried before and after.
Not reached: copies of wrapped keys in other places, old versions the store
itself keeps, and the memory of appliances that run. Objects that a lock holds
stay, and are named.`,
		Example: "  holdfast key erase file:///srv/dr/erp --yes-erase erp --key recovery.key",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return usageError{fmt.Errorf("give --yes-erase NAME, with the domain's name as inspect shows it")}
			}
			st, err := openStore(cmd.Context(), args[0], false)
			if err != nil {
				return err
			}
			r, err := eraseAndTry(cmd.Context(), st, name, &id)
			if err != nil {
				return err
			}
			return print(cmd, r, func(w io.Writer) { r.print(w, id.given()) })
		},
	}
	addOutputFlag(cmd)
	id.add(cmd)
	cmd.Flags().StringVar(&name, "yes-erase", "", "the domain's name: confirms that its data is to be lost for ever")
	return cmd
}

// eraseAndTry erases; with an identity it also sees that this opened the
// container, and does no more.
func eraseAndTry(ctx context.Context, st store.Store, name string, id *identityFlags) (*erased, error) {
	const op = "key erase"
	if !id.given() {
		r, err := journal.Erase(ctx, st, name)
		return &erased{EraseReport: r}, err
	}
	identity, err := id.load()
	if err != nil {
		return nil, err
	}
	opens := func() (bool, error) {
		_, err := journal.Open(ctx, st, identity)
		if errs.Is(err, errs.Denied) {
			return false, nil
		}
		return err == nil, err
	}
	before, err := opens()
	if err != nil {
		return nil, err
	}
	r, err := journal.Erase(ctx, st, name)
	if err != nil {
		return nil, err
	}
	after, err := opens()
	switch {
	case err != nil:
		return nil, errs.E(op, errs.Internal, name, err).WithRemedy("the wrapped keys are deleted; whether the key given opens nothing could not be tried: run it again")
	case after:
		return nil, errs.New(op, errs.Conflict, name, "the key given still opens the container").
			WithRemedy("stop whoever adds recipients, and run it again")
	}
	return &erased{EraseReport: r, Tried: &before}, nil
}

func (e *erased) print(w io.Writer, tried bool) {
	fmt.Fprintf(w, "deleted %d objects below keys/; none is left\n", e.Deleted)
	switch {
	case !tried:
	case *e.Tried:
		fmt.Fprintln(w, "tried: the key given opened the container before, and opens it no more")
	default:
		fmt.Fprintln(w, "tried: the key given does not open the container, but did not before either")
	}
	fmt.Fprintf(w, "%d objects (%s) remain, which nothing opens; delete them when you like\n", e.Objects, sizeOf(e.Bytes))
}
