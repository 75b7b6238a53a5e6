package iofilter

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// knob is a number from the environment, for longer runs.
func knob(name string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return standard
}

// TestHostChaos lets guests write while the DRVA does whatever a DRVA can do, and
// asks for two things: nobody waited for long, and in the end the log rebuilds
// every disk. HOLDFAST_FILTER_N runs and HOLDFAST_FILTER_SEED begins elsewhere.
func TestHostChaos(t *testing.T) {
	first := knob("HOLDFAST_FILTER_SEED", 1)
	for seed := first; seed < first+knob("HOLDFAST_FILTER_N", 24); seed++ {
		rule := dr.AckRule(seed % 3)
		t.Run(fmt.Sprintf("seed %d %v", seed, rule), func(t *testing.T) {
			bubble(t, func(t *testing.T) { chaos(t, uint64(seed), rule) })
		})
	}
}

func chaos(t *testing.T, seed uint64, rule dr.AckRule) {
	r := newRig(t, rule, 5<<20+512, 1<<20)
	r.drva.gather = seed%4 < 2
	for i, m := range r.mem {
		rng := source(seed + uint64(i)<<32)
		if seed%2 == 0 {
			var mu sync.Mutex
			m.slow = func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(rng.IntN(3)) * time.Duration(rng.IntN(3000)) * time.Microsecond
			}
			m.lag = m.slow
		}
	}
	r.run()
	defer r.end()
	stop := make(chan struct{})
	var troubles, guests sync.WaitGroup
	troubles.Go(func() { r.trouble(source(seed^0xabcdef), stop) })
	for g := range 6 {
		guests.Go(func() { r.guest(source(seed*100+uint64(g)), 150) })
	}
	guests.Wait()
	close(stop)
	troubles.Wait()
	r.drva.with(func() {
		if r.drva.hang != nil {
			close(r.drva.hang)
		}
		r.drva.hang, r.drva.down, r.drva.mute, r.drva.volatile = nil, false, false, false
		r.drva.commit()
	})
	r.drva.cutLink()
	r.settle(10 * time.Minute)
	r.sameImages()
}

// guest issues n random operations, a few at a time, with pauses.
func (r *rig) guest(rng interface{ IntN(int) int }, n int) {
	var flying []*call
	for range n {
		disk := rng.IntN(len(r.mem))
		size := int(r.mem[disk].Size())
		off := rng.IntN(size)
		length := 1 + rng.IntN(min(size-off, 1<<(2+rng.IntN(18))))
		if rng.IntN(3) > 0 { // most are whole blocks
			off &^= dr.BlockSize - 1
			length = min(max(length&^(dr.BlockSize-1), dr.BlockSize), size-off)
		}
		kind := nbd.Write
		switch rng.IntN(12) {
		case 0:
			kind = nbd.WriteZeroes
		case 1:
			kind = nbd.Trim
		}
		flying = append(flying, r.submit(disk, kind, int64(off), int64(length), fill(byte(1+rng.IntN(255)), length)))
		if len(flying) > rng.IntN(6) {
			for _, c := range flying {
				if <-c.done; c.err != nil || c.took >= longest {
					r.t.Errorf("an operation took %v, error %v", c.took, c.err)
				}
			}
			flying = nil
		}
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
	}
	for _, c := range flying {
		<-c.done
	}
}

// trouble makes the DRVA misbehave until stop is closed.
func (r *rig) trouble(rng interface{ IntN(int) int }, stop chan struct{}) {
	round := wire.Round(0)
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rng.IntN(400)) * time.Millisecond):
		}
		d := r.drva
		switch rng.IntN(12) {
		case 0:
			d.cutLink()
		case 1, 2:
			d.crash()
		case 3:
			if rng.IntN(3) == 0 {
				d.forget()
			}
		case 4:
			d.with(func() { d.mute = !d.mute && rng.IntN(2) == 0 })
		case 5:
			d.with(func() { d.volatile = !d.volatile })
		case 6:
			d.with(func() { d.down = !d.down && rng.IntN(2) == 0 })
		case 7:
			d.with(func() {
				if d.hang != nil {
					close(d.hang)
					d.hang = nil
				} else if rng.IntN(2) == 0 {
					d.hang = make(chan struct{})
				}
			})
		case 8:
			d.with(func() { d.unsynced[uint16(rng.IntN(2))] = true })
		default:
			round++
			d.round(wire.TypeHold, round)
			time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
			d.round(wire.TypeRelease, round)
			d.round(wire.TypeMark, round+1000000)
		}
	}
}
