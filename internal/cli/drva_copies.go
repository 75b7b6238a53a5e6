package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/copies"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
	"holdfast/internal/store/limit"
)

const (
	// mostCopies is how many copies a domain has: each gets every object, and so costs
	// as much bandwidth as the first store.
	mostCopies = 3
	// firstWeight is the first store's weight within a domain's bandwidth, where a copy
	// has 1: checkpoints go before copies of them.
	firstWeight = 8
	// copyPatience is how long a failing call to a copy's store is repeated before the
	// copy counts as away, which its status tells; it is tried on all the same.
	copyPatience = 20 * time.Second
)

// copier keeps one copy beside a DRVA's domain. It never fails what it runs beside:
// what goes wrong is in its status, and an event. Safe for concurrent use.
type copier struct {
	url     string
	access  access.Access
	limiter *limit.Limiter
	shared  *limit.Limiter
	log     *slog.Logger
	tell    func(drva.Event) // set before it runs

	mu    sync.Mutex
	c     *copies.Copier // nil: its store was not reached yet
	state copies.Status  // while c is nil
	told  copies.State   // of the last event; "": none
}

// copiers reads what the configuration says of copies. Kind Invalid.
func (cfg *domainConfig) copiers() (out []*copier, err error) {
	bad := func(object, words, remedy string) ([]*copier, error) {
		return nil, errs.New("drva", errs.Invalid, object, words).WithRemedy(remedy)
	}
	if len(cfg.Copies) > mostCopies {
		return bad("copies", fmt.Sprintf("%d copies are more than a domain has", len(cfg.Copies)), fmt.Sprintf("name at most %d", mostCopies))
	}
	taken := map[string]bool{}
	if u, err := store.ParseURL(cfg.Container); err == nil {
		taken[u.String()] = true
	}
	for _, c := range cfg.Copies {
		u, err := store.ParseURL(c.Container)
		if err != nil {
			return nil, err
		}
		if taken[u.String()] {
			return bad(c.Container, "the container, or another copy, lies there", "give each copy a store of its own")
		}
		taken[u.String()] = true
		a, err := access.ReadFile(c.Access)
		if err != nil {
			return nil, err
		}
		out = append(out, &copier{url: c.Container, access: a, state: copies.Status{Name: c.Container, State: copies.Copying, Lag: -1}})
	}
	return out, nil
}

// beside runs main, and keeps the copy of c for as long as main runs. What it returns
// is main's.
func (k *copier) beside(main func(context.Context) error, c *journal.Container, tell func(drva.Event)) func(context.Context) error {
	k.tell = tell
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { k.run(ctx, c) })
		return main(ctx)
	}
}

// run reaches the copy's store, however long that takes, and keeps the copy.
func (k *copier) run(ctx context.Context, c *journal.Container) {
	for pause := startFirst; ; pause = min(2*pause, startMost) {
		m, err := k.open(ctx, c)
		if err == nil {
			k.mu.Lock()
			k.c = m
			k.mu.Unlock()
			if err := m.Run(ctx); ctx.Err() == nil {
				k.log.Error("the copy is not kept any more", "copy", k.url, "err", err, "remedy", errs.RemedyOf(err))
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		s := copies.Status{Name: k.url, State: copies.StateOf(err), Cause: err.Error(), Remedy: errs.RemedyOf(err), Lag: -1}
		k.mu.Lock()
		k.state = s
		k.mu.Unlock()
		k.changed(s)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// open tries once.
func (k *copier) open(ctx context.Context, c *journal.Container) (*copies.Copier, error) {
	st, err := openStack(ctx, k.url, stackOptions{create: true, limiter: k.limiter, shared: k.shared, logger: k.log, elapsed: copyPatience, access: k.access})
	if err != nil {
		return nil, err
	}
	return copies.New(c, st.store, copies.Options{Name: k.url, Logger: k.log, Changed: k.changed})
}

// status tells how the copy stands.
func (k *copier) status() copies.Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.c == nil {
		return k.state
	}
	return k.c.Status()
}

// changed makes an event of another state: of what people have to see to, and of its
// end.
func (k *copier) changed(s copies.Status) {
	e := drva.Event{Object: "copy " + s.Name, Text: s.Cause, Remedy: s.Remedy}
	switch s.State {
	case copies.Fenced:
		e.Code, e.Severity = "copy-fenced", drva.Alarm
		e.Text = "the domain was recovered from its copy, or taken over there: " + s.Cause
	case copies.Away, copies.Full, copies.Failing:
		e.Code, e.Severity = "copy-behind", drva.Warning
	case copies.Current:
		e.Code, e.Severity, e.Text = "copy-current", drva.Info, "the copy has all that the first store has"
	case copies.Copying, copies.Lagging:
		return
	}
	k.mu.Lock()
	again := k.told == s.State
	k.told = s.State
	k.mu.Unlock()
	if !again {
		k.tell(e)
	}
}

// printCopy renders how a copy stands.
func printCopy(w io.Writer, s *copies.Status) {
	line := string(s.State) + suffix(s.Cause)
	if s.Lag >= 0 {
		line += fmt.Sprintf("\tnewest point %s, %s behind", timeOf(s.Newest), spanOf(s.Lag))
	}
	if s.Behind.Objects > 0 {
		line += fmt.Sprintf(", %d object(s) and %s to go", s.Behind.Objects, sizeOf(s.Behind.Bytes))
	}
	if s.Waiting != "" {
		line += "; waits for " + s.Waiting
	}
	fmt.Fprintf(w, "copy %s\t%s\n", s.Name, line)
	if s.Remedy != "" {
		fmt.Fprintf(w, "what to do\t%s\n", s.Remedy)
	}
}
