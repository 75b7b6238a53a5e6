package cli

import (
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"holdfast/internal/maintain"
)

// progress shows long work on stderr, where that is a terminal: a bar with rate
// and time left. Elsewhere it is quiet: what comes of the work is said at its
// end, and logs stay short. Safe for concurrent use.
type progress struct {
	bytes bool
	start time.Time
	from  atomic.Int64 // where set began: the rate is of what was done since

	bars *mpb.Progress // nil: no terminal
	bar  *mpb.Bar
	once sync.Once
}

// newProgress starts showing work called what. Values are bytes, or items.
func newProgress(out io.Writer, what string, bytes bool) *progress {
	p := &progress{bytes: bytes, start: time.Now()}
	if f, ok := out.(*os.File); ok && isTerminal(f) {
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
		p.bar = p.bars.AddBar(0,
			mpb.PrependDecorators(decor.Name(what+" ")),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
				return p.line(s.Current, s.Total, time.Since(p.start))
			})))
	}
	return p
}

// set tells how far the work is; a total of 0 is not known.
func (p *progress) set(done, total int64) {
	if p.bar == nil {
		return
	}
	p.once.Do(func() { p.from.Store(done) })
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(done)
}

// line says how far the work is, how fast it goes and how long it takes yet.
func (p *progress) line(done, total int64, elapsed time.Duration) string {
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	if p.bytes {
		count = sizeOf
	}
	rate := float64(max(0, done-p.from.Load())) / max(elapsed.Seconds(), 0.001)
	text := count(done)
	if total > 0 {
		text += " / " + count(total)
	}
	text += "  " + count(int64(rate)) + "/s"
	if total > 0 {
		eta := "?"
		if rate > 0 && total >= done {
			eta = time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second).String()
		}
		text += "  ETA " + eta
	}
	return text
}

// finish removes the bar.
func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}

// stages shows work that has several, one bar after the other. The zero value
// with out set is ready. It is used by one goroutine.
type stages struct {
	out   io.Writer
	stage string
	bar   *progress
}

// set tells how far a stage is; the one before has ended then.
func (s *stages) set(stage string, bytes bool, done, total int64) {
	if s.bar == nil || stage != s.stage {
		s.finish()
		s.stage, s.bar = stage, newProgress(s.out, stage, bytes)
	}
	s.bar.set(done, total)
}

// tell is set for a maintenance pass.
func (s *stages) tell(p maintain.Progress) { s.set(p.Stage, p.Bytes, p.Done, p.Total) }

// finish removes the bar of the last stage.
func (s *stages) finish() {
	if s.bar != nil {
		s.bar.finish()
		s.bar = nil
	}
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
