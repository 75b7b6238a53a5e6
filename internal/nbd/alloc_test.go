package nbd_test

import (
	"io"
	"runtime"
	"testing"
)

// TestNoAllocations counts heap allocations of the whole process while a
// client that makes none keeps requests in flight.
func TestNoAllocations(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 4 << 20
		for _, c := range []struct {
			name  string
			cmd   uint16
			flags uint16
			n     uint32
		}{{"write", 1, 0, 4096}, {"forced write", 1, 1, 4096}, {"odd write", 1, 0, 5000}, {"read", 0, 0, 4096}, {"big read", 0, 0, 256 << 10}, {"big write", 1, 0, 256 << 10}, {"flush", 3, 0, 0}} {
			t.Run(c.name, func(t *testing.T) {
				w := wire{t, s.start(t).raw(t)}.enter(false)
				batch, reply := pipelined(c.cmd, c.flags, c.n, 8)
				const rounds = 100
				run := func(n int) {
					sent := make(chan error, 1)
					go func() {
						for range n {
							if _, err := w.nc.Write(batch); err != nil {
								sent <- err
								return
							}
						}
						sent <- nil
					}()
					for range n {
						if _, err := io.ReadFull(w.nc, reply); err != nil {
							t.Fatal(err)
						}
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
				}
				best := ^uint64(0)
				// Pools fill and goroutines start in the first rounds, and the
				// runtime's own goroutines allocate now and then: one clean
				// round of many is the steady state. (What is left then, a few
				// dozen where processors are short, are threads and wait queues of
				// the runtime; one allocation a request would be rounds*8.)
				const most = rounds * 8 / 4
				for try := 0; try < 30 && best > most; try++ {
					var a, b runtime.MemStats
					runtime.ReadMemStats(&a)
					run(rounds)
					runtime.ReadMemStats(&b)
					best = min(best, b.Mallocs-a.Mallocs)
				}
				if best > most {
					t.Errorf("%d allocations for %d requests", best, rounds*8)
				}
			})
		}
	})
}

// pipelined builds a batch of requests, and room for its replies.
func pipelined(cmd, flags uint16, n uint32, depth int) (batch, reply []byte) {
	size := 16
	if cmd == 0 {
		size += int(n)
	}
	for i := range depth {
		batch = be.AppendUint32(batch, reqMagic)
		batch = be.AppendUint16(batch, flags)
		batch = be.AppendUint16(batch, cmd)
		batch = be.AppendUint64(batch, uint64(i))
		off := uint64(i) * 300 << 10
		if cmd == 3 {
			off = 0
		}
		batch = be.AppendUint64(batch, off)
		batch = be.AppendUint32(batch, n)
		if cmd == 1 {
			batch = append(batch, make([]byte, n)...)
		}
	}
	return batch, make([]byte, depth*size)
}
