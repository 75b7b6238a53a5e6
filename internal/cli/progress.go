package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressEvery is how often progress is printed where there is no terminal.
const progressEvery = 5 * time.Second

// progress shows long work on stderr: a bar with rate and time left on a
// terminal, a line every few seconds elsewhere. Safe for concurrent use.
type progress struct {
	what  string
	bytes bool
	out   io.Writer
	start time.Time

	bars *mpb.Progress
	bar  *mpb.Bar

	mu   sync.Mutex
	last time.Time // guarded by mu
	done int64     // guarded by mu
}

// newProgress starts showing work called what. Values are bytes, or items.
func newProgress(out io.Writer, what string, bytes bool) *progress {
	p := &progress{what: what, bytes: bytes, out: out, start: time.Now(), last: time.Now()}
	if f, ok := out.(*os.File); ok && isTerminal(f) {
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
		p.bar = p.bars.AddBar(0,
			mpb.PrependDecorators(decor.Name(what+" ")),
			mpb.AppendDecorators(p.counters(), decor.Name("  "), p.rate(), decor.Name("  ETA "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	return p
}

func (p *progress) counters() decor.Decorator {
	if p.bytes {
		return decor.CountersKibiByte("% .1f / % .1f")
	}
	return decor.CountersNoUnit("%d / %d")
}

func (p *progress) rate() decor.Decorator {
	if p.bytes {
		return decor.AverageSpeed(decor.SizeB1024(0), "% .1f")
	}
	return decor.AverageSpeed(0, "%.0f/s")
}

// set tells how far the work is.
func (p *progress) set(done, total int64) {
	if p.bar != nil {
		p.bar.SetTotal(total, false)
		p.bar.SetCurrent(done)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < progressEvery || done == p.done {
		return
	}
	p.last, p.done = now, done
	fmt.Fprintln(p.out, p.line(done, total, now.Sub(p.start)))
}

// line renders progress for a log file.
func (p *progress) line(done, total int64, elapsed time.Duration) string {
	rate := float64(done) / max(elapsed.Seconds(), 0.001)
	eta := "?"
	if rate > 0 && total >= done {
		eta = time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	if p.bytes {
		return fmt.Sprintf("%s %s of %s, %s/s, ETA %s", p.what, sizeOf(done), sizeOf(total), sizeOf(int64(rate)), eta)
	}
	return fmt.Sprintf("%s %d of %d, %.0f/s, ETA %s", p.what, done, total, rate, eta)
}

// finish removes the bar.
func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
