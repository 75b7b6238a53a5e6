package journal

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store"
)

const (
	// probeRacers is how many Creates of one name the trial runs at once.
	probeRacers = 8
	// probeSize is the size of a trial object in bytes: more than one page, and
	// no multiple of one.
	probeSize = 10_007
)

// probe tries the properties of the store that publishing and fencing rest
// on. What it writes, under probe/, it deletes again if the store lets it.
func probe(ctx context.Context, st store.Store) error {
	if !st.Capabilities().CreateOnce {
		return lacks("create-once", "the driver says that the store can overwrite a name")
	}
	dir := prefixProbe + dr.NewUUID().String() + "/"
	key := dir + "race"
	winner, err := probeRace(ctx, st, key)
	if err == nil {
		err = probeRead(ctx, st, dir, key, probeBody(winner))
	}
	if st.Capabilities().Delete {
		// A leftover of the trial is harmless: nothing ever reads it again.
		_ = st.Delete(context.WithoutCancel(ctx), key)
	}
	return err
}

func lacks(property, what string) error {
	return errs.New("journal.Create", errs.Invalid, "store property "+property, what).
		WithRemedy("Holdfast cannot keep a history safe in this store; use one that has the property (run the store check for details)")
}

func probeBody(i int) []byte {
	b := make([]byte, probeSize)
	for j := range b {
		b[j] = byte(j*7 + j>>8 + i*31)
	}
	return b
}

// probeRace creates one name many times at once, then once more.
func probeRace(ctx context.Context, st store.Store, key string) (winner int, err error) {
	results := make([]error, probeRacers)
	var wg sync.WaitGroup
	for i := range probeRacers {
		wg.Go(func() { results[i] = st.Create(ctx, key, probeBody(i)) })
	}
	wg.Wait()
	wins := 0
	winner = -1
	for i, err := range results {
		switch {
		case err == nil:
			winner = i
			wins++
		case !errs.Is(err, errs.Exists):
			return 0, errs.E("journal.Create", errs.Internal, key, err)
		}
	}
	if wins > 1 {
		return 0, lacks("create-once", fmt.Sprintf("of %d creates of one name %d succeeded", probeRacers, wins))
	}
	if winner < 0 {
		// The winner's answer was lost and its next try met its own object.
		if winner, err = probeWinner(ctx, st, key); err != nil {
			return 0, err
		}
	}
	switch err := st.Create(ctx, key, probeBody(winner)); {
	case err == nil:
		return 0, lacks("create-once", "a name that exists was created again")
	case !errs.Is(err, errs.Exists):
		return 0, errs.E("journal.Create", errs.Internal, key, err)
	}
	return winner, nil
}

// probeWinner finds whose body the trial object has.
func probeWinner(ctx context.Context, st store.Store, key string) (int, error) {
	p := make([]byte, probeSize)
	if _, err := st.ReadRange(ctx, key, p, 0); err != nil {
		return 0, errs.E("journal.Create", errs.Internal, key, err)
	}
	for i := range probeRacers {
		if bytes.Equal(p, probeBody(i)) {
			return i, nil
		}
	}
	return 0, lacks("create-once", "a created object is not what any creator wrote")
}

func probeRead(ctx context.Context, st store.Store, dir, key string, want []byte) error {
	const op = "journal.Create"
	page, err := st.List(ctx, dir, "", 10)
	if err != nil {
		return errs.E(op, errs.Internal, dir, err)
	}
	if len(page) != 1 || page[0].Key != key || page[0].Size != probeSize {
		return lacks("list-after-create", "a list does not show what was just created")
	}
	for _, r := range []struct{ off, n int }{{0, probeSize}, {1, 4096}, {4095, 5000}, {probeSize - 1, 1}} {
		p := make([]byte, r.n)
		n, err := st.ReadRange(ctx, key, p, int64(r.off))
		if err != nil {
			return errs.E(op, errs.Internal, key, err)
		}
		if n != r.n || !bytes.Equal(p, want[r.off:r.off+r.n]) {
			return lacks("range", fmt.Sprintf("%d bytes at %d are not those written", r.n, r.off))
		}
	}
	n, err := st.ReadRange(ctx, key, make([]byte, 100), probeSize-10)
	if err != nil {
		return errs.E(op, errs.Internal, key, err)
	}
	if n != 10 {
		return lacks("range", "a range at the end of an object has a wrong length")
	}
	return nil
}
