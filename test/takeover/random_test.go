package takeover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
	"holdfast/internal/nbd"
	"holdfast/test/rig"
)

// number is a number from the environment, for longer runs.
func number(name string, standard uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return standard
}

// wild is a site to which anything happens at any time.
type wild struct {
	*site
	rng  *rand.Rand
	next atomic.Uint64 // block to be written
	log  []string      // what was done in this cycle
}

// TestTakeOversAndPausesAtRandom: while writers write, processes follow each
// other, and people pause, resume and sync before, during and after; when all are
// quiet, what is recovered from the newest point is the disk. HOLDFAST_SEED and
// HOLDFAST_TAKEOVER_N make it another, or a longer, run.
func TestTakeOversAndPausesAtRandom(t *testing.T) {
	seed := number("HOLDFAST_SEED", rand.Uint64()>>33)
	t.Logf("HOLDFAST_SEED=%d", seed)
	w := &wild{site: newSite(t), rng: rand.New(rand.NewPCG(seed, 7))}
	host := w.host()
	w.await("the first copy is complete", func(st *iofilter.Status) bool {
		return len(st.Disks) == 1 && st.Disks[0].DirtyBytes == 0 && st.State == iofilter.Streaming
	})
	w.sameAsDisk()
	for cycle := range number("HOLDFAST_TAKEOVER_N", 3) {
		w.log = nil
		quiet := w.writers(1 + w.rng.IntN(3))
		w.nap(300)
		for range 1 + w.rng.IntN(3) {
			host = w.step(host)
		}
		w.call("/resume")
		w.nap(100)
		quiet()
		want, err := os.ReadFile(w.Path("disk.raw"))
		must(t, err)
		w.await("it has sent everything", func(st *iofilter.Status) bool {
			return st.Disks[0].DirtyBytes == 0 && st.State == iofilter.Streaming && st.Stream.Durable+1 == st.Stream.Next
		})
		until := time.Now().Add(patience)
		for !bytes.Equal(w.recovered(), want) {
			if time.Now().After(until) {
				t.Fatalf("cycle %d: no point is what the disk holds after %s", cycle, strings.Join(w.log, ", "))
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	must(t, host.Stop(patience))
}

// step has one process follow another, with pauses around.
func (w *wild) step(host *rig.Process) *rig.Process {
	w.T.Helper()
	if w.rng.IntN(2) == 0 {
		w.call("/pause")
		w.nap(100)
	}
	if w.rng.IntN(3) == 0 { // and it is not over when the next one comes
		w.ask("/sync", map[string]string{"mode": []string{"bitmap", "hash", "full"}[w.rng.IntN(3)]})
	}
	host.Doom()
	w.log = append(w.log, "takeover")
	next := w.host("--takeover")
	if w.rng.IntN(3) == 0 { // in the middle of it
		w.call([]string{"/pause", "/resume"}[w.rng.IntN(2)])
	}
	if err := w.awaitEnd(host); err != nil {
		w.T.Fatal(err)
	}
	w.nap([]int{1, 40, 400}[w.rng.IntN(3)])
	if w.rng.IntN(2) == 0 {
		w.call("/resume")
	}
	return next
}

// nap waits for up to so many milliseconds.
func (w *wild) nap(most int) {
	time.Sleep(time.Duration(w.rng.IntN(most*1000)) * time.Microsecond)
}

// ask asks whoever answers, again while nobody does.
func (w *wild) ask(path string, body any) {
	w.T.Helper()
	w.log = append(w.log, path)
	until := time.Now().Add(patience)
	for {
		err := control.CallLocal(w.T.Context(), w.Path("host.sock"), path, body, &struct{}{})
		if err == nil {
			return
		}
		if !errs.Is(err, errs.Unavailable) || time.Now().After(until) {
			w.T.Fatal(path, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// call pauses or resumes; what is answered holds.
func (w *wild) call(path string) {
	w.T.Helper()
	w.ask(path, nil)
	paused := path == "/pause"
	w.await("it is so", func(st *iofilter.Status) bool {
		return len(st.Disks) == 1 && (st.Disks[0].State == iofilter.PausedUser) == paused
	})
}

// writers write numbered blocks over one connection until they are quieted.
func (w *wild) writers(n int) (quiet func()) {
	w.T.Helper()
	c, err := nbd.Dial(w.T.Context(), "unix", w.Path("disk.nbd"), nbd.DialOptions{Export: "disk0"})
	must(w.T, err)
	stop := make(chan struct{})
	var all sync.WaitGroup
	failed := make([]error, n)
	for i := range n {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				at := w.next.Add(1)
				if _, err := c.WriteAt(context.Background(), block(at), int64(at%blocks)*blockSize, 0); err != nil {
					failed[i] = fmt.Errorf("write %d: %w", at, err)
					return
				}
			}
		})
	}
	return func() {
		w.T.Helper()
		close(stop)
		all.Wait()
		must(w.T, errors.Join(append(failed, c.Close())...))
	}
}
