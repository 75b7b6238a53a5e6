package main

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"holdfast/internal/journal"
	"holdfast/internal/store/mem"
)

// quickJournal matches the figures of the journal alone.
const quickJournal = "^(merge_|index_|resolve_|maintain_4tib|publish_mb_s|emulator_|requests_per_day|(write|storage)_amplification|restore_from|warm_failover_|failback_)"

// TestQuickJournal measures every figure of the journal once, small: the
// values mean nothing, but all of them are there, and what was restored was
// compared.
func TestQuickJournal(t *testing.T) {
	t.Setenv(asServer, "1")
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := filepath.Join(t.TempDir(), "bench.json")
	if err := measure(ctx, []string{"-out", out, "-quick", "-size", "64MiB", "-only", quickJournal}); err != nil {
		t.Fatal(err)
	}
	var figures []figure
	readJSON(t, out, &figures)
	for _, s := range journalStages() {
		for _, name := range s.names {
			if i := slices.IndexFunc(figures, func(f figure) bool { return f.Name == name }); i < 0 || figures[i].Value <= 0 || figures[i].Unit == "" {
				t.Errorf("%s is missing or is nothing: %+v", name, figures)
			}
		}
	}
}

// TestGuestsAreCompared: a disk that is rebuilt differently from what the
// guests wrote ends the bench.
func TestGuestsAreCompared(t *testing.T) {
	g, err := newGuests(t.Context(), mem.New(), guestsOptions{disks: 2, chunks: 8, seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if err := g.baseline(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := g.verify(t.Context(), "latest", filepath.Join(dir, "same"), g.head); err != nil {
		t.Fatal(err)
	}
	g.head[1][77]++
	if err := g.verify(t.Context(), "latest", filepath.Join(dir, "other"), g.head); !errors.Is(err, errDiffer) {
		t.Fatalf("a block that differs gives %v", err)
	}
}

// TestSyntheticIsChecked: an image that is not the version asked for is
// refused.
func TestSyntheticIsChecked(t *testing.T) {
	s, c, _, err := newSynthetic(t.Context(), filepath.Join(t.TempDir(), "c"), scatter, 3)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{}
	if _, err := b.timeResolve(t.Context(), s, c, 1); err != nil {
		t.Fatal(err)
	}
	h, err := c.History(t.Context(), journal.HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cp, err := h.Find("#3")
	if err != nil {
		t.Fatal(err)
	}
	img, err := h.Resolve(t.Context(), cp)
	if err != nil {
		t.Fatal(err)
	}
	if s.check(img, 2) != nil || s.check(img, 1) == nil {
		t.Fatal("the check does not tell versions apart")
	}
}
