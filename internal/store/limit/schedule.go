package limit

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // an appliance has no zone files of its own

	"holdfast/internal/errs"
)

// Days is a set of days of the week: bit 0 is Monday, bit 6 Sunday.
type Days uint8

// AllDays is every day.
const AllDays Days = 1<<7 - 1

// dayNames in the order of Days.
var dayNames = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// has reports whether the day of the week is in the set.
func (d Days) has(w time.Weekday) bool { return d>>((w+6)%7)&1 == 1 }

// String renders the set as a schedule has it: "*", "mon-fri", "mon,wed".
func (d Days) String() string {
	if d == AllDays {
		return "*"
	}
	var parts []string
	for i := 0; i < len(dayNames); i++ {
		if d>>i&1 == 0 {
			continue
		}
		j := i
		for j+1 < len(dayNames) && d>>(j+1)&1 == 1 {
			j++
		}
		switch j {
		case i:
			parts = append(parts, dayNames[i])
		case i + 1:
			parts = append(parts, dayNames[i], dayNames[j])
		default:
			parts = append(parts, dayNames[i]+"-"+dayNames[j])
		}
		i = j
	}
	return strings.Join(parts, ",")
}

// dayMinutes is a day's length in minutes, as wall clocks show it.
const dayMinutes = 24 * 60

// Rule allows a bandwidth at certain times. From and To are minutes since
// midnight, To is not included; with To before or at From the rule goes on
// past midnight, and what is after midnight belongs to the day on which it
// began. 0 to 1440 is the whole day.
type Rule struct {
	Days     Days
	From, To int
	Up, Down Rate
}

// covers reports whether the rule holds at a wall clock time.
func (r Rule) covers(day time.Weekday, minute int) bool {
	if r.From < r.To {
		return r.Days.has(day) && r.From <= minute && minute < r.To
	}
	return r.Days.has(day) && minute >= r.From || r.Days.has((day+6)%7) && minute < r.To
}

// always reports whether the rule holds at all times.
func (r Rule) always() bool { return r.Days == AllDays && r.From == 0 && r.To == dayMinutes }

// String renders the rule as a schedule has it.
func (r Rule) String() string {
	s := r.Days.String()
	if r.From != 0 || r.To != dayMinutes {
		s += fmt.Sprintf(" %02d:%02d-%02d:%02d", r.From/60, r.From%60, r.To/60, r.To%60)
	}
	if r.Up == r.Down {
		return s + " " + r.Up.String()
	}
	return s + " up " + r.Up.String() + " down " + r.Down.String()
}

// Schedule says which bandwidth is allowed when. Of the rules that hold, the
// first counts; when none does, there is no limit. The zero Schedule limits
// nothing. A Schedule is not changed once it is in use.
type Schedule struct {
	Rules []Rule
	Zone  *time.Location // whose clock the rules mean; nil: UTC
}

// At returns what is allowed at t, and until when the answer holds at least.
func (s Schedule) At(t time.Time) (up, down Rate, until time.Time) {
	zone := s.Zone
	if zone == nil {
		zone = time.UTC
	}
	local := t.In(zone)
	minute := local.Hour()*60 + local.Minute()
	until = t.Add(lookAgain)
	// Rules begin and end on whole minutes of the wall clock.
	if next := t.Add(time.Minute - time.Duration(local.Second())*time.Second - time.Duration(local.Nanosecond())); next.Before(until) {
		until = next
	}
	for _, r := range s.Rules {
		if r.covers(local.Weekday(), minute) {
			return r.Up, r.Down, until
		}
	}
	return Unlimited, Unlimited, until
}

// String renders the schedule in the form that ParseSchedule reads.
func (s Schedule) String() string {
	var parts []string
	if s.Zone != nil {
		parts = append(parts, "zone "+s.Zone.String())
	}
	for _, r := range s.Rules {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, "; ")
}

// ParseSchedule reads a schedule: rules separated by semicolons, each made of
// days ("*", "mon-fri", "sat,sun"), times ("08:00-18:00", left out for the
// whole day) and rates ("20MB/s" for both directions, or "up 5MB/s",
// "down 50Mbit/s", or "unlimited"). A schedule with days or times begins with
// the time zone it means: "zone Europe/Berlin" or "zone UTC". An empty text
// limits nothing. Errors are of kind Invalid, with a remedy.
func ParseSchedule(text string) (Schedule, error) {
	const op = "limit.ParseSchedule"
	bad := func(object, words string) (Schedule, error) {
		return Schedule{}, errs.New(op, errs.Invalid, fmt.Sprintf("%q", object), words).
			WithRemedy(`write it as in "zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; * up 100MB/s down 200MB/s"`)
	}
	if len(text) > maxText {
		return bad(text[:40]+"…", fmt.Sprintf("a bandwidth schedule has at most %d bytes", maxText))
	}
	var s Schedule
	if strings.TrimSpace(text) == "" {
		return s, nil
	}
	for i, part := range strings.Split(text, ";") {
		words := strings.Fields(part)
		if len(words) == 2 && strings.EqualFold(words[0], "zone") {
			zone, err := time.LoadLocation(words[1])
			if i > 0 || err != nil || words[1] == "Local" {
				return bad(part, "is not a time zone at the beginning of the schedule")
			}
			s.Zone = zone
			continue
		}
		r, fault := parseRule(words)
		if fault != "" {
			return bad(part, fault)
		}
		s.Rules = append(s.Rules, r)
	}
	switch {
	case len(s.Rules) > maxRules:
		return bad(text[:40]+"…", fmt.Sprintf("a bandwidth schedule has at most %d rules", maxRules))
	case len(s.Rules) == 0:
		return bad(text, "has no rule")
	case s.Zone == nil && slices.ContainsFunc(s.Rules, func(r Rule) bool { return !r.always() }):
		return bad(text, "has days or times, and does not say of which time zone")
	}
	return s, nil
}

// parseRule reads one rule; fault says what is wrong with it.
func parseRule(words []string) (r Rule, fault string) {
	r = Rule{From: 0, To: dayMinutes}
	if len(words) == 0 {
		return r, "is empty between semicolons"
	}
	if r.Days, fault = parseDays(strings.ToLower(words[0])); fault != "" {
		return r, fault
	}
	words = words[1:]
	if len(words) > 0 && strings.Contains(words[0], ":") {
		if r.From, r.To, fault = parseTimes(words[0]); fault != "" {
			return r, fault
		}
		words = words[1:]
	}
	if len(words) == 1 {
		r.Up, fault = parseRate(words[0])
		r.Down = r.Up
		return r, fault
	}
	seen := map[string]bool{}
	for ; len(words) >= 2; words = words[2:] {
		direction := strings.ToLower(words[0])
		if direction != "up" && direction != "down" || seen[direction] {
			return r, fmt.Sprintf("%q stands where up or down belongs", words[0])
		}
		seen[direction] = true
		rate, fault := parseRate(words[1])
		if fault != "" {
			return r, fault
		}
		if direction == "up" {
			r.Up = rate
		} else {
			r.Down = rate
		}
	}
	switch {
	case len(words) > 0:
		return r, fmt.Sprintf("%q is too much", words[0])
	case len(seen) == 0:
		return r, "has no rate"
	}
	return r, ""
}

func parseDays(s string) (d Days, fault string) {
	if s == "*" {
		return AllDays, ""
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		i, j := slices.Index(dayNames, first), slices.Index(dayNames, last)
		if i < 0 || j < 0 {
			return 0, fmt.Sprintf("%q is neither * nor days such as mon, mon-fri or sat,sun", part)
		}
		for ; ; i = (i + 1) % len(dayNames) { // sat-mon goes over the week's end
			d |= 1 << i
			if i == j {
				break
			}
		}
	}
	return d, ""
}

func parseTimes(s string) (from, to int, fault string) {
	a, b, ok := strings.Cut(s, "-")
	from, okFrom := parseClock(a)
	to, okTo := parseClock(b)
	if !ok || !okFrom || !okTo || from == dayMinutes || from == to {
		return 0, 0, fmt.Sprintf("%q is not a time of the day such as 08:00-18:00 or 22:00-06:00", s)
	}
	return from, to, ""
}

func parseClock(s string) (minutes int, ok bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	h, m := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	return h*60 + m, m < 60 && (h < 24 || h == 24 && m == 0)
}
