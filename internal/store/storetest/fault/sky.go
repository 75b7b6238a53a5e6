package fault

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Weather says how often a store misbehaves: chances of a call, from 0 to 1.
// The zero Weather is calm.
type Weather struct {
	Storm    float64 // begins a run of up to maxStorm calls that are all refused, as by 503
	Lost     float64 // the call has its effect, and its answer is lost
	Late     float64 // a Create or Delete fails and has its effect up to maxLate calls later, after later ones
	Conflict float64 // a Create is refused as by 409: somebody else may be creating it, or nobody
	Short    float64 // a read ends early, as if the object did
	Flip     float64 // a read has one bit wrong
	Denied   float64 // begins a run of up to maxStorm Deletes that are denied
	Slow     float64 // the call takes long: Slowly is called before it
}

const (
	maxStorm = 24 // calls: more than a pass of maintenance makes
	maxLate  = 60 // calls: some passes
)

// Sky is a store with a Weather: what [Store] does by a script, by chance. Safe
// for concurrent use.
type Sky struct {
	inner store.Store

	mu      sync.Mutex
	rng     *rand.Rand
	weather Weather
	slowly  func()                   // guarded by mu
	skew    time.Duration            // of the store's clock
	skewed  map[string]time.Duration // of what was created, by key
	storm   int                      // calls that are still refused
	denied  int                      // Deletes that are still denied
	hold    bool                     // every Create is late, until Land
	late    []lateCall
	held    map[string]bool // keys on hold
	onHold  *sync.Cond      // len(held) has grown
	counts  map[string]int
}

type lateCall struct {
	left int // calls
	land func()
}

var (
	_ store.Store        = (*Sky)(nil)
	_ store.BatchDeleter = (*Sky)(nil)
)

// NewSky returns inner under a weather; all chance is drawn from seed. slowly,
// if not nil, makes a slow call's time pass. The ability to lock is hidden.
func NewSky(inner store.Store, seed uint64, w Weather, slowly func()) *Sky {
	s := &Sky{inner: inner, rng: rand.New(rand.NewPCG(seed, 17)), weather: w, slowly: slowly, held: map[string]bool{}, skewed: map[string]time.Duration{}, counts: map[string]int{}}
	s.onHold = sync.NewCond(&s.mu)
	return s
}

// Change sets the weather. Runs that were begun end.
func (s *Sky) Change(w Weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weather, s.storm, s.denied = w, 0, 0
}

// Skew makes the store's clock, by which it dates what is created from now on,
// ahead by d; behind if it is negative.
func (s *Sky) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}

// Hold makes every Create from now on late until Land, or lets them be.
func (s *Sky) Hold(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = on
	clear(s.held)
}

// AwaitHeld returns when so many different keys are on hold.
func (s *Sky) AwaitHeld(keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.held) < keys {
		s.onHold.Wait()
	}
}

// Land lets all that is late have its effect, in an order of chance.
func (s *Sky) Land() {
	s.mu.Lock()
	late := s.late
	s.late = nil
	s.rng.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	s.mu.Unlock()
	for _, l := range late {
		l.land()
	}
}

// Count is how often something happened: the name of a Weather's field, or
// "deleted", the Deletes that reached the store.
func (s *Sky) Count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// fate is what happens to a call.
type fate struct {
	refuse error
	slow   bool
	late   bool
	lost   bool
	short  float64 // of the bytes; 0: none
	flip   float64 // where; 0: nowhere
}

// draw decides a call's fate and lets what is due of the late ones land.
func (s *Sky) draw(op Op, key string) fate {
	s.mu.Lock()
	var due []func()
	rest := s.late[:0]
	for _, l := range s.late {
		if l.left--; l.left <= 0 {
			due = append(due, l.land)
		} else {
			rest = append(rest, l)
		}
	}
	s.late = rest
	f := s.decide(op, key)
	s.mu.Unlock()
	for _, land := range due {
		land()
	}
	return f
}

// decide is draw by itself; mu is held.
func (s *Sky) decide(op Op, key string) (f fate) {
	w := &s.weather
	chance := func(name string, p float64) bool {
		if p == 0 || s.rng.Float64() >= p {
			return false
		}
		s.counts[name]++
		return true
	}
	f.slow = chance("Slow", w.Slow)
	if s.storm == 0 && chance("Storm", w.Storm) {
		s.storm = 1 + s.rng.IntN(maxStorm)
	}
	if s.storm > 0 {
		s.storm--
		f.refuse = injected(op, errs.Transient, key, "503 slow down")
		return f
	}
	switch op {
	case Create:
		f.late = s.hold || chance("Late", w.Late)
		if !f.late && chance("Conflict", w.Conflict) {
			f.refuse = injected(op, errs.Transient, key, "409 conflict")
		}
	case Delete:
		if s.denied == 0 && chance("Denied", w.Denied) {
			s.denied = 1 + s.rng.IntN(maxStorm)
		}
		if s.denied > 0 {
			s.denied--
			f.refuse = injected(op, errs.Denied, key, "403 denied")
			return f
		}
		f.late = chance("Late", w.Late)
	case ReadRange:
		if chance("Short", w.Short) {
			f.short = s.rng.Float64()
		}
		if chance("Flip", w.Flip) {
			f.flip = s.rng.Float64()
		}
	case Stat, List, ExtendLock, ReadLock:
	}
	f.lost = chance("Lost", w.Lost)
	return f
}

// do makes a call meet its fate.
func (s *Sky) do(ctx context.Context, op Op, key string, call func(context.Context) error) (fate, error) {
	f := s.draw(op, key)
	if f.slow && s.slowly != nil {
		s.slowly()
	}
	if err := store.Canceled(ctx, "fault."+string(op), key); err != nil {
		return f, err
	}
	switch {
	case f.refuse != nil:
		return f, f.refuse
	case f.late:
		s.keep(key, func() { _ = call(context.Background()) }) // nobody is left to be told
		return f, injected(op, errs.Transient, key, "request is stuck")
	}
	err := call(ctx)
	if f.lost {
		return f, injected(op, errs.Transient, key, "answer lost")
	}
	return f, err
}

// keep keeps a late call; of a key on hold the first.
func (s *Sky) keep(key string, land func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold && s.held[key] {
		return
	}
	left := 1 + s.rng.IntN(maxLate)
	if s.hold {
		left = math.MaxInt
	}
	s.late = append(s.late, lateCall{left, land})
	if s.hold {
		s.held[key] = true
		s.onHold.Broadcast()
	}
}

// Create implements store.Store.
func (s *Sky) Create(ctx context.Context, key string, body []byte) error {
	body = append([]byte(nil), body...)
	_, err := s.do(ctx, Create, key, func(ctx context.Context) error {
		err := s.inner.Create(ctx, key, body)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.skewed[key] = s.skew
		}
		return err
	})
	return err
}

// ReadRange implements store.Store.
func (s *Sky) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	f, err := s.do(ctx, ReadRange, key, func(ctx context.Context) error {
		n, err = s.inner.ReadRange(ctx, key, p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	if f.flip > 0 && n > 0 {
		bit := int(f.flip * float64(8*n))
		p[bit/8] ^= 1 << (bit % 8)
	}
	if f.short > 0 {
		n = int(f.short * float64(n))
	}
	return n, nil
}

// Stat implements store.Store.
func (s *Sky) Stat(ctx context.Context, key string) (in store.Info, err error) {
	_, err = s.do(ctx, Stat, key, func(ctx context.Context) error {
		in, err = s.inner.Stat(ctx, key)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	s.date(&in)
	return in, nil
}

// List implements store.Store.
func (s *Sky) List(ctx context.Context, prefix, after string, limit int) (page []store.Info, err error) {
	_, err = s.do(ctx, List, prefix, func(ctx context.Context) error {
		page, err = s.inner.List(ctx, prefix, after, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range page {
		s.date(&page[i])
	}
	return page, nil
}

func (s *Sky) date(in *store.Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in.Modified = in.Modified.Add(s.skewed[in.Key])
}

// Delete implements store.Store.
func (s *Sky) Delete(ctx context.Context, key string) error {
	_, err := s.do(ctx, Delete, key, func(ctx context.Context) error {
		err := s.inner.Delete(ctx, key)
		if err == nil {
			s.mu.Lock()
			s.counts["deleted"]++
			delete(s.skewed, key)
			s.mu.Unlock()
		}
		return err
	})
	return err
}

// DeleteBatch implements store.BatchDeleter: each key has a fate of its own.
func (s *Sky) DeleteBatch(ctx context.Context, keys []string) []error {
	return store.DeleteEach(ctx, s, keys)
}

// Capabilities implements store.Store.
func (s *Sky) Capabilities() store.Capabilities {
	c := s.inner.Capabilities()
	c.Lock = false
	return c
}
