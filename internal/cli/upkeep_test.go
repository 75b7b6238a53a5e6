package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// TestHeldByName: gc status tells from the container alone who holds how much.
func TestHeldByName(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 60, nil)
	k := []string{"--key", b.key}
	must(t, append([]string{"pin", b.url, "5", "--label", "audit"}, k...)...)
	must(t, append([]string{"timeline", "fork", b.url, "7", "--label", "drill", "--test"}, k...)...)
	must(t, append([]string{"gc", "run", b.url, "--full"}, k...)...)
	s := jsonOf[gcStatus](t, append([]string{"gc", "status", b.url}, k...)...)
	held := make(map[string]maintain.Held)
	for _, h := range s.Held {
		held[h.Reason+" "+h.Name] = h
	}
	for name, cp := range map[string]dr.CheckpointID{"hold audit": 5, "fork drill": 7} {
		if h, ok := held[name]; !ok || h.Checkpoint != cp || h.Bytes <= 0 {
			t.Errorf("%s: %+v", name, s.Held)
		}
	}
	if s.Counted.IsZero() {
		t.Error("it does not say when it was counted")
	}
	has(t, "gc status", must(t, append([]string{"gc", "status", b.url}, k...)...), "by hold audit: checkpoint 5, ", "by fork drill: checkpoint 7, ", "for it alone", "counted", "next run")
	before := b.generation(t)
	has(t, "gc status --fresh", must(t, append([]string{"gc", "status", b.url, "--fresh"}, k...)...), "gc status on ")
	if b.generation(t) == before {
		t.Error("--fresh counted nothing")
	}
}

// TestNothingCounted: a manifest of version 1 tells no counts, which is said, with
// what to do about it.
func TestNothingCounted(t *testing.T) {
	const golden = "../../test/golden/testdata/maintained/"
	root, err := filepath.Abs(golden + "container")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(golden + "recovery.key")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key") // a key that others may read is refused
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}
	k := []string{"file://" + root, "--key", key}
	if code, _, said := call(t, append([]string{"retention", "forecast"}, k...)...); code != exitUnavailable || !strings.Contains(said, "--fresh") {
		t.Errorf("a forecast before anything was counted: exit %d, %s", code, said)
	}
	has(t, "gc status", must(t, append([]string{"gc", "status"}, k...)...), "not yet", "--fresh")
}

// TestOneLockSetting: the two settings that became one are refused, and it is
// said what to write.
func TestOneLockSetting(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  domainConfig
		says string
	}{
		"both":        {domainConfig{Lock: "compliance", OldLock: "compliance for 90d", OldLockFor: "48h"}, `"lock": "compliance for 90d"`},
		"bare":        {domainConfig{Lock: "compliance"}, `"lock": "compliance for 30d"`},
		"object-lock": {domainConfig{OldLock: "governance for 7d"}, `"lock": "governance for 7d"`},
		"lock-for":    {domainConfig{OldLockFor: "48h"}, `"lock": "governance for 30d"`},
	} {
		if err := c.cfg.refuseOldLock(); !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), c.says) {
			t.Errorf("%s: %v; %s", name, err, errs.RemedyOf(err))
		}
	}
	for _, text := range []string{"", "none", "governance for 30d"} {
		if err := (&domainConfig{Lock: text}).refuseOldLock(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	no := false
	if _, err := (&domainConfig{Lock: "governance for 30d", Maintain: &no}).policy(); err != nil {
		t.Errorf("a lock for what is published by who does not maintain: %v", err)
	}
}

// lockBox is a container in a store that locks, with one checkpoint and a
// policy that its manifest remembers.
func lockBox(t *testing.T, lock maintain.LockPolicy) (*mem.Store, *journal.Container) {
	t.Helper()
	key, err := journal.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	st := mem.New()
	c, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.OpenPublisher(t.Context(), journal.PublisherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := c.NewBuilder(segment.BuilderOptions{})
	disk := dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: dr.ChunkSize, Synced: true}
	if err := s.AddFrame(disk.ID, 0, 1, 1, content(1)[:dr.BlockSize]); err != nil {
		t.Fatal(err)
	}
	s.SetSeqs(1, 1)
	s.SetCheckpoint(dr.Checkpoint{ID: 1, Seq: 2, Time: time.Now(), Scope: dr.Group, Disks: []dr.CheckpointDisk{disk}})
	q, err := p.Publish(t.Context(), s)
	if err == nil {
		err = q.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := maintain.New(t.Context(), c, maintain.Options{Policy: &maintain.Policy{Lock: lock}})
	if err == nil {
		_, err = m.Pass(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return st, c
}

// TestLockOfWhatIsPublished: a DRVA holds what it publishes by what its
// configuration says, else by what the container remembers.
func TestLockOfWhatIsPublished(t *testing.T) {
	st, c := lockBox(t, maintain.LockPolicy{Mode: store.LockGovernance, Window: 30 * day})
	quiet := slog.New(slog.DiscardHandler)
	for text, want := range map[string]journal.LockOptions{
		"":                    {Mode: store.LockGovernance, For: firstHold},
		"none":                {},
		"compliance for 400d": {Mode: store.LockCompliance, For: firstHold},
		"governance for 2h":   {Mode: store.LockGovernance, For: journal.LeastLock},
	} {
		if got, err := (&domainConfig{Lock: text}).lock(t.Context(), c, quiet); err != nil || got != want {
			t.Errorf("lock %q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	if _, err := (&domainConfig{Lock: "iron for 2d"}).lock(t.Context(), c, quiet); exitCode(err) != exitUsage {
		t.Errorf("a mode that is none: %v", err)
	}
	infos, err := c.ListManifests(t.Context(), c.Domain().Timeline)
	if err != nil || len(infos) == 0 {
		t.Fatal(len(infos), err)
	}
	for _, in := range infos {
		st.Damage(in.Key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	}
	var log bytes.Buffer
	if got, err := (&domainConfig{}).lock(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil))); err != nil || !got.IsZero() || !strings.Contains(log.String(), "nothing that is published is locked") {
		t.Errorf("a manifest that cannot be read: %+v, %v; %s", got, err, &log)
	}
}

// TestWatchingMaintainerNoticesARotation: its status says what to do about it.
func TestWatchingMaintainerNoticesARotation(t *testing.T) {
	_, c := lockBox(t, maintain.LockPolicy{})
	u := newUpkeep(c, policyText{}, maintain.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := u.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.keys = newKeyWatch(c, slog.New(slog.DiscardHandler))
	shown := func() string {
		t.Helper()
		u.keys.look(t.Context())
		s, err := u.calls()["/status"](t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var w strings.Builder
		printStatus(&w, raw)
		return w.String()
	}
	if out := shown(); !strings.Contains(out, "generation 1\n") {
		t.Errorf("before: %s", out)
	}
	if _, err := c.RotateDataKey(t.Context(), journal.RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	if out := shown(); !strings.Contains(out, restartWords) {
		t.Errorf("after: %s", out)
	}
}

func TestProgressLine(t *testing.T) {
	for want, p := range map[string]struct {
		bytes       bool
		from        int64
		done, total int64
		elapsed     time.Duration
	}{
		"50 / 150  5/s  ETA 20s":                    {done: 50, total: 150, elapsed: 10 * time.Second},
		"70 / 150  5/s  ETA 16s":                    {from: 20, done: 70, total: 150, elapsed: 10 * time.Second},
		"50  5/s":                                   {done: 50, elapsed: 10 * time.Second},
		"0 / 150  0/s  ETA ?":                       {total: 150, elapsed: time.Second},
		"10.0 MiB / 1.0 GiB  1.0 MiB/s  ETA 16m54s": {bytes: true, done: 10 << 20, total: 1 << 30, elapsed: 10 * time.Second},
	} {
		q := &progress{bytes: p.bytes}
		q.from.Store(p.from)
		if got := q.line(p.done, p.total, p.elapsed); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var out bytes.Buffer
	s := &stages{out: &out}
	s.set("merging", false, 1, 2)
	s.set("packing", true, 1, 2)
	s.finish()
	s.finish()
	if out.Len() != 0 {
		t.Errorf("where there is no terminal it says %q", &out)
	}
}

// TestInterruptedCommands: Ctrl-C ends each of them by itself, as what it is.
func TestInterruptedCommands(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 10, nil)
	must(t, "gc", "run", b.url, "--key", b.key)
	for _, args := range [][]string{
		{"gc", "run"}, {"gc", "run", "--full"}, {"gc", "status"}, {"gc", "status", "--fresh"}, {"gc", "plan"}, {"retention", "show"}, {"retention", "forecast"},
		{"retention", "forecast", "--fresh"}, {"retention", "set", "--grace", "48h"}, {"fsck"}, {"fsck", "--deep"}, {"checkpoints"}, {"timeline", "list"}, {"pin", "list"}, {"key", "list"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var said strings.Builder
		code := run(ctx, append(append([]string{args[0]}, args[1:]...), b.url, "--key", b.key), &strings.Builder{}, &said)
		if code != exitCanceled {
			t.Errorf("%v: exit %d, %s", args, code, said.String())
		}
	}
	must(t, "fsck", b.url, "--key", b.key, "--deep")
}
