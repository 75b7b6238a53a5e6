package maintain

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/errs"
)

// Tier keeps one checkpoint of every slot of Every for as long as For.
type Tier struct {
	Every time.Duration // width of a slot, whole seconds
	For   time.Duration // how far back slots of this width reach
}

// Schedule says how dense a history is kept: tiers from the finest and
// youngest to the coarsest and oldest. It is written as
//
//	5s for 1h, 1m for 24h, 1h for 30d
//
// The zero value is no schedule; see DefaultSchedule.
type Schedule []Tier

// DefaultSchedule is 5s for 1h, 1m for 24h, 1h for 30d: about 2880
// checkpoints.
func DefaultSchedule() Schedule {
	return Schedule{
		{Every: 5 * time.Second, For: time.Hour},
		{Every: time.Minute, For: day},
		{Every: time.Hour, For: 30 * day},
	}
}

// Span is how far back the schedule reaches.
func (s Schedule) Span() time.Duration {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].For
}

// Points bounds how many checkpoints the schedule keeps at any time, partial
// ones not counted.
func (s Schedule) Points() int {
	n := 0
	for _, t := range s {
		n += int(t.For/t.Every) + 2 // both ends of the window may cut a slot
	}
	return n
}

// String is the inverse of ParseSchedule.
func (s Schedule) String() string {
	var b strings.Builder
	for i, t := range s {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(formatSpan(t.Every) + " for " + formatSpan(t.For))
	}
	return b.String()
}

// MarshalText renders the written form.
func (s Schedule) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts what ParseSchedule accepts.
func (s *Schedule) UnmarshalText(b []byte) error {
	v, err := ParseSchedule(string(b))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

const scheduleForm = `write it as "5s for 1h, 1m for 24h, 1h for 30d": widths and spans rise, the last span is 1h to 3650d, units are s, m, h, d and w`

func badSchedule(what, why string) error {
	if len(what) > 80 {
		what = what[:80] + "…"
	}
	return errs.New("maintain.ParseSchedule", errs.Invalid, fmt.Sprintf("%q", what), why).WithRemedy(scheduleForm)
}

// ParseSchedule reads a schedule's written form and validates it. Kind Invalid
// with the right form as remedy.
func ParseSchedule(text string) (Schedule, error) {
	if len(text) > maxScheduleText {
		return nil, badSchedule(text, "the schedule is too long")
	}
	var s Schedule
	for part := range strings.SplitSeq(text, ",") {
		every, span, ok := strings.Cut(part, " for ")
		if !ok {
			return nil, badSchedule(text, fmt.Sprintf("%q is not a width, the word for, and a span", strings.TrimSpace(part)))
		}
		e, okE := parseSpan(every)
		f, okF := parseSpan(span)
		if !okE || !okF {
			return nil, badSchedule(text, fmt.Sprintf("%q has no valid length of time", strings.TrimSpace(part)))
		}
		s = append(s, Tier{Every: e, For: f})
	}
	return s, s.Validate()
}

// Validate returns nil for a schedule that can be kept. Kind Invalid
// otherwise.
func (s Schedule) Validate() error {
	bad := func(why string) error { return badSchedule(s.String(), why) }
	if len(s) == 0 || len(s) > maxTiers {
		return bad(fmt.Sprintf("it has %d tiers; 1 to %d are allowed", len(s), maxTiers))
	}
	for i, t := range s {
		switch {
		case t.Every < time.Second || t.Every%time.Second != 0 || t.For%time.Second != 0:
			return bad("widths and spans are whole seconds")
		case t.For < t.Every:
			return bad("a span is shorter than its width")
		case t.For > maxSpan:
			return bad("a span is longer than 3650d")
		case i > 0 && (t.Every <= s[i-1].Every || t.For <= s[i-1].For):
			return bad("widths and spans do not rise from tier to tier")
		}
	}
	if s.Span() < Floor {
		return bad("it keeps less than the hour that is never given up")
	}
	if n := s.Points(); n > maxSchedulePoints {
		return bad(fmt.Sprintf("it keeps up to %d checkpoints; at most %d are allowed", n, maxSchedulePoints))
	}
	return nil
}

// spanUnits are the units of a written length of time, largest first.
var spanUnits = []struct {
	name string
	unit time.Duration
}{{"w", 7 * day}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

func parseSpan(text string) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	for _, u := range spanUnits {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok || digits == "" || len(digits) > 9 || digits[0] < '0' || digits[0] > '9' {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n == 0 || n > uint64(maxSpan/u.unit) {
			return 0, false
		}
		return time.Duration(n) * u.unit, true
	}
	return 0, false
}

// formatSpan renders a whole number of the largest unit that fits; a single
// day is 24h, as people say it of a window.
func formatSpan(d time.Duration) string {
	for _, u := range spanUnits[1:] {
		if d >= u.unit && d%u.unit == 0 && (u.unit != day || d > day) {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return d.String()
}
