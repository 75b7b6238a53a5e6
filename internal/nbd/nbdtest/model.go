package nbdtest

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"holdfast/internal/nbd"
)

// model compares the disk with one in memory under random operations over
// several connections. The disk is dealt out in odd-sized stripes, so that
// actors share blocks but never bytes: for each, the outcome is determined.
func model(t *testing.T, dial Dial) {
	const actors, stripe, stripes = 4, 3001, 400
	r := seeded(t)
	want := make([]byte, actors*stripe*stripes)
	var all sync.WaitGroup
	n := steps(t, 150)
	for a := range actors {
		actor := actor{t: t, c: dial(t), r: rand.New(rand.NewPCG(r.Uint64(), 2)), want: want, buf: make([]byte, stripe)}
		all.Go(func() {
			for range n {
				k := actor.r.IntN(stripes)
				if !actor.step(int64((k*actors + a) * stripe)) {
					return
				}
			}
		})
	}
	all.Wait()
	if !t.Failed() {
		expect(t, dial(t), want, 0)
	}
}

// actor does random operations inside stripes that are its own.
type actor struct {
	t    *testing.T
	c    *nbd.Client
	r    *rand.Rand
	want []byte
	buf  []byte
}

// step does one operation in the stripe at base.
func (a *actor) step(base int64) bool {
	n := 1 + a.r.IntN(len(a.buf))
	off := base + int64(a.r.IntN(len(a.buf)-n+1))
	want := a.want[off : off+int64(n)]
	ctx := a.t.Context()
	var err error
	switch a.r.IntN(10) {
	case 0, 1, 2, 3:
		fill(a.r, want)
		_, err = a.c.WriteAt(ctx, want, off, nbd.Flags(a.r.IntN(16)/15)&nbd.FUA)
	case 4, 5, 6:
		got := a.buf[:n]
		if _, err = a.c.ReadAt(ctx, got, off); err == nil && !bytes.Equal(got, want) {
			a.t.Errorf("read %d at %d differs from the model", n, off)
			return false
		}
	case 7:
		clear(want)
		err = a.c.WriteZeroes(ctx, off, int64(n), nbd.Flags(a.r.IntN(2))*nbd.NoHole)
	case 8:
		if err = a.c.Trim(ctx, off, int64(n), 0); err == nil {
			// What a trimmed range reads as is the server's choice: give it a value again.
			fill(a.r, want)
			_, err = a.c.WriteAt(ctx, want, off, 0)
		}
	case 9:
		err = a.c.Flush(ctx)
	}
	if err != nil {
		a.t.Errorf("operation on %d at %d: %v", n, off, err)
	}
	return err == nil
}
