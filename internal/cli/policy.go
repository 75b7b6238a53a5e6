package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"holdfast/internal/errs"
	"holdfast/internal/maintain"
	"holdfast/internal/store"
)

// policyText is a retention policy as people write it. An empty field stands
// for the default, or for what is in force.
type policyText struct {
	schedule string // "5s for 1h, 1m for 24h, 1h for 30d"
	limit    string // "500GB", "500GB alarm", "none"
	grace    string
	tagTime  string // "90d", or "schedule": as long as that reaches back
	lock     string // "governance for 30d", "compliance for 30d", "none"
}

const (
	limitShorten = "shorten"
	limitAlarm   = "alarm"
	wordNone     = "none"
	wordSchedule = "schedule"
)

// apply changes the named parts of a policy.
func (t *policyText) apply(p *maintain.Policy) (err error) {
	if t.schedule != "" {
		follows := p.TagFor == p.Schedule.Span()
		if p.Schedule, err = maintain.ParseSchedule(t.schedule); err != nil {
			return err
		}
		if follows && p.Schedule.Span() > p.TagFor {
			p.TagFor = 0 // as long as the new one; a shorter one takes no tags along unasked
		}
	}
	if t.limit != "" {
		if p.SizeLimit, p.Limit, err = parseLimit(t.limit); err != nil {
			return err
		}
	}
	if t.grace != "" {
		if p.Grace, err = parseSpan("grace", t.grace); err != nil {
			return err
		}
	}
	if t.tagTime == wordSchedule {
		p.TagFor = 0
	} else if t.tagTime != "" {
		if p.TagFor, err = parseSpan("tag time", t.tagTime); err != nil {
			return err
		}
	}
	if t.lock != "" {
		if p.Lock, err = parseLock(t.lock); err != nil {
			return err
		}
	}
	return p.Validate()
}

// empty reports whether nothing is named.
func (t *policyText) empty() bool { return *t == policyText{} }

// parseLimit reads a size limit and what happens beyond it.
func parseLimit(text string) (bytes int64, mode maintain.LimitMode, err error) {
	if text == wordNone {
		return 0, maintain.Shorten, nil
	}
	size, word, _ := strings.Cut(strings.TrimSpace(text), " ")
	switch strings.TrimSpace(word) {
	case "", limitShorten:
	case limitAlarm:
		mode = maintain.AlarmOnly
	default:
		return 0, 0, usageError{fmt.Errorf("size limit %q: what happens beyond it is shorten or alarm", text)}
	}
	bytes, err = parseSize("size limit", size)
	return bytes, mode, err
}

// parseLock reads how what is needed is held against deletion.
func parseLock(text string) (maintain.LockPolicy, error) {
	if text == wordNone {
		return maintain.LockPolicy{}, nil
	}
	mode, span, ok := strings.Cut(text, " for ")
	l := maintain.LockPolicy{Mode: store.LockMode(strings.TrimSpace(mode))}
	if !ok || l.Mode != store.LockGovernance && l.Mode != store.LockCompliance {
		return l, usageError{fmt.Errorf(`lock %q: write it as "governance for 30d", "compliance for 30d" or "none"`, text)}
	}
	var err error
	l.Window, err = parseSpan("lock", strings.TrimSpace(span))
	return l, err
}

// add gives a command flags for a whole policy.
func (t *policyText) add(f *pflag.FlagSet) {
	f.StringVar(&t.schedule, "schedule", "", `how dense history is kept: "5s for 1h, 1m for 24h, 1h for 30d"`)
	f.StringVar(&t.limit, "size-limit", "", `bound of the history: "500GB" (then the oldest go), "500GB alarm" (then only an alarm), or "none"`)
	f.StringVar(&t.grace, "grace", "", "how long what nothing needs any more stays in the store, at least 1h")
	t.addHolding(f)
}

// addHolding gives a command flags for what keeps longer than the schedule.
func (t *policyText) addHolding(f *pflag.FlagSet) {
	f.StringVar(&t.tagTime, "tag-time", "", `how long tagged and quiesced checkpoints stay: "90d", or "schedule": as long as that reaches back`)
	f.StringVar(&t.lock, "lock", "", `how long nobody can delete what the history needs: "governance for 30d", "compliance for 30d" or "none"`)
}

// policyView is a policy for people and scripts.
type policyView struct {
	Schedule  string  `json:"schedule"`
	Span      float64 `json:"span_seconds"`
	SizeLimit int64   `json:"size_limit_bytes"` // 0: none
	Beyond    string  `json:"beyond_limit"`     // shorten or alarm
	Grace     float64 `json:"grace_seconds"`
	TagTime   float64 `json:"tag_time_seconds"`
	Follows   bool    `json:"tag_time_is_schedule"` // and changes with it
	Lock      string  `json:"lock"`                 // "governance for 30d", or none
}

func viewPolicy(p *maintain.Policy) policyView {
	v := policyView{Schedule: p.Schedule.String(), Span: p.Schedule.Span().Seconds(), SizeLimit: p.SizeLimit, Beyond: limitShorten, Grace: p.Grace.Seconds(),
		TagTime: p.TagFor.Seconds(), Follows: p.TagFor == 0 || p.TagFor == p.Schedule.Span(), Lock: lockText(p.Lock)}
	if v.Follows {
		v.TagTime = v.Span
	}
	if p.Limit == maintain.AlarmOnly {
		v.Beyond = limitAlarm
	}
	return v
}

func (v *policyView) limitText() string {
	if v.SizeLimit == 0 {
		return wordNone
	}
	if v.Beyond == limitAlarm {
		return sizeOf(v.SizeLimit) + ", then an alarm"
	}
	return sizeOf(v.SizeLimit) + ", then the oldest go"
}

// lockText is how people write a lock.
func lockText(l maintain.LockPolicy) string {
	if l.Mode == "" {
		return wordNone
	}
	return string(l.Mode) + " for " + spanOf(l.Window)
}

func (v *policyView) tagText() string {
	if v.Follows {
		return "as long as the schedule"
	}
	return spanOf(secondsOf(v.TagTime))
}

// rows are the policy's parts by name, in the order they are shown.
func (v *policyView) rows() [][2]string {
	return [][2]string{
		{"schedule", v.Schedule}, {"size limit", v.limitText()}, {"grace", spanOf(secondsOf(v.Grace))},
		{"tag time", v.tagText()}, {"lock", v.Lock},
	}
}

func printPolicy(w io.Writer, v *policyView) {
	for _, r := range v.rows() {
		fmt.Fprintf(w, "%s\t%s\n", r[0], r[1])
	}
}

func secondsOf(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// shortens lists in which ways after keeps less than before.
func shortens(before, after *maintain.Policy, live int64) (ways []string) {
	if after.Schedule.Span() < before.Schedule.Span() {
		ways = append(ways, fmt.Sprintf("history reaches back %s instead of %s", spanOf(after.Schedule.Span()), spanOf(before.Schedule.Span())))
	}
	if after.Grace < before.Grace {
		ways = append(ways, fmt.Sprintf("what is not needed is deleted after %s instead of %s", spanOf(after.Grace), spanOf(before.Grace)))
	}
	if b, a := viewPolicy(before), viewPolicy(after); a.TagTime < b.TagTime {
		ways = append(ways, fmt.Sprintf("tagged checkpoints stay %s instead of %s", spanOf(secondsOf(a.TagTime)), spanOf(secondsOf(b.TagTime))))
	}
	if b, a := before.Lock, after.Lock; a.Window < b.Window || b.Mode == store.LockCompliance && a.Mode == store.LockGovernance {
		ways = append(ways, fmt.Sprintf("what is needed is held against deletion: %s instead of %s", lockText(a), lockText(b)))
	}
	bounded := func(p *maintain.Policy) bool { return p.SizeLimit > 0 && p.Limit == maintain.Shorten }
	if bounded(after) && (!bounded(before) || after.SizeLimit < before.SizeLimit) && live > after.SizeLimit {
		ways = append(ways, fmt.Sprintf("history needs %s, so that the oldest checkpoints go until it fits %s", sizeOf(live), sizeOf(after.SizeLimit)))
	}
	return ways
}

// notEmpty refuses a change that changes nothing.
func notEmpty(t *policyText, op string) error {
	if !t.empty() {
		return nil
	}
	return usageError{fmt.Errorf("%s: say what is to change; see --help", op)}
}

// unconfirmed is what a change that keeps less comes to without --yes.
func unconfirmed(op, object string, ways []string) error {
	return errs.New(op, errs.Invalid, object, "this keeps less than before, and was not confirmed: "+strings.Join(slices.Compact(ways), "; ")).
		WithRemedy("nothing was changed; to do it, repeat with --yes")
}
