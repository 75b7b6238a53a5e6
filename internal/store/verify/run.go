package verify

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Prefix is where trials write: below it, each has a directory of its own.
const Prefix = "probe/"

// Options tune a trial. The zero value is a full trial over one connection.
type Options struct {
	// Quick tries every property too, with fewer rounds and smaller objects.
	Quick bool
	// Connect opens another connection to the same store, independent of the
	// one given to Run: pools, sessions and caches of its own. Nil: the trial
	// uses one connection, and says so.
	Connect func(ctx context.Context) (store.Store, error)
	// Connections is how many to use with Connect, 2 to 8; zero: 3.
	Connections int
	// Progress is told of every request, from several goroutines but one at a
	// time; it must be quick. May be nil.
	Progress func(Progress)
	// Clock is the machine's clock; nil: time.Now.
	Clock func() time.Time
	// Seed makes names and bodies repeatable; zero: random.
	Seed uint64
}

// Progress is how far a trial is.
type Progress struct {
	Property string // being tried
	Requests uint64 // made so far
	Allowed  uint64 // at most
}

func (o Options) scale() scale {
	if o.Quick {
		return quickScale
	}
	return fullScale
}

func (o Options) connections() int {
	switch {
	case o.Connect == nil:
		return 1
	case o.Connections == 0:
		return defaultConnections
	}
	return min(max(o.Connections, 2), maxConnections)
}

// Budget is what a trial with these options asks of the store at most.
func (o Options) Budget() Budget {
	s, n := o.scale(), uint64(o.connections())
	var b Budget
	for _, c := range checks {
		b = b.plus(c.cost(&s, n))
	}
	// Cleaning up: every object that was created, and three looks at what is left.
	b.Requests += b.Requests/2 + 3
	return b
}

// check is the trial of one property.
type check struct {
	name   string
	writes bool // makes no sense without the right to create
	cost   func(s *scale, conns uint64) Budget
	run    func(ctx context.Context, p *probe) finding
}

// checks in the order in which they are run: rights first, what looks back
// at everything before last.
var checks = []check{
	{propList, false, costList, tryList},
	{propCreate, false, costCreate, tryCreate},
	{propRead, false, costRead, tryRead},
	{propDelete, true, costDelete, tryDelete},
	{propCreateOnce, true, costCreateOnce, tryCreateOnce},
	{propOverwrite, true, costOverwrite, tryOverwrite},
	{propRecreate, true, costRecreate, tryRecreate},
	{propReadAfter, true, costReadAfter, tryReadAfter},
	{propListAfter, true, costListAfter, tryListAfter},
	{propListOrder, true, costListOrder, tryListOrder},
	{propListPaging, true, costListPaging, tryListPaging},
	{propKeys, true, costKeys, tryKeys},
	{propRanges, true, costRanges, tryRanges},
	{propObjectSize, true, costObjectSize, tryObjectSize},
	{propClock, true, costClock, tryClock},
	{propLock, true, costLock, tryLock},
	{propLatency, true, costLatency, tryLatency},
	{propThroughput, true, costThroughput, tryThroughput},
	{propDeleteStays, true, costDeleteStays, tryDeleteStays},
	{propDurable, true, costDurable, tryDurable},
	{propUnchanged, true, costUnchanged, tryUnchanged},
}

// finding is what a check found.
type finding struct {
	verdict        Verdict
	detail, remedy string
}

// made is an object of the trial: enough to know its bytes again.
type made struct {
	seed uint64
	size int
}

// probe is one trial under way. Checks run one after another; their
// goroutines share conns and what mu guards.
type probe struct {
	opts   Options
	scale  scale
	conns  []*conn
	prefix string // of this trial, with a slash at the end
	tally  *tally
	report *Report

	mayCreate, mayDelete bool
	gone                 []string      // deleted, must stay so
	ahead                time.Duration // how far the store's clock is ahead of ours

	mu    sync.Mutex
	seeds *rand.Rand          // guarded by mu
	made  map[string]made     // what must be there with these bytes; guarded by mu
	all   map[string]struct{} // every key that was ever sent; guarded by mu
	locks map[string]time.Time
}

// Run tries st and returns what it found. A store that is not fit is no
// error: see [Report.Usable]. The errors are: kind Invalid when the driver
// does not even claim to create names once; what Options.Connect returned;
// kind Canceled when ctx ended. With the last the report is of what was tried
// so far, and what was written is removed all the same.
//
// st must be a store as a container gets it, package retry included: the
// trial does not repeat calls.
func Run(ctx context.Context, st store.Store, opts Options) (*Report, error) {
	const op = "verify.Run"
	p, err := newProbe(ctx, st, opts)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for i := range checks {
		if ctx.Err() != nil {
			break
		}
		p.try(ctx, &checks[i])
	}
	p.clean(ctx)
	p.report.Took = time.Since(began)
	p.report.Used = p.tally.total()
	if ctx.Err() != nil {
		e := errs.E(op, errs.Canceled, p.prefix, context.Cause(ctx))
		if p.report.LeftCount > 0 {
			e = e.WithRemedy(fmt.Sprintf("%d objects are left below %s: %s", p.report.LeftCount, p.prefix, p.report.LeftWhy))
		}
		return p.report, e
	}
	return p.report, nil
}

func newProbe(ctx context.Context, st store.Store, opts Options) (*probe, error) {
	const op = "verify.Run"
	caps := st.Capabilities()
	if !caps.CreateOnce {
		return nil, errs.New(op, errs.Invalid, "store property "+propCreateOnce, "the driver says that the store can overwrite a name").
			WithRemedy(remedyOnce)
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Seed == 0 {
		opts.Seed = rand.Uint64()
	}
	t := &tally{allowed: opts.Budget(), tell: opts.Progress}
	p := &probe{
		opts: opts, scale: opts.scale(), tally: t,
		prefix: Prefix + dr.NewUUID().String() + "/",
		seeds:  rand.New(rand.NewPCG(opts.Seed, 1)),
		made:   map[string]made{}, all: map[string]struct{}{}, locks: map[string]time.Time{},
		conns: []*conn{{st, t}},
	}
	for len(p.conns) < opts.connections() {
		another, err := opts.Connect(ctx)
		if err != nil {
			return nil, errs.E(op, errs.Internal, "another connection", err)
		}
		p.conns = append(p.conns, &conn{another, t})
	}
	p.report = &Report{
		Store: caps.Name, Prefix: p.prefix, Quick: opts.Quick, Connections: len(p.conns),
		Began: opts.Clock().UTC(), Allowed: t.allowed,
	}
	return p, nil
}

// try runs one check and notes its finding.
func (p *probe) try(ctx context.Context, c *check) {
	p.tally.trying(c.name)
	began := time.Now()
	var f finding
	if c.writes && !p.mayCreate {
		f = finding{Unknown, "not tried: nothing could be created", "try again with credentials that may create"}
		if cr, _ := p.report.Property(propCreate); cr.Verdict == NotPermitted {
			f = finding{NotPermitted, "not tried: the credentials may not create", f.remedy}
		}
	} else {
		f = c.run(ctx, p)
	}
	if ctx.Err() != nil {
		f = finding{Unknown, "the trial was stopped meanwhile", "try again"}
	}
	p.report.Properties = append(p.report.Properties, Property{c.name, f.verdict, f.detail, f.remedy, time.Since(began)})
}

func pass(format string, args ...any) finding {
	return finding{verdict: Pass, detail: fmt.Sprintf(format, args...)}
}

func fail(remedy, format string, args ...any) *finding {
	return &finding{Fail, fmt.Sprintf(format, args...), remedy}
}

// maxWords bounds what a finding quotes of an error, in bytes: names of 512
// bytes are tried.
const maxWords = 300

// trouble is the finding of a call that failed where it should not have.
func trouble(what string, err error) *finding {
	words := what + ": " + err.Error()
	if len(words) > maxWords {
		words = words[:maxWords/2] + "…" + words[len(words)-maxWords/2:]
	}
	switch errs.KindOf(err) {
	case errs.Denied:
		return &finding{NotPermitted, words, orElse(errs.RemedyOf(err), remedyRights)}
	case errs.Transient, errs.Unavailable, errs.Canceled:
		return &finding{Unknown, words, "try again when the store can be reached without errors"}
	default:
		return &finding{Fail, words, orElse(errs.RemedyOf(err), "see what the store's own log says of it, or use another store")}
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// conn returns a connection for the i-th of some actors.
func (p *probe) conn(i int) *conn { return p.conns[i%len(p.conns)] }

// fresh is a seed for bytes never used before.
func (p *probe) fresh() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seeds.Uint64()
}

// body is the content made of a seed. Bodies of different seeds differ in
// their first eight bytes already.
func body(m made) []byte {
	b := make([]byte, m.size+8)
	src := rand.NewPCG(m.seed, m.seed^0x686f6c6466617374)
	binary.LittleEndian.PutUint64(b, m.seed)
	for i := 8; i < m.size; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], src.Uint64())
	}
	return b[:m.size]
}

// put creates a fresh object through c and remembers it.
func (p *probe) put(ctx context.Context, c *conn, key string, size int) (made, error) {
	m := made{p.fresh(), size}
	p.sent(key)
	if err := c.create(ctx, key, body(m)); err != nil {
		return m, err
	}
	p.keep(key, m)
	return m, nil
}

// sent notes a key before the first try to create it.
func (p *probe) sent(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[key] = struct{}{}
}

// keep notes that key must from now on hold m.
func (p *probe) keep(key string, m made) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[key] = m
}

// forget notes that key is deleted.
func (p *probe) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.made, key)
}

// kept returns what must be there now.
func (p *probe) kept() map[string]made {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := make(map[string]made, len(p.made))
	for k, v := range p.made {
		m[k] = v
	}
	return m
}
