package fleet

import (
	"fmt"
	"time"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

const (
	// stuckAfter is how long a history may go without upkeep: a store that is away for a
	// night costs nothing.
	stuckAfter = 24 * time.Hour
	// shortBy is how much, besides a tenth, a history may reach back less than it should: a
	// pass of its upkeep comes at least so often, and is decided by the newest point.
	shortBy = 2 * time.Hour
)

// judgeHistory says what is wrong with a domain's history, by what its DRVA tells.
func (f *Fleet) judgeHistory(s *standing, d *site.ProtectedDomain, h alarm.Held) {
	_, r := s.reporter(f.Site, d)
	if r == nil || r.Upkeep == nil {
		return
	}
	u, object := r.Upkeep, "domain "+string(d.Name)
	if stuck := s.since(u.Stuck); stuck > stuckAfter {
		h.Add(alarm.UpkeepStuck, object, fmt.Sprintf("for %s: %s", stuck.Round(time.Hour), u.Error))
	}
	keep := &d.Retention
	if keep.SizeLimit > 0 && keep.AlarmOnly && u.Needed > keep.SizeLimit {
		h.Add(alarm.HistoryFull, object, fmt.Sprintf("it needs %d bytes, its limit is %d", u.Needed, keep.SizeLimit))
	}
	// What it should reach: its schedule, or its beginning. Points are as far apart as the
	// widest slot has them.
	should := min(time.Duration(u.Reach)*time.Millisecond, s.since(u.Began))
	slack := should/10 + shortBy
	for _, slot := range keep.Schedule {
		slack = max(slack, slot.Every.D()+shortBy)
	}
	if reach := s.since(u.Oldest); reach > 0 && should > 0 && reach+slack < should {
		h.Add(alarm.HistoryShort, object, fmt.Sprintf("it reaches back %s, and should %s", reach.Round(time.Minute), should.Round(time.Minute)))
	}
}

// since is how long ago a time was, of a box, in UTC milliseconds; 0: it is not told, or
// is to come.
func (s *standing) since(at int64) time.Duration {
	if at <= 0 || at >= s.now {
		return 0
	}
	return db.Time(s.now).Sub(db.Time(at))
}
