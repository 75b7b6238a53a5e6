package drva

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"time"
)

// giveWay lets a burst of writes pass before publishing. Packing and sealing
// take as much processor time as taking the writes in (64 KiB writes: 130 of
// 270 µs each); where the processors do not suffice for both, the log takes the
// burst and guests are not slowed by what can be done a moment later. It waits
// until the processors are free, the burst has lasted burstMost, or at short
// intervals the greater part of one, or the log is filling up; less than burstLeast is no burst.
func (h *shipper) giveWay(ctx context.Context) error {
	most := min(burstMost, h.s.tuning.Load().Interval*burstOfInterval/100)
	for time.Since(h.caughtUp) < most && yields(h.behindBy(), h.busy.look(time.Now()), time.Since(h.caughtUp), h.logFill()) {
		t := time.NewTimer(pressureSpan)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
	return nil
}

// yields is the rule: whether publishing waits with so many bytes unread, such a
// part of the time in which tasks wait for a processor, a burst that has lasted
// so long, and a log so full.
func yields(backlog int64, contention float64, lasted time.Duration, fill float64) bool {
	return backlog >= burstLeast && contention >= contended && lasted < burstMost && fill < burstFill
}

// behindBy is how many bytes have come in since there was last nothing left to
// read, and were not read yet.
func (h *shipper) behindBy() int64 {
	return int64(h.s.count.bytesIn.Load()) - h.seen
}

func (h *shipper) logFill() float64 {
	u := h.rl.Usage()
	return float64(u.Used) / float64(u.Quota)
}

// pressure tells how contended this machine's processors are: the part of the
// time in which some task that could run had to wait for one. The zero value
// says never, as on a kernel that does not tell.
type pressure struct {
	file  io.ReaderAt
	total time.Duration
	at    time.Time
	part  float64
}

// openPressure opens the kernel's account.
func openPressure() (p *pressure, closeFile func() error) {
	f, err := os.Open("/proc/pressure/cpu")
	if err != nil {
		return &pressure{}, func() error { return nil }
	}
	return &pressure{file: f}, f.Close
}

// look returns the part of the last pressureSpan, or a little more, in which
// a task waited.
func (p *pressure) look(now time.Time) float64 {
	if p.file == nil || now.Sub(p.at) < pressureSpan {
		return p.part
	}
	total, ok := p.read()
	if p.part = 0; ok && !p.at.IsZero() {
		p.part = float64(total-p.total) / float64(now.Sub(p.at))
	}
	p.total, p.at = total, now
	return p.part
}

// read returns how long, ever, some task waited.
func (p *pressure) read() (time.Duration, bool) {
	var raw [256]byte
	n, err := p.file.ReadAt(raw[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false
	}
	line, _, _ := bytes.Cut(raw[:n], []byte("\n"))
	_, text, ok := bytes.Cut(line, []byte("total="))
	us, err := strconv.ParseInt(string(text), 10, 64)
	return time.Duration(us) * time.Microsecond, ok && err == nil
}
