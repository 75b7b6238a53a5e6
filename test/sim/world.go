package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
)

// Flaw breaks one rule of the protocol.
type Flaw int

// The flaws that tests must notice.
const (
	None          Flaw = iota
	NoHold             // hosts place markers but complete writes behind them
	EarlyCut           // the checkpoint is cut at the first marker, the others are not awaited
	IgnoreConfirm      // every answer is taken for a yes
	HostByHost         // after a restart one host is replayed after the other
	NoTrack            // a run goes on by its sidecar, and its disks stay synced
	AnyRun             // a sidecar is accepted whatever run it continues
	ClosedEarly        // regions are closed when the order has their writes, not the log
	NoPlace            // a lone asynchronous host is not asked for a marker: the point's time is its arrival's
)

// Params is one world. Build it with Random for a mixture.
type Params struct {
	Seed        uint64
	Flaw        Flaw
	Rules       []dr.AckRule // one for each host
	VMs         int          // on each host
	Chains      int
	Checkpoints int // the run ends after so many results

	Delay     time.Duration // mean one-way delay, exponential
	Late      float64       // part of the messages that come 50 ms late
	Primary   time.Duration // mean time of a primary write
	Think     time.Duration // mean time between an acknowledgement and the chain's next write
	Durable   time.Duration // mean time of a log write
	LinkCut   time.Duration // mean time between cuts of a link; 0 never
	Outside   time.Duration // mean time between spells of tracking; 0 never
	HostDies  time.Duration // mean time between restarts of a host component; 0 never
	Restart   time.Duration // mean time between restarts of the DRVA; 0 never
	ReplayFor time.Duration // how long a restart waits for hosts
	Patience  time.Duration // how long a host without link waits before it acknowledges outside; 0: 5 to 65 ms

	// Trace, if not nil, is told what happens.
	Trace func(format string, args ...any)
}

// Random draws the parameters of a world from a seed: 1 to 8 hosts, all rules,
// trouble of every kind in every second world.
func Random(seed uint64, checkpoints int) Params {
	r := rand.New(rand.NewPCG(seed, 1))
	p := Params{
		Seed: seed, VMs: 1 + r.IntN(3), Chains: 1 + r.IntN(12), Checkpoints: checkpoints,
		Delay:   time.Duration(50+r.IntN(300)) * time.Microsecond,
		Primary: time.Duration(50+r.IntN(400)) * time.Microsecond,
		Durable: time.Duration(100+r.IntN(1500)) * time.Microsecond,
	}
	rule := dr.AckRule(r.IntN(4)) // 3: mixed
	for range 1 + r.IntN(8) {
		a := rule
		if rule > dr.Sync {
			a = dr.AckRule(r.IntN(3))
		}
		p.Rules = append(p.Rules, a)
	}
	p.Late = []float64{0, 0, 0.002, 0.05}[r.IntN(4)]
	often := func(mean time.Duration) time.Duration {
		if r.IntN(2) == 0 {
			return 0
		}
		return mean/2 + time.Duration(r.Int64N(int64(mean)))
	}
	p.Think = time.Duration(50+r.IntN(1000)) * time.Microsecond
	if p.Late > 0.01 {
		p.Think *= 5 // rounds take fifty times longer there
	}
	p.LinkCut = often(300 * time.Millisecond)
	p.Outside = often(300 * time.Millisecond)
	p.HostDies = often(600 * time.Millisecond)
	p.Restart = often(100 * time.Millisecond)
	p.ReplayFor = time.Duration(20+r.IntN(200)) * time.Millisecond
	if r.IntN(4) == 0 {
		p.Patience, p.ReplayFor = 10*time.Second, 10*time.Second
	}
	return p
}

// Stats is what a run saw.
type Stats struct {
	Checkpoints int // results
	Group       int // of them Group
	Holds       int // of the Group ones, cut by a hold round
	Prefixes    int // other prefixes of the order judged
	Writes      int
	Restarts    int
	Replayed    int // records sequenced by merges after a restart
	Pads        int
	Lost        int // hosts given up by a restart
	Resumed     int // disks with which a run went on by its sidecar
	Moved       int // of them on another host
	Stale       int // sidecars that were refused because another run had come between
	Violations  int
	First       string // the first violation, for people
}

// Add sums s and o.
func (s *Stats) Add(o Stats) {
	s.Checkpoints += o.Checkpoints
	s.Group += o.Group
	s.Holds += o.Holds
	s.Prefixes += o.Prefixes
	s.Writes += o.Writes
	s.Restarts += o.Restarts
	s.Replayed += o.Replayed
	s.Pads += o.Pads
	s.Lost += o.Lost
	s.Resumed += o.Resumed
	s.Moved += o.Moved
	s.Stale += o.Stale
	s.Violations += o.Violations
	if s.First == "" {
		s.First = o.First
	}
}

// world is a run.
type world struct {
	Params
	rng    *rand.Rand
	now    time.Duration
	events eventHeap
	serial uint64 // of events, so that ties keep their order
	stamp  int64  // logical time of issues and acks

	hosts  []*host
	drva   *drva
	byID   map[int64]*write // writes not yet absorbed
	writes []*write         // the same in order of issue
	nextID int64
	syncs  map[int64][]*write // what a SyncEnd record makes complete
	newest int64              // highest issue stamp of absorbed writes
	conns  order.ConnID
	strays int // spells outside the stream so far
	stats  Stats
}

// write is one guest write, from its issue until the log holds it for good.
type write struct {
	id       int64
	host     *host
	vm       int
	issue    int64         // logical time
	ack      int64         // logical time; 0: not acknowledged
	acked    time.Duration // when that was
	seq      dr.Seq
	cover    dr.Seq // place of a SyncEnd that makes it part of the log
	strayed  bool   // acknowledged outside the stream, or its record was lost
	primary  bool   // the primary has it
	held     bool   // its completion is kept back
	hostSeq  dr.HostSeq
	landed   bool // its region may be closed: the host knows that the log has it
	finished func()
}

// in reports whether the write is part of the log below n.
func (w *write) in(n dr.Seq) bool {
	return w.seq != 0 && w.seq < n || w.cover != 0 && w.cover < n
}

// Run plays a world to its end.
func Run(p Params) Stats {
	w := &world{Params: p, rng: rand.New(rand.NewPCG(p.Seed, 2)), byID: map[int64]*write{}, syncs: map[int64][]*write{}}
	w.drva = newDRVA(w)
	for i, rule := range p.Rules {
		w.hosts = append(w.hosts, newHost(w, i, rule))
	}
	for _, h := range w.hosts {
		h.connect()
		h.troubles()
	}
	for range p.Chains {
		w.after(w.exp(p.Primary), w.issueNext)
	}
	w.drva.start()
	if p.Restart > 0 {
		w.every(p.Restart, w.drva.restart)
	}
	for w.stats.Checkpoints < p.Checkpoints && len(w.events) > 0 {
		e := w.events.pop()
		w.now = e.at
		e.do()
	}
	return w.stats
}

// issueNext is a chain: a write on a random VM, and once it is acknowledged
// the next one.
func (w *world) issueNext() {
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	h.write(w.rng.IntN(w.VMs), func() { w.after(w.exp(w.Think), w.issueNext) })
}

// trace tells the tracer, if there is one.
func (w *world) trace(format string, args ...any) {
	if w.Trace != nil {
		w.Trace("%12v #%d "+format, append([]any{w.now, w.stamp}, args...)...)
	}
}

func (w *world) violation(format string, a ...any) {
	w.stats.Violations++
	w.trace("VIOLATION "+format, a...)
	if w.stats.First == "" {
		w.stats.First = fmt.Sprintf("seed %d at %v: ", w.Seed, w.now) + fmt.Sprintf(format, a...)
	}
}

// checkPrefix looks whether everything in the order below n is closed: no
// write outside it was acknowledged before a write in it was issued.
func (w *world) checkPrefix(n dr.Seq, what string) {
	newest := w.newest
	for _, x := range w.writes {
		if x.in(n) {
			newest = max(newest, x.issue)
		}
	}
	for _, x := range w.writes {
		if x.ack != 0 && x.ack < newest && !x.in(n) {
			w.violation("%s: write %d of host %d was acknowledged at %d, is not in the cut at %d (has place %d), but a write issued at %d is",
				what, x.id, x.host.index, x.ack, n, x.seq, newest)
			return
		}
	}
}

// checkTime looks whether all that was acknowledged before a point's time is in it.
func (w *world) checkTime(n dr.Seq, at time.Time) {
	for _, x := range w.writes {
		if x.ack != 0 && w.start().Add(x.acked).Before(at) && !x.in(n) {
			w.violation("write %d of host %d was acknowledged at %v, and is not in the point of %v at %d", x.id, x.host.index, x.acked, at.Sub(w.start()), n)
			return
		}
	}
}

// absorb forgets writes the log holds for good.
func (w *world) absorb(durable dr.Seq) {
	w.writes = slices.DeleteFunc(w.writes, func(x *write) bool {
		gone := x.ack != 0 && x.in(durable+1)
		if gone {
			w.newest = max(w.newest, x.issue)
			delete(w.byID, x.id)
		}
		return gone
	})
}

// event is something that happens at a time.
type event struct {
	at     time.Duration
	serial uint64
	do     func()
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.serial < o.serial
}

// eventHeap is a binary heap, the next event first.
type eventHeap []event

func (h *eventHeap) push(e event) {
	*h = append(*h, e)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s[i].before(&s[up]) {
			return
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *eventHeap) pop() event {
	s := *h
	first, last := s[0], len(s)-1
	s[0], s[last] = s[last], event{}
	s = s[:last]
	*h = s
	for i := 0; ; {
		low := 2*i + 1
		if low >= len(s) {
			return first
		}
		if low+1 < len(s) && s[low+1].before(&s[low]) {
			low++
		}
		if !s[low].before(&s[i]) {
			return first
		}
		s[i], s[low] = s[low], s[i]
		i = low
	}
}

func (w *world) at(t time.Duration, do func()) {
	w.serial++
	w.events.push(event{max(t, w.now), w.serial, do})
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// every repeats do at random times with the given mean.
func (w *world) every(mean time.Duration, do func()) {
	w.after(w.exp(mean), func() {
		do()
		w.every(mean, do)
	})
}

// exp draws from an exponential distribution.
func (w *world) exp(mean time.Duration) time.Duration {
	return time.Duration(w.rng.ExpFloat64() * float64(mean))
}

// clock is the virtual time as the core sees it.
func (w *world) clock() time.Time { return w.start().Add(w.now) }

func (w *world) start() time.Time { return time.Unix(1_700_000_000, 0) }

// tick is the next logical time.
func (w *world) tick() int64 {
	w.stamp++
	return w.stamp
}

// id builds a distinct identity.
func id(kind byte, a, b int) dr.UUID {
	return dr.UUID{kind, byte(a), byte(b), 1}
}
