package timetable

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxText bounds a time-table as people write it, bytes.
	maxText = 500
	// maxEntries bounds its entries.
	maxEntries = 20
	// horizon is how far is looked for the next time: 29 February comes every eight years.
	horizon = 9 * 366
)

// Table is when something is done. The zero value is never. It is plain data.
type Table struct {
	zone    *time.Location
	entries []entry
}

// entry is a time of day on some days.
type entry struct {
	days         [7]bool // by time.Weekday
	monthly      int     // day of the month; 0: by days
	hour, minute int
}

// Parse reads a time-table. Empty text is the zero one. Errors are for people.
func Parse(text string) (Table, error) {
	t := Table{zone: time.UTC}
	if len(text) > maxText {
		return Table{}, fmt.Errorf("a time-table of %d bytes; at most %d", len(text), maxText)
	}
	if strings.TrimSpace(text) == "" {
		return Table{}, nil
	}
	for i, part := range strings.Split(text, ";") {
		words := strings.Fields(part)
		switch {
		case len(words) == 2 && words[0] == "zone" && i == 0:
			zone, err := time.LoadLocation(words[1])
			if err != nil || words[1] == "Local" {
				return Table{}, fmt.Errorf("%q is no time zone: write it as Europe/Berlin", words[1])
			}
			t.zone = zone
		case len(words) == 2 && len(t.entries) < maxEntries:
			e, err := parseEntry(words[0], words[1])
			if err != nil {
				return Table{}, err
			}
			t.entries = append(t.entries, e)
		default:
			return Table{}, fmt.Errorf("%q is no entry: write days and a time, as sat 02:30, mon-fri 22:00 or 1 03:00; at most %d", strings.TrimSpace(part), maxEntries)
		}
	}
	if len(t.entries) == 0 {
		return Table{}, fmt.Errorf("the time-table has a zone, and no times")
	}
	return t, nil
}

func parseEntry(days, at string) (e entry, err error) {
	h, m, ok := strings.Cut(at, ":")
	e.hour, err = strconv.Atoi(h)
	if err != nil || !ok || len(h) != 2 || len(m) != 2 || e.hour < 0 || e.hour > 23 {
		return e, fmt.Errorf("%q is no time of day: write it as 02:30", at)
	}
	if e.minute, err = strconv.Atoi(m); err != nil || e.minute < 0 || e.minute > 59 {
		return e, fmt.Errorf("%q is no time of day: write it as 02:30", at)
	}
	if n, err := strconv.Atoi(days); err == nil {
		if n < 1 || n > 31 {
			return e, fmt.Errorf("%d is no day of a month", n)
		}
		e.monthly = n
		return e, nil
	}
	if days == "daily" {
		days = "sun-sat"
	}
	for _, part := range strings.Split(days, ",") {
		from, to, span := strings.Cut(part, "-")
		if !span {
			to = from
		}
		a, b := slices.Index(names, from), slices.Index(names, to)
		if a < 0 || b < 0 {
			return e, fmt.Errorf("%q are no days: write sat, mon-fri, mon,thu, daily or a day of the month", days)
		}
		for d := a; ; d = (d + 1) % 7 {
			e.days[d] = true
			if d == b {
				break
			}
		}
	}
	return e, nil
}

// names are the days as time.Weekday counts them.
var names = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// IsZero reports whether the table never comes.
func (t Table) IsZero() bool { return len(t.entries) == 0 }

// Next is the first time of the table after a time; zero: there is none.
func (t Table) Next(after time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	day := after.In(t.zone)
	for i := range horizon {
		var best time.Time
		for _, e := range t.entries {
			// Noon is on the day whatever the clock does at night.
			noon := time.Date(day.Year(), day.Month(), day.Day()+i, 12, 0, 0, 0, t.zone)
			if !e.on(noon) {
				continue
			}
			at := e.at(noon)
			if at.After(after) && (best.IsZero() || at.Before(best)) {
				best = at
			}
		}
		if !best.IsZero() {
			return best.UTC()
		}
	}
	return time.Time{}
}

// at is an entry's time on a day. Of one that the clock shows twice it is the first,
// which time.Date leaves open.
func (e *entry) at(noon time.Time) time.Time {
	at := time.Date(noon.Year(), noon.Month(), noon.Day(), e.hour, e.minute, 0, 0, noon.Location())
	for _, back := range []time.Duration{time.Hour, time.Hour / 2} { // what clocks are set back by
		if was := at.Add(-back); was.Hour() == at.Hour() && was.Minute() == at.Minute() {
			return was
		}
	}
	return at
}

// on reports whether an entry is of a day.
func (e *entry) on(noon time.Time) bool {
	if e.monthly == 0 {
		return e.days[noon.Weekday()]
	}
	last := time.Date(noon.Year(), noon.Month()+1, 0, 12, 0, 0, 0, time.UTC).Day()
	return noon.Day() == min(e.monthly, last)
}
