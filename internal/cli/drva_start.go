package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store"
	"holdfast/internal/store/limit"
)

const (
	// startFirst and startMost bound the pauses between two tries to reach the
	// store at the start: the first miss a service that is just coming up, the
	// last notice within seconds that an outage is over.
	startFirst = 200 * time.Millisecond
	startMost  = 10 * time.Second
	// startTell is how often the log is told again that the store is away.
	startTell = 5 * time.Minute
)

// stateWaiting is an appliance's state before it has reached its container.
const stateWaiting = "waiting for the store"

// firstHold is how long what the appliance publishes is held at first: a day
// to notice that somebody deletes, and some to act. Most of it is thinned out
// again soon; maintenance extends the lock of the rest within minutes.
const firstHold = 26 * time.Hour

// refuseOldLock refuses the settings that became one, and says what to write
// instead. Kind Invalid.
func (cfg *domainConfig) refuseOldLock() error {
	mode, bare := cfg.Lock, cfg.Lock == string(store.LockGovernance) || cfg.Lock == string(store.LockCompliance)
	if cfg.OldLock == "" && cfg.OldLockFor == "" && !bare {
		return nil
	}
	say := cfg.OldLock
	if say == "" {
		if !bare {
			mode = string(store.LockGovernance)
		}
		say = mode + " for 30d"
	}
	return errs.New("drva", errs.Invalid, "lock", "lock, lock-for and object-lock are one setting now, which says how long nobody can delete what the history needs").
		WithRemedy(fmt.Sprintf(`take lock-for and object-lock out, and write "lock": %q: what is published is held for 26h at first, and by maintenance for that long while it is needed`, say))
}

// lock is how what is published is held: by what the configuration names, else
// by what the container remembers. Kinds: Invalid, the store's.
func (cfg *domainConfig) lock(ctx context.Context, c *journal.Container, log *slog.Logger) (o journal.LockOptions, err error) {
	var l maintain.LockPolicy
	if cfg.Lock != "" {
		l, err = parseLock(cfg.Lock)
	} else {
		l, err = lockOf(ctx, c)
		if errs.Is(err, errs.Corrupt) {
			log.Warn("the lock that the container remembers cannot be read; nothing that is published is locked", "err", err,
				"remedy", `name it in the configuration, as "lock": "governance for 30d" or "none", and run fsck`)
			return o, nil
		}
	}
	if err != nil || l.Mode == "" {
		return o, err
	}
	o = journal.LockOptions{Mode: l.Mode, For: min(firstHold, max(l.Window, journal.LeastLock))}
	return o, o.Validate()
}

// lockOf is the lock that the current timeline's newest manifest remembers.
func lockOf(ctx context.Context, c *journal.Container) (l maintain.LockPolicy, err error) {
	all, err := c.Timelines(ctx)
	if err != nil {
		return l, err
	}
	for _, t := range all {
		if t.Current {
			p, _, err := policyOf(ctx, c, t.ID)
			return p.Lock, err
		}
	}
	return l, nil
}

// appliance is a DRVA from the moment it can answer for itself, which is
// before it has reached its store: a machine that starts while the store is
// away must come up by itself. Safe for concurrent use.
type appliance struct {
	// Immutable.
	cfg      *domainConfig
	front    *drva.Front
	names    []string    // domains the certificate stands for
	config   drva.Config // all but the container
	identity journal.Identity
	stack    *stack
	limiter  *limit.Limiter
	log      *slog.Logger
	address  net.Addr
	copies   []*copier
	tuner    *tuner // of the process

	mu     sync.Mutex   // guards all below
	live   domainConfig // cfg, with what was changed since
	server *drva.Server
	keys   *keyWatch
	up     *upkeep           // nil: maintained elsewhere
	away   []drva.TimedError // the last failure to reach the store; empty: none
}

// run reaches the container, however long that takes, and serves the domain.
// What the store answers, that there is no such bucket or that the credentials
// are wrong, ends it at once.
func (a *appliance) run(ctx context.Context) error {
	c, lock, err := a.reach(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	begins := a.live
	a.mu.Unlock()
	cfg, err := begins.config()
	if err != nil {
		return err
	}
	cfg.Host, cfg.Shared, cfg.Logger = a.config.Host, a.config.Shared, a.config.Logger
	cfg.Container, cfg.Lock = c, lock
	if id := c.Domain().ID.String(); !slices.Contains(a.names, id) {
		return errs.New("drva", errs.Denied, "domain "+id, "the appliance's certificate does not stand for this domain").
			WithRemedy("issue one that does: holdfast cert issue --role drva --name " + id)
	}
	s, err := drva.New(cfg)
	if err != nil {
		return err
	}
	up, err := begins.upkeep(ctx, c, a.log)
	if err != nil {
		return err
	}
	keys := newKeyWatch(c, a.log)
	a.mu.Lock()
	a.server, a.keys, a.up, a.away = s, keys, up, nil
	live := a.live
	a.mu.Unlock()
	if err := a.catchUp(ctx, s, up, &begins, &live); err != nil {
		return err
	}
	a.front.Add(s)
	main := keys.beside(s.Run)
	for _, k := range a.copies {
		main = k.beside(main, c, s.Tell)
	}
	if up != nil {
		main = up.beside(main)
	}
	return main(ctx)
}

// reach opens the container and finds out how what is published is to be
// locked, trying on while the store is away.
func (a *appliance) reach(ctx context.Context) (*journal.Container, journal.LockOptions, error) {
	var told time.Time
	for pause := startFirst; ; pause = min(2*pause, startMost) {
		c, lock, err := a.open(ctx)
		if err == nil {
			if !told.IsZero() {
				a.log.Info("the store is there")
			}
			return c, lock, nil
		}
		if ctx.Err() != nil || !errs.Is(err, errs.Transient) && !errs.Is(err, errs.Unavailable) {
			return nil, lock, err
		}
		a.mu.Lock()
		a.away = []drva.TimedError{{Time: time.Now().UTC(), Kind: errs.KindOf(err).String(), Error: err.Error(), Remedy: errs.RemedyOf(err)}}
		a.mu.Unlock()
		if now := time.Now(); told.IsZero() || now.Sub(told) >= startTell {
			told = now
			a.log.Warn("the store cannot be reached, trying on; hosts track what changes meanwhile", "err", err, "remedy", errs.RemedyOf(err))
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, lock, errs.E("drva", errs.Canceled, a.cfg.Container, context.Cause(ctx))
		}
	}
}

// open tries once.
func (a *appliance) open(ctx context.Context) (*journal.Container, journal.LockOptions, error) {
	if err := a.stack.check(ctx); err != nil {
		return nil, journal.LockOptions{}, err
	}
	c, err := journal.Open(ctx, a.stack.store, a.identity)
	if err != nil {
		return nil, journal.LockOptions{}, err
	}
	lock, err := a.cfg.lock(ctx, c, a.log)
	return c, lock, err
}

// running returns the server and what maintains; kind Unavailable while the
// store is waited for.
func (a *appliance) running() (*drva.Server, *upkeep, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server == nil {
		return nil, nil, errs.New("drva", errs.Unavailable, a.cfg.Container, "the appliance is waiting for its store").
			WithRemedy(`"holdfast status" tells what it waits for`)
	}
	return a.server, a.up, nil
}

// status answers a local /status call.
func (a *appliance) status(ctx context.Context) drvaStatus {
	v := drvaStatus{Address: a.address.String(), Store: storeStatusOf(a.stack, a.limiter)}
	s, up, err := a.running()
	if err != nil {
		a.mu.Lock()
		v.Status = drva.Status{State: stateWaiting, RPO: -1, Log: drva.LogStatus{Quota: a.cfg.Quota, Absorbs: -1}, Errors: append([]drva.TimedError{}, a.away...)}
		a.mu.Unlock()
		return v
	}
	v.Status, v.DataKey = s.Status(), a.keys.status() // set with the server, once
	if up != nil {
		v.Maintenance = up.status(ctx)
	}
	for _, c := range a.copies {
		v.Copies = append(v.Copies, c.status())
	}
	return v
}

// calls are what the appliance answers on its status socket.
func (a *appliance) calls() map[string]control.Handler {
	return map[string]control.Handler{
		"/status": func(ctx context.Context, _ []byte) (any, error) { return a.status(ctx), nil },
		"/gc": func(_ context.Context, body []byte) (any, error) {
			_, up, err := a.running()
			if err != nil {
				return nil, err
			}
			if up == nil {
				return nil, errOff()
			}
			return up.ask(body)
		},
		"/bandwidth": func(_ context.Context, body []byte) (any, error) {
			return changeBandwidth(a.stack, a.limiter, body)
		},
		"/seed": func(_ context.Context, body []byte) (any, error) {
			s, _, err := a.running()
			if err != nil {
				return nil, err
			}
			return seedDisk(s, body)
		},
		"/checkpoint": func(ctx context.Context, body []byte) (any, error) {
			s, _, err := a.running()
			if err != nil {
				return nil, err
			}
			return takeCheckpoint(ctx, s, body)
		},
		"/events": func(_ context.Context, body []byte) (any, error) {
			s, _, err := a.running()
			if err != nil {
				return nil, err
			}
			var r eventsRequest
			if len(body) > 0 {
				if err := json.Unmarshal(body, &r); err != nil {
					return nil, errs.E("drva", errs.Invalid, "events", err)
				}
			}
			return s.Events(r.After), nil
		},
		"/reconfigure": func(ctx context.Context, _ []byte) (any, error) { return a.tuner.reconfigure(ctx) },
		"/pause":       a.pauseCall((*drva.Server).Pause),
		"/resume":      a.pauseCall((*drva.Server).Resume),
	}
}

// eventsRequest is the body of a local /events call.
type eventsRequest struct {
	After uint64 `json:"after"`
}

// pauseCall answers a local /pause or /resume call with the status.
func (a *appliance) pauseCall(do func(*drva.Server, context.Context) error) control.Handler {
	return func(ctx context.Context, _ []byte) (any, error) {
		s, _, err := a.running()
		if err == nil {
			err = do(s, ctx)
		}
		return a.status(ctx), err
	}
}

// takeCheckpoint answers a local /checkpoint call.
func takeCheckpoint(ctx context.Context, s *drva.Server, body []byte) (any, error) {
	var r checkpointRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, errs.E("drva", errs.Invalid, "checkpoint", err)
	}
	var reply checkpointReply
	var err error
	if r.App {
		reply.Checkpoint, reply.Faults, err = s.AppCheckpoint(ctx, r.Tag)
	} else {
		reply.Checkpoint, err = s.Checkpoint(ctx, r.Tag)
	}
	return reply, err
}

// interval reads the time between checkpoints; zero: the default.
func (cfg *domainConfig) interval() (time.Duration, error) {
	if cfg.Interval == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(cfg.Interval)
	if err != nil {
		return 0, errs.E("drva", errs.Invalid, "interval", err).WithRemedy("write it as in 5s")
	}
	if d < drva.MinInterval || d > drva.MaxInterval {
		return 0, errs.New("drva", errs.Invalid, "interval", fmt.Sprintf("checkpoints every %v are not offered", d)).WithRemedy("choose 1s to 60s")
	}
	return d, nil
}
