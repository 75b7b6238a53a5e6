package drva

import (
	"fmt"
	"time"

	"holdfast/internal/drva/order"
	"holdfast/internal/wire"
)

// Level says how near the replication log is to its quota, and what is done
// about it.
//
//	part of the quota   at or above        until below
//	warn                70 %               65 %
//	throttle            85 %               80 %           hosts slow their guests down
//	track               95 %               70 %           hosts leave the stream
//	full                no room at all     there is room  nothing is read any more
//
// The gaps are the hysteresis: a level is left only when what it does has
// worked for good. From track on, what the hosts then send is a resync of what
// changed meanwhile, which must find room: a quarter of the quota.
type Level uint8

// The levels.
const (
	LevelNormal Level = iota
	LevelWarn
	LevelThrottle
	LevelTrack
	LevelFull
)

// String returns the stable name used in status and events.
func (l Level) String() string {
	switch l {
	case LevelNormal:
		return "normal"
	case LevelWarn:
		return "warn"
	case LevelThrottle:
		return "throttle"
	case LevelTrack:
		return "track"
	case LevelFull:
		return "full"
	}
	return "unknown"
}

// MarshalText renders the stable name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText accepts the stable names only.
func (l *Level) UnmarshalText(b []byte) error {
	for v := LevelNormal; v <= LevelFull; v++ {
		if string(b) == v.String() {
			*l = v
			return nil
		}
	}
	return fmt.Errorf("%q is not a level of the log", b)
}

// bounds are the parts of the quota at which a level begins and ends.
var bounds = [...]struct{ enter, leave float64 }{
	LevelWarn:     {0.70, 0.65},
	LevelThrottle: {0.85, 0.80},
	LevelTrack:    {0.95, 0.70},
}

// next is the level that follows l when the log is filled to a part of its
// quota. Full, which is about room and not about a part, is the caller's.
func (l Level) next(fill float64) Level {
	if l == LevelFull {
		l = LevelTrack
	}
	for up := LevelTrack; up > l; up-- {
		if fill >= bounds[up].enter {
			return up
		}
	}
	for l > LevelNormal && fill < bounds[l].leave {
		l--
	}
	return l
}

// throttleRate is what hosts together may acknowledge, in bytes a second, when
// so much drains from a log filled to a part of its quota: more than drains
// while the log is below the middle between throttling and tracking, less
// above, so that it comes to rest there.
func throttleRate(drain, fill float64) float64 {
	low, high := bounds[LevelThrottle].enter, bounds[LevelTrack].enter
	at := min(max((fill-low)/(high-low), 0), 1)
	return max(drain*(throttleMost-at*(throttleMost-throttleLeast)), minThrottle)
}

// overload is what the sequencer does about a log that fills up. Owned by its
// goroutine.
type overload struct {
	level    Level
	since    time.Time
	cause    string
	looked   time.Time
	seen     uint64           // bytes that had come by then
	in, out  rate             // bytes that came from hosts, that were published
	order    wire.TrackReason // in force
	throttle float64          // bytes a second for all hosts; 0: none
	told     time.Time        // when rates were last sent
}

// watchLog looks at the log's filling, and has hosts slow down or track. It
// looks as often as time or what came in demands: a fast host must not get from
// below one level to the end of a small log between two looks.
func (q *sequencer) watchLog(now time.Time) {
	o := &q.load
	came := q.s.count.bytesIn.Load()
	if now.Sub(o.looked) < lookEvery && came-o.seen < uint64(q.s.cfg.Quota)/lookParts {
		return
	}
	o.looked, o.seen = now, came
	o.in.add(came, now)
	o.out.add(q.s.count.drained.Load(), now)
	u := q.rl.Usage()
	fill := float64(u.Used) / float64(u.Quota)
	level := o.level.next(fill)
	if q.paused {
		level = LevelFull
	}
	if level != o.level {
		q.setLevel(level, fill, now)
	}
	q.orderHosts(now)
	q.throttleHosts(fill, now)
	q.s.showLoad(o, fill)
}

// setLevel begins a level and says so.
func (q *sequencer) setLevel(level Level, fill float64, now time.Time) {
	o := &q.load
	rising := level > o.level
	o.level, o.since = level, now
	if rising || o.cause == "" {
		o.cause = q.s.whyFilling(o.in.perSecond, o.out.perSecond)
	}
	if level == LevelNormal {
		o.cause = ""
	}
	q.s.emit(levelEvent(level, rising, fill, o.cause))
}

// levelEvent tells that the log's level has changed.
func levelEvent(l Level, rising bool, fill float64, cause string) Event {
	e := Event{Code: "log-" + l.String(), Severity: Info, Object: "replication log", Text: fmt.Sprintf("filled to %.0f %%", 100*fill)}
	if cause != "" {
		e.Text += ": " + cause
	}
	if !rising {
		e.Text += "; it drains"
		return e
	}
	e.Remedy = "restore the link to the store, lift its bandwidth limit, or raise the log's quota"
	switch l {
	case LevelWarn:
		e.Severity = Warning
	case LevelThrottle:
		e.Severity, e.Text = Warning, e.Text+"; guests' writes are slowed down to what drains"
	case LevelTrack:
		e.Severity, e.Text = Alarm, e.Text+"; hosts track until it has drained, no new point can be recovered until they have resynced"
	case LevelFull:
		e.Severity, e.Text = Alarm, e.Text+"; capture stops, hosts notice and track"
	}
	return e
}

// orderHosts has the hosts track, or stream again, as pause and level demand.
// Hosts that do not know the order notice a full log by themselves.
func (q *sequencer) orderHosts(time.Time) {
	want := wire.TrackNone
	switch {
	case q.s.isPaused():
		want = wire.TrackPausedUser
	case q.load.level >= LevelTrack:
		want = wire.TrackLogFull
	}
	if want == q.load.order {
		return
	}
	q.load.order = want
	frame := wire.Track{Reason: want}.Append(nil)
	for _, c := range q.conns {
		if c.tracks && c.welcome {
			q.tell(c, frame)
		}
	}
}

// throttleHosts tells hosts how much they may acknowledge, each in proportion
// to what it has been sending; a tenth is shared out evenly, so that a host that
// begins to write is not held at nothing.
func (q *sequencer) throttleHosts(fill float64, now time.Time) {
	o := &q.load
	on := !q.s.tuning.Load().NoThrottle && o.level == LevelThrottle
	if !on && o.throttle == 0 || on && o.throttle != 0 && now.Sub(o.told) < throttleEvery {
		return
	}
	o.told, o.throttle = now, 0
	if on {
		o.throttle = throttleRate(o.out.perSecond, fill)
	}
	sum, n := 0.0, 0
	for _, c := range q.conns {
		if c.throttles && c.welcome {
			c.rate.add(c.bytesIn.Load(), now)
			sum, n = sum+c.rate.perSecond, n+1
		}
	}
	for _, c := range q.conns {
		if !c.throttles || !c.welcome {
			continue
		}
		share := 1 / float64(n)
		if sum > 0 {
			share = 0.9*c.rate.perSecond/sum + 0.1/float64(n)
		}
		q.tell(c, wire.Throttle{Rate: uint64(o.throttle * share), Delay: q.s.tuning.Load().ThrottleDelay}.Append(nil))
	}
}

// tell sends a whole frame to a host.
func (q *sequencer) tell(c *conn, frame []byte) {
	if !c.tell(frame) {
		q.dropSlow(c)
	}
}

// greet completes a Welcome by what holds for hosts now.
func (q *sequencer) greet(c *conn, m *order.Send) {
	m.Welcome.Features = append(m.Welcome.Features, wire.FeatureFreeze, wire.FeatureThrottle, wire.FeatureTrack, wire.FeatureBoot)
	c.welcome = true
	if c.tracks {
		m.Welcome.Track = q.load.order
	}
	q.load.told = time.Time{} // a throttle in force is told to the new host at once
}

// whyFilling says what keeps the log from draining.
func (s *Server) whyFilling(in, out float64) string {
	s.mu.Lock()
	pub := s.pub
	s.mu.Unlock()
	if pub != nil {
		if st := pub.Status(); st.LastError != nil {
			return "the store does not take what is published: " + st.LastError.Error()
		}
	}
	return fmt.Sprintf("hosts send %.1f MB/s, %.1f MB/s are published", in/1e6, out/1e6)
}
