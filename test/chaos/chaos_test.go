package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
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

	c := &chaos{s: s, l: l, rng: rand.New(rand.NewPCG(seed, 0)), log: t.Logf}
	for i, f := range draw(c.rng, n) {
		if err := c.round(t.Context(), i, f); err != nil {
			t.Fatalf("fault %d, %q: %v", i+1, f.name, err)
		}
	}
	must(t, c.end(t.Context()))
}

// draw returns n faults: each kind once before any comes twice.
func draw(rng *rand.Rand, n int) (out []fault) {
	for len(out) < n {
		for _, i := range rng.Perm(len(faults)) {
			out = append(out, faults[i])
		}
	}
	return out[:n]
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
	if err := c.s.problems(); err != nil {
		return err
	}
	v, err := c.s.view(ctx)
	if err != nil {
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
	points := v.points()
	if err := v.check(ctx, &points[len(points)-1], c.l); err != nil {
		return err
	}
	return v.fsck(ctx)
}
