package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// maxSpan bounds a length of time on the command line: a hundred years.
const maxSpan = 36500 * day

// spanWords are the units Go's own lengths of time lack.
var spanWords = []struct {
	suffix string
	unit   time.Duration
}{{"w", 7 * day}, {"d", day}}

// parseSpan reads a length of time above 0: "90s", "1h30m", "30d", "2w".
func parseSpan(flag, text string) (time.Duration, error) {
	bad := usageError{fmt.Errorf("%s %q: write a length of time as 90s, 12h, 30d or 2w", flag, text)}
	for _, u := range spanWords {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n == 0 || n > uint64(maxSpan/u.unit) {
			return 0, bad
		}
		return time.Duration(n) * u.unit, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > maxSpan {
		return 0, bad
	}
	return d, nil
}

// spanOf renders a length of time for people: whole days and hours without
// what is zero in them.
func spanOf(d time.Duration) string {
	neg := ""
	if d < 0 {
		neg, d = "-", -d
	}
	switch {
	case d >= 2*day && d%day == 0:
		return neg + strconv.FormatInt(int64(d/day), 10) + "d"
	case d >= 14*day:
		return fmt.Sprintf("%s%.0fd", neg, d.Hours()/24)
	case d >= 2*day:
		return fmt.Sprintf("%s%.1fd", neg, d.Hours()/24)
	case d >= time.Hour && d%time.Hour == 0:
		return neg + strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d >= time.Minute && d%time.Minute == 0 && d < time.Hour:
		return neg + strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	case d >= time.Minute:
		return neg + d.Round(time.Second).String()
	}
	return neg + d.Round(time.Millisecond).String()
}

// sizeUnits are the units of a number of bytes, decimal and binary.
var sizeUnits = []struct {
	suffix string
	unit   float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15}, {"B", 1},
}

// parseSize reads a number of bytes above 0: "500GB", "1.5TiB".
func parseSize(flag, text string) (int64, error) {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(f > 0) || f*u.unit < 1 || f*u.unit > math.MaxInt64/2 {
			break
		}
		return int64(f * u.unit), nil
	}
	return 0, usageError{fmt.Errorf("%s %q: write a size as 500GB or 1.5TiB", flag, text)}
}

// dayLayouts are the forms of a time of day, and whenLayouts those of a point
// in time, that flags take; without a zone they are UTC, as everything shown.
var (
	dayLayouts  = []string{"15:04", "15:04:05"}
	whenLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"}
)

// timeOfDay reads a time of day and returns the last one that is not after
// limit.
func timeOfDay(text string, limit time.Time) (time.Time, bool) {
	for _, layout := range dayLayouts {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		u := limit.UTC()
		at := time.Date(u.Year(), u.Month(), u.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
		if at.After(u) {
			at = at.Add(-day)
		}
		return at, true
	}
	return time.Time{}, false
}

// parseWhen reads a point in time: absolute, a time of day (the last one), or
// so long before now. An empty text is the zero time.
func parseWhen(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range whenLayouts {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return t, nil
		}
	}
	if t, ok := timeOfDay(text, now); ok {
		return t, nil
	}
	if d, err := parseSpan(flag, text); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, usageError{fmt.Errorf(`%s %q: write a time as 2006-01-02T15:04:05Z, "2006-01-02 15:04" or 15:04 (UTC), or a length of time ago as 2h`, flag, text)}
}
