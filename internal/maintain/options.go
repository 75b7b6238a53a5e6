package maintain

import (
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// Policy is how much history is kept, and how safely. The zero value of each
// field stands for its default.
type Policy struct {
	Schedule Schedule      // default: DefaultSchedule
	TagFor   time.Duration // how long tagged and quiesced checkpoints stay; default: as long as the schedule
	// SizeLimit bounds the live bytes of the history; 0: no limit. Replication
	// is never stopped by it.
	SizeLimit int64
	Limit     LimitMode
	// Grace is how long what nothing refers to any more stays in the store; at
	// least LeastGrace; default DefaultGrace.
	Grace time.Duration
	// Lock holds what the history needs against deletion by anybody. It needs
	// a store that can.
	Lock LockPolicy
}

// LockPolicy says how objects are held against deletion. The zero value holds
// nothing.
type LockPolicy struct {
	Mode store.LockMode
	// Window is how far ahead of now everything that retained checkpoints need
	// is held, in steps of half of it. It is the time in which nobody who has
	// stolen every credential can take the history away.
	Window time.Duration
}

// Validate returns nil for a policy that can be kept, kind Invalid otherwise.
func (p *Policy) Validate() error {
	bad := func(words, remedy string) error {
		return errs.New("maintain.Policy", errs.Invalid, "", words).WithRemedy(remedy)
	}
	if len(p.Schedule) > 0 {
		if err := p.Schedule.Validate(); err != nil {
			return err
		}
	}
	switch {
	case p.TagFor < 0 || p.TagFor > maxSpan:
		return bad("tags stay for less than nothing or more than ten years", "give 0 to keep them as long as the schedule")
	case p.SizeLimit < 0:
		return bad("the size limit is below zero", "give 0 for no limit")
	case p.Limit > AlarmOnly:
		return bad("no such mode of the size limit", "use shorten or alarm")
	case p.Grace != 0 && (p.Grace < LeastGrace || p.Grace > maxSpan):
		return bad(fmt.Sprintf("a grace of %v is too short for who reads meanwhile", p.Grace), "give at least 1h, or 0 for 24h")
	case p.Lock.Mode == "" && p.Lock.Window != 0, p.Lock.Mode != "" && (p.Lock.Window < LeastGrace || p.Lock.Window > maxSpan):
		return bad("a lock needs a mode and a window of 1h to 3650d", "give both or none")
	case p.Lock.Mode != "" && p.Lock.Mode != store.LockGovernance && p.Lock.Mode != store.LockCompliance:
		return bad(fmt.Sprintf("there is no lock mode %q", p.Lock.Mode), "use governance or compliance")
	}
	return nil
}

// full is p with its defaults.
func (p Policy) full() Policy {
	if len(p.Schedule) == 0 {
		p.Schedule = DefaultSchedule()
	}
	if p.TagFor == 0 {
		p.TagFor = p.Schedule.Span()
	}
	if p.Grace == 0 {
		p.Grace = DefaultGrace
	}
	return p
}

// stored is p as a manifest tells of it.
func (p *Policy) stored() journal.Policy {
	out := journal.Policy{SizeLimit: p.SizeLimit, AlarmOnly: p.Limit == AlarmOnly, Floor: Floor, Grace: p.Grace,
		LockMode: p.Lock.Mode, LockWindow: p.Lock.Window}
	if p.TagFor != p.Schedule.Span() {
		out.TagFor = p.TagFor // else it follows a schedule that is changed
	}
	for _, t := range p.Schedule {
		out.Schedule = append(out.Schedule, journal.Slot{Every: t.Every, For: t.For})
	}
	return out
}

// PolicyOf is the policy a manifest was made under; what it does not tell has
// its default.
func PolicyOf(m *journal.Manifest) Policy {
	p := Policy{SizeLimit: m.Policy.SizeLimit, Grace: m.Policy.Grace, TagFor: m.Policy.TagFor,
		Lock: LockPolicy{Mode: m.Policy.LockMode, Window: m.Policy.LockWindow}}
	if m.Policy.AlarmOnly {
		p.Limit = AlarmOnly
	}
	for _, s := range m.Policy.Schedule {
		p.Schedule = append(p.Schedule, Tier{Every: s.Every, For: s.For})
	}
	if p.Validate() != nil {
		return Policy{}.full()
	}
	return p.full()
}

// Options say what is maintained and how. The zero value maintains the current
// timeline under the policy of its newest manifest, or the default one.
type Options struct {
	Timeline dr.TimelineID
	By       string        // who maintains, for people; at most 255 bytes
	Policy   *Policy       // nil: that of the newest manifest, or the default
	Interval time.Duration // between passes of Run, 1 min to 1 h; 0: DefaultInterval
	// PackAge is how old a small journal object is when it is packed: 0 is a
	// day, the least is an hour.
	PackAge time.Duration
	Clock   journal.Clock // nil: the system's
	Logger  *slog.Logger  // nil: none
	// Progress, if not nil, is called now and then while a pass works, on its
	// goroutine. It must not call the Maintainer.
	Progress func(Progress)
}

func (o *Options) validate() error {
	bad := func(words string) error { return errs.New("maintain.New", errs.Invalid, "", words) }
	switch {
	case len(o.By) > 255:
		return bad("the maintainer's name is longer than 255 bytes")
	case o.Interval != 0 && (o.Interval < LeastInterval || o.Interval > MostInterval):
		return bad(fmt.Sprintf("an interval of %v is not between %v and %v", o.Interval, LeastInterval, MostInterval))
	case o.PackAge != 0 && o.PackAge < time.Hour:
		return bad("objects younger than an hour are not packed")
	}
	if o.Policy != nil {
		return o.Policy.Validate()
	}
	return nil
}

type systemClock struct{}

func (systemClock) Wall() time.Time { return time.Now() }

func (systemClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return -1 // a pass then trusts no stretch of time, see instant.since
	}
	return time.Duration(ts.Nano())
}

// instant is one reading of both clocks.
type instant struct {
	wall time.Time
	boot time.Duration
}

func readClock(c journal.Clock) instant { return instant{c.Wall().Round(0), c.Boot()} }

// since is the longer of the times that passed by either clock; ok is false
// when a clock failed or ran backwards.
func (a instant) since(now instant) (d time.Duration, ok bool) {
	wall, boot := now.wall.Sub(a.wall), now.boot-a.boot
	return max(wall, boot), a.boot >= 0 && now.boot >= 0 && wall >= 0 && boot >= 0
}
