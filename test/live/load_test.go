package live

import (
	"context"
	"fmt"
	"net"
	"sort"
	"sync"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/errs"
)

const (
	// patience bounds waits for what takes moments: an emulated guest on a
	// loaded machine.
	patience = 4 * time.Minute
	// enough is how many commits show that a guest goes on.
	enough = 20
)

// ack is a row and when it was seen to be acknowledged.
type ack struct {
	row uint64
	at  time.Time
}

// load is one guest that commits row after row, over all its boots. Its methods
// are the test's goroutine's.
type load struct {
	t       *testing.T
	console *ledger.Console
	stop    context.CancelFunc
	ended   chan error // how the load ended

	mu   sync.Mutex
	acks []ack // guarded by mu; rising
}

// attach connects to a guest that was started paused, lets it run by resume,
// waits for it and demands a ledger with all it had acknowledged.
func (l *load) attach(serial string, resume func()) {
	l.t.Helper()
	had := l.rows()
	l.console = ledger.NewConsole(dialSoon(l.t, serial))
	l.t.Cleanup(func() { l.console.Close() })
	resume()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	b, err := l.console.WaitReady(ctx)
	must(l.t, err)
	if b.Bad > 0 || b.Max < had {
		l.t.Fatalf("the guest came up with max=%d bad=%d %q, but had acknowledged %d", b.Max, b.Bad, b.Problems, had)
	}
}

// start commits one row after the other until halt.
func (l *load) start() {
	l.t.Helper()
	ctx, stop := context.WithCancel(l.t.Context())
	n, _, err := l.console.Status(ctx)
	must(l.t, err)
	l.stop, l.ended = stop, make(chan error, 1)
	go func() {
		for n++; ; n++ {
			if err := l.console.Put(ctx, n, 0, talk.DefaultBytes); err != nil {
				l.ended <- err
				return
			}
			l.mu.Lock()
			l.acks = append(l.acks, ack{n, time.Now()})
			l.mu.Unlock()
		}
	}()
	l.goesOn("it was started")
}

// halt ends the load and demands that it had not ended by itself.
func (l *load) halt() {
	l.t.Helper()
	l.stop()
	if err := <-l.ended; !errs.Is(err, errs.Canceled) {
		l.t.Fatalf("the guest's commits had ended: %v", err)
	}
}

// powerOff ends the load and the guest.
func (l *load) powerOff() {
	l.t.Helper()
	l.halt()
	must(l.t, l.console.PowerOff(l.t.Context()))
	l.console.Close()
}

// rows is the highest row acknowledged.
func (l *load) rows() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.acks) == 0 {
		return 0
	}
	return l.acks[len(l.acks)-1].row
}

// before is the highest row seen acknowledged before t.
func (l *load) before(t time.Time) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.acks), func(i int) bool { return !l.acks[i].at.Before(t) })
	if i == 0 {
		return 0
	}
	return l.acks[i-1].row
}

// gap is the longest time without a commit that ended after t.
func (l *load) gap(t time.Time) (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.acks) - 1; i > 0 && l.acks[i].at.After(t); i-- {
		longest = max(longest, l.acks[i].at.Sub(l.acks[i-1].at))
	}
	return longest
}

// goesOn waits for some more commits.
func (l *load) goesOn(after string) {
	l.t.Helper()
	from := l.rows()
	l.until("the guest commits on after "+after, func() bool {
		select {
		case err := <-l.ended:
			l.t.Fatalf("the guest stopped after %s: %v", after, err)
		default:
		}
		return l.rows() >= from+enough
	})
}

func (l *load) until(what string, is func() bool) {
	l.t.Helper()
	until(l.t, what, is)
}

// until waits for a condition.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// dialSoon connects to a socket that is about to be there.
func dialSoon(t *testing.T, path string) (conn net.Conn) {
	t.Helper()
	until(t, "there is "+path, func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", path)
		return err == nil
	})
	return conn
}

// checkDisk demands a whole ledger of at least so many rows.
func checkDisk(ctx context.Context, path string, rows uint64) error {
	r, err := ledger.CheckImage(ctx, path)
	if err == nil && (r.Bad > 0 || r.Max < rows) {
		err = fmt.Errorf("%s holds a ledger of %d rows with %d faults %q, %d were acknowledged", path, r.Max, r.Bad, r.Problems, rows)
	}
	return err
}
