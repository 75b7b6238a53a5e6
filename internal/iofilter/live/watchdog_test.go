package live

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
)

// scripted is a process that answers, hangs or dies as told.
type scripted struct {
	hangs  func(since time.Duration) bool
	began  time.Time
	gone   chan struct{}
	stuck  bool // it cannot be killed
	killed time.Duration
}

func (s *scripted) Ping(ctx context.Context) error {
	if s.hangs(time.Since(s.began)) {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (s *scripted) Kill(context.Context) error {
	if s.stuck {
		return errs.New("kill", errs.Denied, "1", "not permitted")
	}
	s.killed = time.Since(s.began)
	return nil
}

func (s *scripted) Gone() <-chan struct{} { return s.gone }

// watch runs a watchdog over a protected VM for a while.
func watch(t *testing.T, r *rig, p *scripted, d time.Duration) error {
	t.Helper()
	p.began, p.gone = time.Now(), make(chan struct{})
	w := &Watchdog{Connect: r.connect, Process: p, Open: func() (*Record, error) { return OpenRecord(durable.OS{}, r.path) }}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return w.Run(ctx)
}

// connect reaches the scripted hypervisor.
func (r *rig) connect(context.Context) (hypervisor.Platform, error) {
	return fake.NewPlatform(r.hv), nil
}

// TestWatchdog: a host component that hangs for longer than the limit is killed
// and its guests go on; one that is slow now and then is let live; and as long
// as it may live, no guest is taken off it.
func TestWatchdog(t *testing.T) {
	slow := func(since time.Duration) bool { return since%(9*time.Second) > 1500*time.Millisecond }
	for name, c := range map[string]struct {
		p        scripted
		attached []string
		fails    bool
	}{
		"well":             {scripted{hangs: func(time.Duration) bool { return false }}, []string{"vda", "vdb"}, false},
		"slow at times":    {scripted{hangs: slow}, []string{"vda", "vdb"}, false},
		"hangs":            {scripted{hangs: func(d time.Duration) bool { return d > 20*time.Second }}, nil, false},
		"cannot be killed": {scripted{hangs: func(time.Duration) bool { return true }, stuck: true}, []string{"vda", "vdb"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "vda", "vdb")
				r.protect()
				if err := watch(t, r, &c.p, 5*time.Minute); (err != nil) != c.fails {
					t.Fatal(err)
				}
				r.want("attached", r.attached(), c.attached...)
				if name == "hangs" {
					r.want("record", r.recorded(), "vda unseen", "vdb unseen")
					if c.p.killed < 30*time.Second || c.p.killed > 33*time.Second {
						t.Errorf("killed after %v", c.p.killed)
					}
				}
			})
		})
	}
}

// TestWatchdogSeesDeath at once, and tries again where the hypervisor fails.
func TestWatchdogSeesDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda", "vdb")
		r.protect()
		r.vm.Fail(errors.New("busy"))
		p := &scripted{hangs: func(time.Duration) bool { return true }, began: time.Now(), gone: make(chan struct{})}
		w := &Watchdog{Connect: r.connect, Process: p, Open: func() (*Record, error) { return OpenRecord(durable.OS{}, r.path) }}
		ran := make(chan error, 1)
		go func() { ran <- w.Run(t.Context()) }()
		close(p.gone)
		time.Sleep(100 * time.Millisecond)
		r.want("attached", r.attached(), "vda", "vdb")
		r.vm.Fail(nil)
		began := time.Now()
		if err := <-ran; err != nil {
			t.Fatal(err)
		}
		r.want("attached", r.attached())
		if took := time.Since(began); took > pingLimit+failRetry {
			t.Errorf("took %v", took)
		}
	})
}

// TestWatchdogEndsWithItsRecord: where nothing is protected any more nobody waits,
// though the hypervisor is gone for good.
func TestWatchdogEndsWithItsRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.protect()
		p := &scripted{hangs: func(time.Duration) bool { return true }, began: time.Now(), gone: make(chan struct{})}
		close(p.gone)
		tries := 0
		w := &Watchdog{Process: p, Open: func() (*Record, error) { return OpenRecord(durable.OS{}, r.path) },
			Connect: func(context.Context) (hypervisor.Platform, error) {
				if tries++; tries == 10 {
					if err := os.Remove(r.path); err != nil {
						t.Error(err)
					}
				}
				return nil, errs.New("connect", errs.Unavailable, "", "nobody is there")
			}}
		if err := w.Run(t.Context()); err != nil || tries != 10 {
			t.Errorf("%v after %d tries", err, tries)
		}
	})
}

// TestWatchdogOfATakenOver leaves the guests to whoever came after.
func TestWatchdogOfATakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vda")
		r.protect()
		p := &scripted{hangs: func(time.Duration) bool { return false }, began: time.Now(), gone: make(chan struct{})}
		close(p.gone)
		w := &Watchdog{Connect: r.connect, Process: p, Open: func() (*Record, error) { return OpenRecord(durable.OS{}, r.path) }}
		if err := w.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.want("attached", r.attached(), "vda")
	})
}

// TestWatchdogLimit refuses a limit that would kill a busy host component.
func TestWatchdogLimit(t *testing.T) {
	w := &Watchdog{Hang: time.Millisecond}
	if err := w.Run(t.Context()); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// TestRecordSurvivesCrashes: at every step of a change the file holds the state
// before or after it.
func TestRecordSurvivesCrashes(t *testing.T) {
	r := newRig(t, "vda", "vdb")
	r.protect()
	e := r.m.cfg.Record.find(r.id)
	for step := range 20 {
		fs := durabletest.New(durabletest.Config{})
		if err := durable.MkdirAll(fs, "/d"); err != nil {
			t.Fatal(err)
		}
		rec := &Record{fs: fs, path: "/d/live.json"}
		if err := rec.put(e); err != nil {
			t.Fatal(err)
		}
		fs.CrashAt(fs.Ops()+int64(step)+1, durabletest.Before)
		err := rec.markUnseen(func(*EntryDisk) bool { return true })
		for seed := range uint64(8) {
			after, openErr := OpenRecord(fs.Image(seed, durabletest.PowerLoss), "/d/live.json")
			if openErr != nil {
				t.Fatalf("step %d seed %d: %v", step, seed, openErr)
			}
			d := after.entries[0].Disks
			if len(d) != 2 || d[0].Unseen != d[1].Unseen || err == nil && !d[0].Unseen {
				t.Fatalf("step %d seed %d: %+v after %v", step, seed, d, err)
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"vms":[]}`))
	f.Add([]byte(`{"version":1,"vms":[null]}`))
	f.Add([]byte(`{"version":1,"vms":[{"config":{"id":"00000000-0000-4000-8000-000000000001"},"disks":[{"id":"00000000-0000-4000-8000-000000000002","name":"a","path":"b","socket":"c"}]}]}`))
	f.Add([]byte(`{"version":1,"vms":[{"config":{"id":"00000000-0000-4000-8000-000000000001"},"disks":[{"id":"00000000-0000-4000-8000-000000000002","name":"a","path":"b","socket":"c","capture":"mirror","size":4096}]}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		entries, err := parseRecord(in, "x")
		if err != nil {
			if entries != nil || errs.RemedyOf(err) == "" {
				t.Fatalf("%v with %d entries", err, len(entries))
			}
			return
		}
		for _, e := range entries {
			if e.Config.ID.IsZero() || len(e.vm().Disks) == 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// TestWatchdogLeavesGuestsToAnHeir: of a host component that is gone, guests are
// left to the one that has inherited them, from before it answers on; and only
// as long as it lives.
func TestWatchdogLeavesGuestsToAnHeir(t *testing.T) {
	for name, c := range map[string]struct {
		answers, dies time.Duration
		attached      []string
	}{
		"it answers": {2 * time.Second, time.Hour, []string{"vda"}},
		"it dies":    {time.Hour, 2 * time.Second, nil},
		"none":       {time.Hour, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "vda")
				r.protect()
				began := time.Now()
				p := &scripted{began: began, gone: make(chan struct{}), hangs: func(d time.Duration) bool { return d < c.answers }}
				close(p.gone)
				w := &Watchdog{Connect: r.connect, Process: p, Open: func() (*Record, error) { return OpenRecord(durable.OS{}, r.path) },
					Heir: func() bool { return time.Since(began) < c.dies }}
				if err := w.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.want("attached", r.attached(), c.attached...)
			})
		})
	}
}
