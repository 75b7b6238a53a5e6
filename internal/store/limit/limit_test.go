package limit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/fair"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest"
)

func mustParse(t *testing.T, text string) Schedule {
	t.Helper()
	s, err := ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	s := mustParse(t, "* 1000GB/s")
	storetest.Run(t, func(*testing.T) store.Store { return New(mem.New(), NewLimiter(s)) })
}

func TestParseAndFormat(t *testing.T) {
	for text, want := range map[string]string{
		"* 100MB/s": "* 100MB/s",
		"zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; * 100MB/s":          "zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; * 100MB/s",
		" ZONE  UTC ;MON-FRI  08:00-18:00   20mB/S ;* unlimited":             "zone UTC; mon-fri 08:00-18:00 20MB/s; * unlimited",
		"zone UTC; sat-mon 22:00-06:00 up 1MiB/s down 8Mbit/s":               "zone UTC; mon,sat,sun 22:00-06:00 up 1048576B/s down 1MB/s",
		"zone UTC; mon-wed,fri down 1.5GB/s":                                 "zone UTC; mon-wed,fri up unlimited down 1500MB/s",
		"zone America/New_York; sat,sun 00:00-24:00 down 5kB/s up 100Kbit/s": "zone America/New_York; sat,sun up 12500B/s down 5kB/s",
		"": "",
	} {
		s, err := ParseSchedule(text)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, s, err, want)
			continue
		}
		if again := mustParse(t, s.String()); again.String() != want {
			t.Errorf("%q is read again as %q", want, again)
		}
	}
	for text, says := range map[string]string{
		"mon-fri 08:00-18:00 20MB/s":    "time zone",
		"zone UTC":                      "no rule",
		"zone Nowhere/Atall; * 1MB/s":   "time zone",
		"zone Local; * 1MB/s":           "time zone",
		"* 1MB/s; zone UTC":             "beginning",
		"20MB/s":                        "days",
		"*":                             "no rate",
		"* 08:00-18:00":                 "no rate",
		"* 20Mb/s":                      "bits or bytes",
		"* 20":                          "not a rate",
		"* -5MB/s":                      "not a rate",
		"* 1e3MB/s":                     "not a rate",
		"* 1.2.3MB/s":                   "not a rate",
		"* 0MB/s":                       "between",
		"* 10B/s":                       "between",
		"* 2000000GB/s":                 "between",
		"* up 1MB/s up 2MB/s":           "up or down",
		"* up 1MB/s down":               "too much",
		"* sideways 1MB/s":              "up or down",
		"zone UTC; mon-frog 1MB/s":      "mon-frog",
		"zone UTC; * 8:00-18:00 1MB/s":  "time of the day",
		"zone UTC; * 08:00-08:00 1MB/s": "time of the day",
		"zone UTC; * 24:00-08:00 1MB/s": "time of the day",
		"zone UTC; * 08:60-09:00 1MB/s": "time of the day",
		"zone UTC; * 08:00 1MB/s":       "time of the day",
		"* 1MB/s;":                      "empty",
		strings.Repeat("* 1MB/s;", 65) + "* 1MB/s": "at most 64",
		strings.Repeat("x", 5000):                  "at most 4096",
	} {
		if s, err := ParseSchedule(text); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), says) || errs.RemedyOf(err) == "" {
			t.Errorf("%q: %q, %v; want it to say %q", text, s, err, says)
		}
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"", "* 1MB/s", "zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; * 100MB/s", "zone UTC; sat-mon 22:00-06:00 up 1MiB/s down 8Mbit/s", ";;", "* up", "zone ../x; * 1MB/s"} {
		f.Add(s)
	}
	at := time.Date(2026, 3, 29, 0, 59, 59, 5, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			return
		}
		again, err := ParseSchedule(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q is written as %q and read as %q, %v", text, s, again, err)
		}
		up, down, until := s.At(at)
		up2, down2, _ := again.At(at)
		if up != up2 || down != down2 || !until.After(at) || up < 0 || down < 0 {
			t.Fatalf("%q at %v: %v %v until %v", text, at, up, down, until)
		}
	})
}

func TestAt(t *testing.T) {
	s := mustParse(t, "zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; sat 22:00-06:00 up 1MB/s down 2MB/s; mon 1GB/s")
	for at, want := range map[string]Rate{
		"2026-01-05T06:59:59Z": 1e9,       // Monday 07:59:59 in Berlin
		"2026-01-05T07:00:00Z": 20e6,      // 08:00
		"2026-01-05T16:59:59Z": 20e6,      // 17:59:59
		"2026-01-05T17:00:00Z": 1e9,       // 18:00
		"2026-01-05T23:00:00Z": Unlimited, // Tuesday 00:00
		"2026-07-06T06:00:00Z": 20e6,      // summer time: 08:00
		"2026-07-06T05:59:59Z": 1e9,
		"2026-01-10T20:59:59Z": Unlimited, // Saturday 21:59:59
		"2026-01-10T21:00:00Z": 1e6,
		"2026-01-11T04:59:59Z": 1e6, // Sunday 05:59:59, of Saturday's rule
		"2026-01-11T05:00:00Z": Unlimited,
		"2026-01-10T03:00:00Z": Unlimited, // Saturday morning is Friday's night
	} {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		up, _, until := s.At(when)
		if up != want || !until.After(when) || until.Sub(when) > time.Minute || until.Second() != 0 {
			t.Errorf("%s: %v until %v, want %v", at, up, until, want)
		}
	}
	if up, down, _ := (Schedule{}).At(time.Now()); up != Unlimited || down != Unlimited {
		t.Error("the zero schedule limits")
	}
}

// near fails unless got is within a tenth of want.
func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if (got - want).Abs() > want/10 {
		t.Errorf("%s took %v, want about %v", what, got, want)
	}
}

func put(t *testing.T, st store.Store, key string, n int) {
	t.Helper()
	if err := st.Create(t.Context(), key, make([]byte, n)); err != nil {
		t.Error(err)
	}
}

func TestRateHoldsBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New()
		st := New(inner, NewLimiter(mustParse(t, "* up 1MB/s down 4MB/s")))
		began := time.Now()
		for i := range 10 {
			put(t, st, fmt.Sprintf("k/%d", i), 2e6)
		}
		near(t, "20 MB up at 1 MB/s", time.Since(began), 20*time.Second)
		began = time.Now()
		for i := range 10 {
			if n, err := st.ReadRange(t.Context(), fmt.Sprintf("k/%d", i), make([]byte, 2e6), 0); n != 2e6 || err != nil {
				t.Error(n, err)
			}
		}
		near(t, "20 MB down at 4 MB/s", time.Since(began), 5*time.Second)

		began = time.Now()
		for range 100 { // what is not there costs nothing
			if _, err := st.ReadRange(t.Context(), "k/none", make([]byte, 1e6), 0); !errs.Is(err, errs.NotFound) {
				t.Error(err)
			}
			if n, err := st.ReadRange(t.Context(), "k/0", make([]byte, 1e6), 3e6); n != 0 || err != nil {
				t.Error(n, err)
			}
		}
		if d := time.Since(began); d > 60*time.Second {
			t.Errorf("reading nothing took %v", d)
		}
	})
}

// TestIdleSavesLittle: an hour of silence does not buy an hour's bytes.
func TestIdleSavesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := New(mem.New(), NewLimiter(mustParse(t, "* 1MB/s")))
		put(t, st, "a", 1)
		time.Sleep(time.Hour)
		began := time.Now()
		put(t, st, "b", 10e6)
		near(t, "10 MB after an hour", time.Since(began), 10*time.Second)
	})
}

// TestFairness: small objects go by while a large one waits.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := New(mem.New(), NewLimiter(mustParse(t, "* 1MB/s")))
		began := time.Now()
		var large, small time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			put(t, st, "large", 30e6)
			large = time.Since(began)
		})
		synctest.Wait()
		wg.Go(func() {
			for i := range 20 {
				put(t, st, fmt.Sprintf("small/%d", i), 10e3)
			}
			small = time.Since(began)
		})
		wg.Wait()
		// Each small one waits for one slice of the large one: 20 × (65 + 10 ms).
		if small > 2*time.Second {
			t.Errorf("20 small objects took %v beside a large one", small)
		}
		near(t, "all", large, 30200*time.Millisecond)
	})
}

func TestEqualSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := New(mem.New(), NewLimiter(mustParse(t, "* 1MB/s")))
		began := time.Now()
		took := make([]time.Duration, 8)
		var wg sync.WaitGroup
		for i := range took {
			wg.Go(func() {
				put(t, st, fmt.Sprintf("k/%d", i), 2e6)
				took[i] = time.Since(began)
			})
		}
		wg.Wait()
		for i, d := range took {
			if d < 15*time.Second || d > 16100*time.Millisecond {
				t.Errorf("caller %d of 8 was done after %v, want all at the end, about 16s", i, d)
			}
		}
	})
}

// TestSharesByWeight: two stores that both want more than there is get it by
// their weights; what one leaves the other has.
func TestSharesByWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(mustParse(t, "* 1MB/s"))
		slots := fair.New(4, 1)
		heavy := NewShare(mem.New(), l, 4, slots.Join(4))
		light := NewShare(mem.New(), l, 1, slots.Join(1))
		began := time.Now()
		var first, last time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			put(t, heavy, "k", 8e6)
			first = time.Since(began)
		})
		wg.Go(func() {
			put(t, light, "k", 8e6)
			last = time.Since(began)
		})
		wg.Wait()
		near(t, "the heavier", first, 10*time.Second) // four fifths of 1 MB/s
		near(t, "the lighter", last, 16*time.Second)  // and then all of it
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New()
		l := NewLimiter(mustParse(t, "* 1kB/s"))
		st := New(inner, l)
		stop := errors.New("enough")
		var wg sync.WaitGroup
		for i := range 5 { // the first in line and those behind it
			ctx, cancel := context.WithCancelCause(t.Context())
			wg.Go(func() {
				began := time.Now()
				err := st.Create(ctx, fmt.Sprintf("k/%d", i), make([]byte, 1e6))
				if !errs.Is(err, errs.Canceled) || !errors.Is(err, stop) || time.Since(began) != time.Duration(5-i)*time.Second {
					t.Errorf("caller %d: %v after %v", i, err, time.Since(began))
				}
			})
			synctest.Wait()
			time.AfterFunc(time.Duration(5-i)*time.Second, func() { cancel(stop) })
		}
		wg.Wait()
		if _, err := inner.Stat(t.Context(), "k/0"); !errs.Is(err, errs.NotFound) {
			t.Error("the store was asked")
		}
		l.Set(Schedule{})
		put(t, st, "k/after", 1e6) // nobody is left standing in line
	})
}

func TestSetHoldsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(mustParse(t, "* 1kB/s"))
		st := New(mem.New(), l)
		began := time.Now()
		done := make(chan time.Duration, 3)
		for i := range 3 {
			go func() {
				put(t, st, fmt.Sprintf("k/%d", i), 10e6)
				done <- time.Since(began)
			}()
		}
		time.Sleep(10 * time.Second)
		l.Set(mustParse(t, "* 10MB/s"))
		if up, down := l.Rates(); up != 10e6 || down != 10e6 || l.Schedule().String() != "* 10MB/s" {
			t.Error(up, down)
		}
		for range 2 {
			<-done
		}
		near(t, "30 MB, 10 s of them at 1 kB/s", <-done, 13*time.Second)
	})
}

// TestScheduleBoundary: a call that waits over a change of the hour goes on at
// the new rate.
func TestScheduleBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock begins at midnight UTC of 2000-01-01.
		st := New(mem.New(), NewLimiter(mustParse(t, "zone UTC; * 00:00-08:00 1kB/s; * 10MB/s")))
		time.Sleep(8*time.Hour - 30*time.Second)
		began := time.Now()
		put(t, st, "k", 50e6)
		near(t, "50 MB from half a minute before eight", time.Since(began), 35*time.Second)
	})
}

// TestNoLocks: a store that cannot lock does not learn it from the wrapper.
func TestNoLocks(t *testing.T) {
	st := New(bare{mem.New()}, NewLimiter(Schedule{}))
	if _, ok := store.AsLocker(st); ok {
		t.Error("a store without locks locks")
	}
	ctx := t.Context()
	_, err := st.ReadLock(ctx, "k")
	for _, err := range []error{err, st.CreateLocked(ctx, "k", nil, store.Lock{}), st.ExtendLock(ctx, "k", store.Lock{})} {
		if !errs.Is(err, errs.Invalid) {
			t.Error(err)
		}
	}
}

// bare hides the abilities of a store.
type bare struct{ store.Store }
