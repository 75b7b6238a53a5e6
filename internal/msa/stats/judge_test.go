package stats

import (
	"testing"
	"time"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

// TestJudge: an alarm holds when its condition has lasted, ends with it, and is left
// as it is while nothing is known.
func TestJudge(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := NewRecorder(func() time.Time { return now })
	j := NewJudge(r)
	domains := map[site.Name]*site.ProtectedDomain{
		"erp": {RPOTarget: site.Span(10 * time.Second)}, "lax": {}, "paused": {RPOTarget: site.Span(10 * time.Second), Suspended: true},
	}
	says := func(c alarm.Code, object string) string {
		for _, v := range j.judge(domains) {
			if v.code == c && v.object == object {
				if v.holds {
					return "holds"
				}
				return "is over"
			}
		}
		return "nothing"
	}
	want := func(what string, c alarm.Code, object, said string) {
		t.Helper()
		if got := says(c, object); got != said {
			t.Errorf("%s: %s, not %s", what, got, said)
		}
	}
	for _, name := range []string{"erp", "lax", "paused", "unknown"} {
		r.Observe(RPO, "domain "+name, 11000)
	}
	r.Observe(RPO, "vm erp", 11000)
	want("above its target", alarm.RPOMissed, "domain erp", "holds")
	for _, object := range []string{"domain lax", "domain paused", "domain unknown", "vm erp"} {
		want("without a target", alarm.RPOMissed, object, "nothing")
	}
	r.Observe(RPO, "domain erp", 9000)
	want("below its target", alarm.RPOMissed, "domain erp", "is over")
	r.Observe(LogUsed, "domain erp", 900)
	want("a log without a quota", alarm.LogFilling, "domain erp", "nothing")
	r.Observe(LogQuota, "domain erp", 1000)
	want("a full log", alarm.LogFilling, "domain erp", "holds")
	r.Observe(Tracked, "domain erp", 5)
	want("tracking begins", alarm.Tracking, "domain erp", "nothing")
	for range 5 {
		now = now.Add(time.Minute)
		r.Observe(Tracked, "domain erp", 5)
		says("", "")
	}
	want("tracking lasts", alarm.Tracking, "domain erp", "holds")
	r.Observe(Tracked, "domain erp", 0)
	want("tracking ends", alarm.Tracking, "domain erp", "is over")
	r.Observe(Tracked, "domain erp", 5)
	want("and begins anew", alarm.Tracking, "domain erp", "nothing")
	now = now.Add(freshFor + time.Second)
	want("when nothing is known", alarm.Tracking, "domain erp", "nothing")

	for _, x := range []struct {
		code   alarm.Code
		metric Metric
		object string
		bad    int64
	}{{alarm.BackPressure, Held, "domain erp", 1}, {alarm.StoreSlow, PutLatency, "domain erp", slowPut.Milliseconds() + 1}, {alarm.ClockSkew, ClockSkew, "appliance x", maxSkew.Milliseconds() + 1}} {
		r.Observe(x.metric, x.object, x.bad)
		want("it begins", x.code, x.object, "nothing")
		for range 5 {
			now = now.Add(time.Minute)
			r.Observe(x.metric, x.object, x.bad)
			says("", "")
		}
		want("it lasts", x.code, x.object, "holds")
		r.Observe(x.metric, x.object, 0)
		want("it ends", x.code, x.object, "is over")
	}

	d := open(t, dbtest.SQLite(t))
	r.Observe(ClockSkew, "appliance drva-1", 60000)
	for range 2 {
		if err := j.Once(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	if err := d.View(t.Context(), func(tx *db.Tx) error {
		list, _, err := alarm.List(t.Context(), tx, false, alarm.Cursor{}, 0)
		if len(list) != 1 || list[0].Object != "appliance drva-1" {
			t.Errorf("alarms: %+v", list)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
