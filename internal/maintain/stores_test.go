package maintain

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/store"
	"holdfast/internal/store/azblob"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/s3"
	"holdfast/internal/store/storetest/azurite"
	"holdfast/internal/store/storetest/versitygw"
)

const (
	// storeSteps is how long a history on a real store is: some two thousand
	// requests. In memory they are six times as long.
	storeSteps = 20
	// storeCrashes is how many calls of the crash script's pass are tried on
	// each: another two thousand requests for each.
	storeCrashes = 1
)

// opener opens a container of a store of its own for each history.
type opener func(ctx context.Context, prefix string) (store.Store, error)

// realStores are what a container can be kept in, each started when it is
// asked for.
var realStores = map[string]func(*testing.T) opener{
	"dir": func(t *testing.T) opener {
		return func(context.Context, string) (store.Store, error) { return dir.Open(t.TempDir()) }
	},
	"azurite":       func(t *testing.T) opener { return onAzurite(t, false) },
	"azurite-tls":   func(t *testing.T) opener { return onAzurite(t, true) },
	"versitygw":     func(t *testing.T) opener { return onVersity(t, false) },
	"versitygw-tls": func(t *testing.T) opener { return onVersity(t, true) },
}

func onAzurite(t *testing.T, tls bool) opener {
	a := azurite.Start(t, azurite.Options{TLS: tls})
	if err := a.MakeContainer(t.Context(), "trial"); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, prefix string) (store.Store, error) {
		return azblob.Open(ctx, a.URL("trial", prefix), azblob.Options{Getenv: env(map[string]string{"AZURE_STORAGE_KEY": azurite.Key})})
	}
}

func onVersity(t *testing.T, tls bool) opener {
	v := versitygw.Start(t, versitygw.Options{TLS: tls, KeepAlive: true})
	if err := v.MakeBucket(t.Context(), "trial", false); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, prefix string) (store.Store, error) {
		return s3.Open(ctx, v.URL("trial", prefix), s3.Options{Getenv: env(v.Env())})
	}
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// backs makes the backings of histories, as the appliance opens a store, with
// the tests' dates. asked counts the calls.
func backs(t *testing.T, open opener, asked *atomic.Int64) func(*journaltest.Clock) backing {
	return func(c *journaltest.Clock) backing {
		driver, err := open(t.Context(), dr.NewUUID().String())
		if err != nil {
			t.Fatal(err)
		}
		st := retry.New(driver, retry.Options{First: 5 * time.Millisecond, Most: 100 * time.Millisecond, Elapsed: 2 * time.Minute})
		return &dated{Store: &counted{st, asked}, clock: c}
	}
}

// counted counts calls to a store, roughly: those there are most of.
type counted struct {
	store.Store
	n *atomic.Int64
}

func (s *counted) Create(ctx context.Context, key string, body []byte) error {
	s.n.Add(1)
	return s.Store.Create(ctx, key, body)
}

func (s *counted) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	s.n.Add(1)
	return s.Store.ReadRange(ctx, key, p, off)
}

func (s *counted) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	s.n.Add(1)
	return s.Store.List(ctx, prefix, after, limit)
}

func (s *counted) DeleteBatch(ctx context.Context, keys []string) []error {
	s.n.Add(1)
	return store.DeleteAll(ctx, s.Store, keys)
}

// TestRealStores plays a shorter history of the model, and some crashes of a
// pass, on a file system and on every emulator, over plain connections and
// over TLS.
func TestRealStores(t *testing.T) {
	base := seed(t)
	calls, broke := script(t, nil, base, variant{}, -1, false, false)
	if broke != "" {
		t.Fatal(broke)
	}
	for name, start := range realStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			back := backs(t, start(t), &asked)
			w := newWorld(t, base, testPolicy(), back)
			if why := w.play(storeSteps); why != "" {
				t.Fatalf("HOLDFAST_SEED=%d: %s", base, why)
			}
			rng := rand.New(rand.NewPCG(base, uint64(len(name))))
			var tried []string
			for range storeCrashes {
				k, late, once := rng.IntN(calls), rng.IntN(2) == 0, rng.IntN(2) == 0
				if _, broke := script(t, back, base, variant{}, k, late, once); broke != "" {
					t.Fatalf("HOLDFAST_SEED=%d, call %d of %d, answer lost %v, lives on %v: %s", base, k, calls, late, once, broke)
				}
				tried = append(tried, fmt.Sprint(k))
			}
			t.Logf("seed %d: a history of %d steps; a pass of %d calls stopped at %s; %d requests", base, storeSteps, calls, strings.Join(tried, " and "), asked.Load())
		})
	}
}
