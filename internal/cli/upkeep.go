package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
)

const (
	// upkeepRetry is the time between two tries to begin maintenance where the
	// store did not answer.
	upkeepRetry = time.Minute
	// upkeepAsk is how long a status waits for the store: it must answer while
	// the store does not.
	upkeepAsk = 2 * time.Second
)

// upkeep runs a Maintainer beside something else. It never fails what it runs
// beside: what goes wrong is in its status. Safe for concurrent use.
type upkeep struct {
	c    *journal.Container
	text policyText
	opts maintain.Options
	log  *slog.Logger
	keys *keyWatch // of a process that does nothing else; nil: somebody else's

	mu   sync.Mutex // guards all below
	m    *maintain.Maintainer
	why  string // m is nil: why
	turn int    // of text: another one with each change
	stop func() // ends the run of m; nil: it does not run
}

// upkeepStatus is how maintenance stands, on a status socket.
type upkeepStatus struct {
	maintain.Status
	Waiting   string         `json:"waiting,omitempty"` // why it could not begin
	Forecasts []forecastView `json:"forecasts,omitempty"`
}

// newUpkeep returns what will maintain one timeline of c: by what text names,
// for the rest by what the container remembers when it begins.
func newUpkeep(c *journal.Container, text policyText, opts maintain.Options) *upkeep {
	return &upkeep{c: c, text: text, opts: opts, log: opts.Logger}
}

// open begins maintenance. Kind Invalid for what no later try would mend.
func (u *upkeep) open(ctx context.Context) error {
	u.mu.Lock()
	text, turn := u.text, u.turn
	u.mu.Unlock()
	m, err := u.begin(ctx, text)
	u.mu.Lock()
	defer u.mu.Unlock()
	if turn != u.turn {
		return errRetuned
	}
	u.m, u.why = m, ""
	if err != nil {
		u.why = err.Error()
	}
	return err
}

func (u *upkeep) begin(ctx context.Context, text policyText) (*maintain.Maintainer, error) {
	opts := u.opts
	if err := text.apply(&maintain.Policy{}); err != nil {
		return nil, err
	}
	if text.empty() {
		return maintain.New(ctx, u.c, opts)
	}
	base, err := maintain.New(ctx, u.c, opts) // finds the timeline
	if err != nil {
		return nil, err
	}
	opts.Timeline = base.Timeline()
	p, _, err := policyOf(ctx, u.c, opts.Timeline)
	if err != nil {
		return nil, err
	}
	if err := text.apply(&p); err != nil {
		return nil, err
	}
	opts.Policy = &p
	return maintain.New(ctx, u.c, opts)
}

// openLater is open for who must not wait for it: an error that may pass is
// left to run.
func (u *upkeep) openLater(ctx context.Context) error {
	err := u.open(ctx)
	switch errs.KindOf(err) {
	case errs.Transient, errs.Unavailable, errs.Corrupt, errs.NotFound:
		u.log.Warn("maintenance cannot begin yet", "err", err)
		return nil
	}
	return err
}

func (u *upkeep) maintainer() *maintain.Maintainer {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.m
}

// run maintains until ctx ends.
func (u *upkeep) run(ctx context.Context) error {
	for {
		for u.maintainer() == nil {
			err := u.open(ctx)
			if err == nil {
				u.log.Info("maintenance begins")
				break
			}
			if errors.Is(err, errRetuned) {
				continue
			}
			timer := time.NewTimer(upkeepRetry)
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case <-timer.C:
			}
		}
		if err := u.runOne(ctx); ctx.Err() != nil || u.maintainer() != nil {
			return err
		}
	}
}

// errRetuned is how beginning ends when the settings were changed meanwhile.
var errRetuned = errs.New("gc", errs.Transient, "maintenance", "its settings were changed meanwhile")

// runOne runs the maintainer that there is until ctx ends or it is to be another one.
func (u *upkeep) runOne(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u.mu.Lock()
	m := u.m
	u.stop = cancel
	u.mu.Unlock()
	if m == nil {
		return nil
	}
	return m.Run(ctx)
}

// retune has maintenance go by other settings: the pass under way is given up, and the
// next begins by them.
func (u *upkeep) retune(text policyText) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.text, u.m, u.turn = text, nil, u.turn+1
	if u.stop != nil {
		u.stop()
	}
}

// beside runs main, and maintenance for as long as main runs. What it returns
// is main's.
func (u *upkeep) beside(main func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			if err := u.run(ctx); ctx.Err() == nil {
				u.log.Error("maintenance ended", "err", err)
			}
		})
		return main(ctx)
	}
}

// status tells how maintenance stands, within upkeepAsk.
func (u *upkeep) status(ctx context.Context) *upkeepStatus {
	u.mu.Lock()
	m, s := u.m, &upkeepStatus{}
	if m == nil {
		s.Waiting = u.why
	}
	u.mu.Unlock()
	if m == nil {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, upkeepAsk)
	defer cancel()
	st, err := m.Status(ctx)
	s.Status = st
	if err != nil && st.LastError == "" {
		s.Waiting = err.Error() // before its first pass, and the store does not answer
	}
	if f := st.Forecasts; f != nil && len(f.Time) > 0 {
		if v, err := forecast(&st.Report, nil); err == nil {
			s.Forecasts = v.Forecasts
		}
	}
	return s
}

// ask passes a local /gc call on.
func (u *upkeep) ask(body []byte) (any, error) {
	var r gcRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, errs.E("gc now", errs.Invalid, "request", err)
	}
	m := u.maintainer()
	if m == nil {
		return nil, errs.New("gc now", errs.Unavailable, "maintenance", "it could not begin yet").
			WithRemedy("see why with: holdfast status SOCKET")
	}
	r.ask(m)
	m.Wake()
	return map[string]bool{"asked": true}, nil
}

// gcWatchStatus is what "gc run --watch" answers on its status socket.
type gcWatchStatus struct {
	Maintenance *upkeepStatus `json:"maintenance"`
	DataKey     *keyStatus    `json:"data_key,omitempty"`
}

// calls are the local calls of a process that does nothing but maintain.
func (u *upkeep) calls() map[string]control.Handler {
	return map[string]control.Handler{
		"/status": func(ctx context.Context, _ []byte) (any, error) {
			s := gcWatchStatus{Maintenance: u.status(ctx)}
			if u.keys != nil {
				k := u.keys.status()
				s.DataKey = &k
			}
			return s, nil
		},
		"/gc": func(_ context.Context, body []byte) (any, error) { return u.ask(body) },
	}
}

// printMaintenance renders the status of maintenance; nil: there is none here.
func printMaintenance(w io.Writer, s *upkeepStatus) {
	if s == nil {
		fmt.Fprintln(w, "maintenance\telsewhere")
		return
	}
	if s.Waiting != "" {
		fmt.Fprintf(w, "maintenance\twaiting: %s\n", s.Waiting)
	}
	if !s.Timeline.IsZero() {
		printUpkeep(w, &s.Status)
	}
	for _, f := range s.Forecasts {
		fmt.Fprintf(w, "with %s\t%s\n", sizeOf(f.Bytes), f.keeps())
	}
}
