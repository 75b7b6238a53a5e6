package timetable

import (
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	for _, c := range []struct{ table, after, want string }{
		{"sat 02:30", "2026-11-29T11:00:00Z", "2026-12-05T02:30:00Z"},
		{"sat 02:30", "2026-12-05T02:29:59Z", "2026-12-05T02:30:00Z"},
		{"sat 02:30", "2026-12-05T02:30:00Z", "2026-12-12T02:30:00Z"},
		{"daily 01:15", "2026-11-29T01:15:00Z", "2026-11-30T01:15:00Z"},
		{"mon-fri 22:00; sun 04:00", "2026-11-28T12:00:00Z", "2026-11-29T04:00:00Z"},
		{"fri-mon 00:00", "2026-12-01T12:00:00Z", "2026-12-04T00:00:00Z"},
		{"mon,thu 08:00", "2026-12-01T00:00:00Z", "2026-12-03T08:00:00Z"},
		{"1 03:00", "2026-11-29T00:00:00Z", "2026-12-01T03:00:00Z"},
		{"31 03:00", "2027-02-01T00:00:00Z", "2027-02-28T03:00:00Z"},
		{"29 03:00", "2028-02-01T00:00:00Z", "2028-02-29T03:00:00Z"},
		{"zone Europe/Berlin; sat 02:30", "2026-11-29T11:00:00Z", "2026-12-05T01:30:00Z"},
		{"zone Asia/Tokyo; mon 00:30", "2026-11-29T00:00:00Z", "2026-11-29T15:30:00Z"},
		// 28 March 2027: 02:30 is skipped; 31 October 2027: it comes twice.
		{"zone Europe/Berlin; sun 02:30", "2027-03-27T00:00:00Z", "2027-03-28T01:30:00Z"},
		{"zone Europe/Berlin; sun 02:30", "2027-10-30T12:00:00Z", "2027-10-31T00:30:00Z"},
	} {
		table, err := Parse(c.table)
		if err != nil {
			t.Errorf("%s: %v", c.table, err)
			continue
		}
		after, _ := time.Parse(time.RFC3339, c.after)
		if got := table.Next(after).Format(time.RFC3339); got != c.want {
			t.Errorf("%s after %s: %s, want %s", c.table, c.after, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, text := range []string{"sat", "sat 2:30", "sat 25:00", "sat 02:60", "sat 02:3x", "xyz 02:30", "0 02:30", "32 02:30", "zone Nowhere; sat 02:30",
		"zone UTC", "zone Local; sat 02:30", "sat 02:30;; sun 02:30", "sat-xyz 02:30", "sat 02:30; zone UTC", "sat 02:30 03:30"} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if table, err := Parse("  "); err != nil || !table.IsZero() || !table.Next(time.Now()).IsZero() {
		t.Errorf("nothing: %v, %v", table, err)
	}
}

// FuzzParse: no text panics, and what is taken has a next time that is later.
func FuzzParse(f *testing.F) {
	f.Add("zone Europe/Berlin; mon-fri 22:00; 31 04:00")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse(text)
		if err != nil || table.IsZero() {
			return
		}
		at := time.Unix(1795000000, 0)
		for range 3 {
			next := table.Next(at)
			if !next.After(at) {
				t.Fatalf("%q: %v after %v", text, next, at)
			}
			at = next
		}
	})
}
