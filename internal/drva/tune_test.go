package drva

import (
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// TestTune: a running appliance takes another interval and target at once: its epoch, its
// log and its host's connection stay, and points go on.
func TestTune(t *testing.T) {
	r := newRig(t, nil, func(c *Config) { c.Interval = MaxInterval })
	r.start()
	h := newHost(t, r, seeded(t), dr.Async, 8<<20)
	if err := h.connect(r); err != nil {
		t.Fatal(err)
	}
	h.sync()
	h.writes(20)
	h.settle()
	epoch, before := r.srv.Status().Publisher.Epoch, r.srv.Status().Checkpoints.Taken
	for what, bad := range map[string]Tuning{
		"interval": {Interval: time.Millisecond}, "app interval": {AppInterval: time.Second}, "target": {RPOTarget: time.Second}, "delay": {ThrottleDelay: time.Hour},
	} {
		if err := r.srv.Tune(t.Context(), bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := *r.srv.tuning.Load(); got.Interval != MaxInterval {
		t.Errorf("what was refused is in force: %+v", got)
	}
	want := Tuning{Interval: MinInterval, RPOTarget: time.Hour, Compression: segment.Smallest, NoThrottle: true}
	if err := r.srv.Tune(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	h.writes(3)
	seen := before
	eventually(t, "checkpoints each second, and the target met", func() bool {
		st := r.srv.Status()
		if st.Checkpoints.Taken != seen { // the next one has something as well
			seen = st.Checkpoints.Taken
			h.writes(3)
		}
		return st.Checkpoints.Taken >= before+3 && st.RPOState == Meets
	})
	st := r.srv.Status()
	if st.Publisher.Epoch != epoch || len(st.Hosts) != 1 || st.Hosts[0].State != "live" || st.RPOTarget != 3600 {
		t.Errorf("after a change: epoch %d, was %d; %+v", st.Publisher.Epoch, epoch, st.Hosts)
	}
	if err := r.srv.Tune(t.Context(), Tuning{Interval: MinInterval}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a promise that was taken back is told no more", func() bool { return r.srv.Status().RPOState == NoTarget })
}

// TestRetime: the next checkpoints are when the new intervals have them; those that freeze
// guests begin, come sooner and end.
func TestRetime(t *testing.T) {
	s := &Server{}
	q := &sequencer{s: s, nextCut: time.Now().Add(time.Hour)}
	in := func(at time.Time, d time.Duration) bool { left := time.Until(at); return left <= d && left > d/2 }
	for _, x := range []struct{ cut, app, want time.Duration }{
		{time.Second * 5, 0, 0}, {10 * time.Second, time.Hour, time.Hour}, {10 * time.Second, 10 * time.Minute, 10 * time.Minute},
		{10 * time.Second, time.Hour, 10 * time.Minute}, {time.Second * 5, 0, 0},
	} {
		s.tuning.Store(&Tuning{Interval: x.cut, AppInterval: x.app})
		q.retime()
		if !in(q.nextCut, x.cut) || x.want == 0 && !q.nextApp.IsZero() || x.want > 0 && !in(q.nextApp, x.want) {
			t.Errorf("%+v: in %v and %v", x, time.Until(q.nextCut), time.Until(q.nextApp))
		}
	}
}
