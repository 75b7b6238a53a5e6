package maintain

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
)

func TestParseSchedule(t *testing.T) {
	for text, want := range map[string]string{
		"5s for 1h, 1m for 24h, 1h for 30d":  "5s for 1h, 1m for 24h, 1h for 30d",
		" 5s  for 1h ,60s for 1d,60m for 4w": "5s for 1h, 1m for 24h, 1h for 28d",
		"1s for 1h":                          "1s for 1h",
		"24h for 3650d":                      "24h for 3650d",
		"90s for 2h":                         "90s for 2h",
	} {
		s, err := ParseSchedule(text)
		if err != nil || s.String() != want {
			t.Errorf("%q: got %q, %v; want %q", text, s, err, want)
		}
	}
	if got, err := ParseSchedule(DefaultSchedule().String()); err != nil || !slices.Equal(got, DefaultSchedule()) {
		t.Errorf("the default reads back as %v, %v", got, err)
	}
	if n := DefaultSchedule().Points(); n < 2880 || n > 2890 {
		t.Errorf("the default keeps %d points", n)
	}
	for _, text := range []string{
		"", ",", "5s", "5s for", "5s for 1h,", "5 for 1h", "5s for 59m", "1h for 1h, 5s for 2h", "5s for 2h, 1m for 1h",
		"0s for 1h", "-5s for 1h", "+5s for 1h", "5s for 3651d", "1s for 30d", "5s for 99999999999d", "5ms for 1h", "5s for 1h 1m for 2h",
		"2h for 1h", "1.5s for 1h", strings.Repeat("5s for 1h,", 200), "5s for 18446744073709551615h",
	} {
		s, err := ParseSchedule(text)
		if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), "5s for 1h") {
			t.Errorf("%.40q: got %v, %v", text, s, err)
		}
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"5s for 1h, 1m for 24h, 1h for 30d", "1s for 1h", "", "5s for", "9w for 9w", "1h for 3650d,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			if !errs.Is(err, errs.Invalid) {
				t.Fatalf("kind %v", errs.KindOf(err))
			}
			return
		}
		if n := s.Points(); n < 1 || n > maxSchedulePoints || s.Span() < Floor {
			t.Fatalf("%q keeps %d points over %v", s, n, s.Span())
		}
		again, err := ParseSchedule(s.String())
		if err != nil || !slices.Equal(s, again) {
			t.Fatalf("%q reads back as %q, %v", s, again, err)
		}
		var text2 Schedule
		b, _ := s.MarshalText()
		if err := text2.UnmarshalText(b); err != nil || !slices.Equal(s, text2) {
			t.Fatalf("%q unmarshals to %q, %v", b, text2, err)
		}
	})
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
