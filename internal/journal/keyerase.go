package journal

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// EraseReport says what a crypto-erase did.
type EraseReport struct {
	Deleted int       `json:"deleted"`          // objects below keys/
	Refused []HeldKey `json:"refused,omitzero"` // below keys/, which the store does not let us delete
	Objects int       `json:"objects"`          // that remain in the container, sealed for ever
	Bytes   int64     `json:"bytes"`            // of them
}

// HeldKey is an object below keys/ that was not deleted.
type HeldKey struct {
	Key   string         `json:"key"`
	Mode  store.LockMode `json:"mode,omitempty"` // of its lock; empty: none, or the store does not tell
	Until time.Time      `json:"until,omitzero"`
}

// String names the key and its lock.
func (h HeldKey) String() string {
	if h.Mode == "" {
		return h.Key
	}
	return fmt.Sprintf("%s (%s lock until %s)", h.Key, h.Mode, h.Until.UTC().Format(time.RFC3339))
}

// maxHeldShown bounds how many held keys an error names.
const maxHeldShown = 4

// Erase deletes every wrapped key of every data key, so that nothing in the
// container can be opened by anybody who has not copied one. name must be the
// domain's name. No key is needed. It verifies that nothing is left to open
// the container with; what is sealed remains, unreadable.
//
// It cannot reach copies: other stores, the store's own old versions, a
// running appliance's memory. Kinds: Invalid for another name, Denied when the
// store does not let us delete some, which the report and the error name with
// their locks, after all others are deleted; the store's. The report is not
// nil when anything may be deleted. It may be called again after any error and
// goes on.
func Erase(ctx context.Context, st store.Store, name string) (*EraseReport, error) {
	const op = "journal.Erase"
	d, err := ReadDomain(ctx, st)
	if err != nil {
		return nil, err
	}
	if name != d.Name {
		return nil, errs.New(op, errs.Invalid, d.Name, "the name given is not this container's: nothing was erased").
			WithRemedy("give the name exactly as inspect shows it")
	}
	r := &EraseReport{}
	if err := r.deleteAll(ctx, st); err != nil {
		return r, err
	}
	left := 0
	err = listAll(ctx, st, "", "", func(in store.Info) bool {
		r.Objects++
		r.Bytes += in.Size
		if strings.HasPrefix(in.Key, prefixKeys) {
			left++
		}
		return true
	})
	if err != nil {
		return r, errs.E(op, errs.Internal, "", err)
	}
	if left > 0 {
		return r, errs.New(op, errs.Conflict, prefixKeys, fmt.Sprintf("%d wrapped keys are there again or still", left)).
			WithRemedy("stop whoever adds recipients, and run it again")
	}
	return r, nil
}

// deleteAll deletes what is below keys/, past what the store refuses.
func (r *EraseReport) deleteAll(ctx context.Context, st store.Store) error {
	const op = "journal.Erase"
	var doomed []string
	err := listAll(ctx, st, prefixKeys, "", func(in store.Info) bool {
		doomed = append(doomed, in.Key)
		return true
	})
	var refused error
	for _, key := range doomed {
		if err != nil {
			break
		}
		switch err = st.Delete(ctx, key); {
		case err == nil:
			r.Deleted++
		case errs.Is(err, errs.NotFound):
			err = nil
		case errs.Is(err, errs.Denied):
			r.Refused, refused, err = append(r.Refused, heldKey(ctx, st, key)), err, nil
		}
	}
	if err != nil {
		return errs.E(op, errs.Internal, prefixKeys, err).
			WithRemedy(fmt.Sprintf("%d of %d wrapped keys are deleted; what is left still opens: run it again", r.Deleted, len(doomed)))
	}
	if len(r.Refused) == 0 {
		return nil
	}
	names := make([]string, 0, maxHeldShown)
	for _, h := range r.Refused[:min(len(r.Refused), maxHeldShown)] {
		names = append(names, h.String())
	}
	return errs.E(op, errs.Denied, prefixKeys, fmt.Errorf("%d of %d wrapped keys remain and still open, as the store refuses to delete %s: %w",
		len(r.Refused), len(doomed), strings.Join(names, ", "), refused)).
		WithRemedy("use credentials that may delete below keys/, or wait until the locks end, and run it again")
}

func heldKey(ctx context.Context, st store.Store, key string) HeldKey {
	h := HeldKey{Key: key}
	if l, ok := store.AsLocker(st); ok {
		if lock, err := l.ReadLock(ctx, key); err == nil && !lock.IsZero() {
			h.Mode, h.Until = lock.Mode, lock.Until
		}
	}
	return h
}
