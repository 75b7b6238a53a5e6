package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/test/rig"
)

// shortRun is how many faults a run without HOLDFAST_CHAOS_N has.
const shortRun = 4

// TestMain lets the test binary serve as the product's.
func TestMain(m *testing.M) {
	rig.Main()
	os.Exit(m.Run())
}

// number reads a positive number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 {
		t.Fatalf("%s=%q is no positive number", name, text)
	}
	return n
}

// TestChaos does the faults of the package's words.
func TestChaos(t *testing.T) {
	n := int(number(t, "HOLDFAST_CHAOS_N", shortRun))
	seed := number(t, "HOLDFAST_CHAOS_SEED", rand.Uint64()>>1)
	t.Logf("%d faults, seed %d (repeat with HOLDFAST_CHAOS_SEED)", n, seed)
	image, err := ledger.BuildImage(t.Context())
	must(t, err)
	s := newSite(t, image)
	p, err := qemu.New(qemu.Options{DieWithParent: true})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	l := &load{s: s, provider: p}
	l.accel, _, err = p.Accelerator(t.Context())
	must(t, err)
	must(t, l.bootAll(t.Context(), 0, 1))
	l.drive(t.Context())
	t.Cleanup(func() { _ = l.halt() }) // what ended it was told before
	must(t, s.waitProtected(t.Context(), time.Now()))

	c := &chaos{s: s, l: l, kept: map[int64]bool{}, rng: rand.New(rand.NewPCG(seed, 0)), log: t.Logf}
	todo := draw(c.rng, n, os.Getenv("HOLDFAST_CHAOS_ONLY"))
	if len(todo) == 0 {
		t.Fatal("no fault is called so")
	}
	for i, f := range todo {
		if err := c.round(t.Context(), i, f); err != nil {
			t.Fatalf("fault %d, %q: %v", i+1, f.name, err)
		}
	}
	must(t, c.end(t.Context()))
}

// draw returns n faults of those whose names have part in them: each kind once
// before any comes twice.
func draw(rng *rand.Rand, n int, part string) (out []fault) {
	from := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !strings.Contains(f.name, part) })
	for len(from) > 0 && len(out) < n {
		for _, i := range rng.Perm(len(from)) {
			out = append(out, from[i])
		}
	}
	return out[:min(n, len(out))]
}

// round does one fault and checks all that must hold after it.
func (c *chaos) round(ctx context.Context, i int, f fault) error {
	c.l.stall()
	began := time.Now()
	if err := f.do(c, ctx); err != nil {
		return err
	}
	healed := time.Now()
	if err := c.l.goesOn(ctx); err != nil {
		return err
	}
	on := time.Now()
	if err := c.s.waitProtected(ctx, healed); err != nil {
		return err
	}
	whole := time.Now()
	if err := c.s.Problems(); err != nil {
		return err
	}
	v, err := c.s.view(ctx)
	if err != nil {
		return err
	}
	if err := c.keeps(v); err != nil {
		return err
	}
	if err := v.checkSome(ctx, c.rng, c.l); err != nil {
		return err
	}
	if err := c.thrifty(ctx); err != nil {
		return err
	}
	c.log("%3d  %-42s lasted %5.1f s, guests on after %4.1f s, protected after %5.1f s, longest time without a commit %4.1f s, rows %v, points %d",
		i+1, f.name, healed.Sub(began).Seconds(), on.Sub(healed).Seconds(), whole.Sub(healed).Seconds(), c.l.stall().Seconds(), c.l.rows(), len(v.points()))
	return nil
}

// slot and keptFor are retention's: of each slot one checkpoint stays, for so
// long, less what a clock may be ahead.
const (
	slot    = 5 * time.Second
	keptFor = time.Hour - nearMost
)

// keeps demands that no stretch of the history is gone that had a recoverable
// checkpoint and is to be kept.
func (c *chaos) keeps(v *view) error {
	now := map[int64]bool{}
	for _, p := range v.points() {
		now[p.Time.Truncate(slot).Unix()] = true
	}
	for at := range c.kept {
		if !now[at] && time.Since(time.Unix(at, 0)) < keptFor {
			return fmt.Errorf("of the %v from %v on no checkpoint is listed as recoverable any more", slot, time.Unix(at, 0))
		}
	}
	maps.Copy(c.kept, now)
	return nil
}

// end checks what a whole run must have left.
func (c *chaos) end(ctx context.Context) error {
	if err := c.l.halt(); err != nil {
		return fmt.Errorf("the guests had stopped: %w", err)
	}
	if err := c.s.waitProtected(ctx, time.Now()); err != nil {
		return err
	}
	v, err := c.s.view(ctx)
	if err != nil {
		return err
	}
	if err := c.keeps(v); err != nil {
		return err
	}
	points := v.points()
	if err := v.check(ctx, &points[len(points)-1], c.l); err != nil {
		return err
	}
	return v.fsck(ctx)
}
