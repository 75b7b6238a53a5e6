package stats

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// rule says when an alarm holds, by the newest samples of one object.
type rule struct {
	code alarm.Code
	of   string // kind of the objects
	// holds reports whether the condition is there, and what exactly it is; known is
	// false without the samples it needs, and then nothing is said.
	holds func(o *observed) (holds, known bool, detail string)
	lasts time.Duration // how long it has to be there before it is an alarm
}

// observed is what is known of one object.
type observed struct {
	values map[Metric]int64
	domain *site.ProtectedDomain // nil: the object is none
}

// limit is a rule's condition: a metric is above a bound.
func limit(m Metric, bound func(*observed) (int64, bool), words string) func(*observed) (bool, bool, string) {
	return func(o *observed) (bool, bool, string) {
		v, ok := o.values[m]
		most, has := bound(o)
		return v > most, ok && has, fmt.Sprintf(words, v, most)
	}
}

func fixed(n int64) func(*observed) (int64, bool) {
	return func(*observed) (int64, bool) { return n, true }
}

// maxSkew is how far an appliance's clock may be from the manager's: certificates and
// times of points are read by people.
const maxSkew = 30 * time.Second

// slowPut is how long putting an object may take on average: with checkpoints every
// five seconds, longer is behind.
const slowPut = 4 * time.Second

// rules are all there is to say about when samples are an alarm.
func rules() []rule {
	return []rule{
		{alarm.RPOMissed, "domain", limit(RPO, func(o *observed) (int64, bool) {
			if o.domain == nil || o.domain.RPOTarget == 0 || o.domain.Suspended {
				return 0, false
			}
			return o.domain.RPOTarget.D().Milliseconds(), true
		}, "%d ms, the target is %d ms"), 0},
		{alarm.LogFilling, "domain", limit(LogUsed, func(o *observed) (int64, bool) { q, ok := o.values[LogQuota]; return q / 5 * 4, ok && q > 0 }, "%d bytes wait, 80 %% of the log are %d"), 0},
		{alarm.BackPressure, "domain", limit(Held, fixed(0), "guests wait %[1]d ms of each second"), 5 * time.Minute},
		{alarm.Tracking, "domain", limit(Tracked, fixed(0), "%[1]d bytes are not shipped"), 5 * time.Minute},
		{alarm.StoreSlow, "domain", limit(PutLatency, fixed(slowPut.Milliseconds()), "an object takes %d ms, more than %d"), 5 * time.Minute},
		{alarm.ClockSkew, "appliance", limit(ClockSkew, fixed(maxSkew.Milliseconds()), "%d ms, more than %d"), time.Minute},
	}
}

// Judge raises and clears alarms by what a Recorder has seen. It is for one
// goroutine.
type Judge struct {
	r     *Recorder
	rules []rule
	since map[string]time.Time // by code and object: since when a condition is there
}

// NewJudge returns a judge of a recorder's samples.
func NewJudge(r *Recorder) *Judge { return &Judge{r, rules(), map[string]time.Time{}} }

// verdict is whether an alarm holds.
type verdict struct {
	code   alarm.Code
	object string
	holds  bool
	detail string
}

// observe gathers the newest samples of each object.
func (r *Recorder) observe() map[string]*observed {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.now().Add(-freshFor)
	all := map[string]*observed{}
	for s, l := range r.newest {
		if l.at.Before(old) {
			continue
		}
		if all[s.object] == nil {
			all[s.object] = &observed{values: map[Metric]int64{}}
		}
		all[s.object].values[s.metric] = l.value
	}
	return all
}

// judge says which alarms hold; what there is no sample of it says nothing about.
func (j *Judge) judge(domains map[site.Name]*site.ProtectedDomain) (list []verdict) {
	now := j.r.now()
	there := map[string]time.Time{}
	for object, o := range j.r.observe() {
		kind, name, _ := strings.Cut(object, " ")
		if kind == "domain" {
			o.domain = domains[site.Name(name)]
		}
		for _, r := range j.rules {
			if r.of != kind {
				continue
			}
			holds, known, detail := r.holds(o)
			key := string(r.code) + " " + object
			if !known {
				continue
			}
			if holds {
				if there[key] = j.since[key]; there[key].IsZero() {
					there[key] = now
				}
				if now.Sub(there[key]) < r.lasts {
					continue // not yet, and not over either
				}
			}
			list = append(list, verdict{r.code, object, holds, detail})
		}
	}
	j.since = there
	return list
}

// Once judges what was seen until now and notes it. Every replica does this for the
// samples it gets.
func (j *Judge) Once(ctx context.Context, d *db.DB) error {
	domains := map[site.Name]*site.ProtectedDomain{}
	if err := d.View(ctx, func(tx *db.Tx) error {
		all, err := catalog.All(ctx, tx, site.KindDomain)
		for _, o := range all {
			domains[o.Head().Name] = o.(*site.ProtectedDomain)
		}
		return err
	}); err != nil {
		return err
	}
	list := j.judge(domains)
	if len(list) == 0 {
		return nil
	}
	return d.Tx(ctx, func(tx *db.Tx) error {
		for _, v := range list {
			if err := alarm.Set(ctx, tx, v.code, v.object, v.holds, v.detail); err != nil {
				return err
			}
		}
		return nil
	})
}

// judgeEvery is how often samples are judged.
const judgeEvery = 15 * time.Second

// Run judges until ctx ends.
func (j *Judge) Run(ctx context.Context, d *db.DB, log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	tick := time.NewTicker(judgeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := j.Once(ctx, d); err != nil && ctx.Err() == nil {
				log.Warn("samples are not judged", "err", err)
			}
		}
	}
}
