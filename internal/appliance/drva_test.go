package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/copies"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/maintain"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// drvaRig is a DRVA's appliance with one scripted domain.
type drvaRig struct {
	b *boxes
	*DRVA
	mu   sync.Mutex
	st   drvaStatus // guarded by mu
	cuts int        // guarded by mu
}

func newDRVARig(t testing.TB) *drvaRig {
	r := &drvaRig{}
	r.st.State = "serving"
	b := newBoxes(t, func([]string) map[string]control.Handler {
		return map[string]control.Handler{
			"/status": func(context.Context, []byte) (any, error) {
				r.mu.Lock()
				defer r.mu.Unlock()
				return r.st, nil
			},
			"/checkpoint": func(context.Context, []byte) (any, error) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.cuts++
				return dr.Checkpoint{ID: 41}, nil
			}}
	})
	dir, id := shortDir(t), dr.DomainID{UUID: dr.NewUUID()}
	check(t, control.InitAuthority(filepath.Join(dir, "ca"), "a"))
	check(t, control.Issue(filepath.Join(dir, "ca"), filepath.Join(dir, "d"), control.RoleDRVA, id.String(), []string{"127.0.0.1"}))
	r.b, r.DRVA = b, NewDRVA(Options{Dir: filepath.Join(dir, "d"), Name: "box", Boxes: b.all()})
	s := setup.Setup{Role: site.DRVA, DRVA: &setup.DRVA{Listen: "127.0.0.1:1", Domains: []setup.Domain{
		{Name: "erp", ID: id, Container: "file:///nowhere", Identity: "SECRET"},
		{Name: "new", ID: dr.DomainID{UUID: dr.NewUUID()}, Container: "file:///nowhere", Identity: "SECRET"}}}}
	check(t, s.Seal())
	check(t, r.Setup(t.Context(), &s))
	return r
}

func (r *drvaRig) is(change func(*drvaStatus)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.st)
}

// TestAdmitted: a domain that the certificate does not stand for yet keeps no other from
// being served, and is told.
func TestAdmitted(t *testing.T) {
	r := newDRVARig(t)
	text, err := os.ReadFile(r.unit.config)
	check(t, err)
	var f drvaFile
	check(t, json.Unmarshal(text, &f))
	rep := r.Report()
	if len(f.Domains) != 1 || len(rep.Problems) != 1 || rep.Problems[0].Object != "domain new" || len(rep.Domains) != 2 {
		t.Errorf("%s\n%+v", text, rep)
	}
	check(t, rep.Check())
	if b, err := json.Marshal(rep); err != nil || strings.Contains(string(b), "SECRET") {
		t.Errorf("%s, %v", b, err)
	}
}

// TestOtherCredentials: a process that has read a store's credentials ends before they are
// others, and begins with these.
func TestOtherCredentials(t *testing.T) {
	r := newDRVARig(t)
	r.once(t.Context())
	r.b.said()
	s := *r.current()
	m := s.DRVA.Domains[0]
	m.Credentials = "AWS_SECRET_ACCESS_KEY=another\n"
	s.DRVA = &setup.DRVA{Listen: s.DRVA.Listen, Domains: []setup.Domain{m}}
	for _, want := range [][]string{{"end drva", "start drva"}, nil} {
		check(t, s.Seal())
		check(t, r.Setup(t.Context(), &s))
		if got := r.b.said(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		s.Serial++ // the same again, but for its number
	}
	if b, err := os.ReadFile(filepath.Join(r.domainDir(&m), "credentials")); err != nil || string(b) != m.Credentials {
		t.Errorf("%q, %v", b, err)
	}
}

// TestCopiesOfADomain: the process is told of a domain's copies, with the credentials of
// each in a file of its own, and what it tells of them is reported by store.
func TestCopiesOfADomain(t *testing.T) {
	r := newDRVARig(t)
	s := *r.current()
	m := s.DRVA.Domains[0]
	m.Copies = []setup.Copy{{Store: "azure", Container: "azblob://contoso/backup/erp", Credentials: "AZURE_STORAGE_KEY=SECRET\n"}, {Store: "disk", Container: "file:///srv/dr/erp"}}
	s.DRVA = &setup.DRVA{Listen: s.DRVA.Listen, Domains: []setup.Domain{m}}
	check(t, s.Seal())
	check(t, r.Setup(t.Context(), &s))
	text, err := os.ReadFile(r.unit.config)
	check(t, err)
	var f drvaFile
	check(t, json.Unmarshal(text, &f))
	c := f.Domains[0].Copies
	if len(c) != 2 || c[0].Container != "azblob://contoso/backup/erp" || c[1] != (copyFile{Container: "file:///srv/dr/erp"}) || strings.Contains(string(text), "SECRET") {
		t.Fatalf("%s", text)
	}
	if b, err := os.ReadFile(c[0].Credentials); err != nil || string(b) != "AZURE_STORAGE_KEY=SECRET\n" {
		t.Errorf("%q, %v", b, err)
	}
	newest := time.Now().Truncate(time.Millisecond)
	r.is(func(st *drvaStatus) {
		st.Copies = []copies.Status{{Name: "file:///srv/dr/erp", State: copies.Current, Newest: newest, Lag: 3 * time.Second}, {Name: "file:///another", State: copies.Away}}
	})
	r.once(t.Context())
	rep := r.Report()
	want := setup.CopyReport{Store: "disk", State: setup.CopyCurrent, Newest: newest.UnixMilli(), Lag: 3000}
	if got := rep.Domains[0].Copies; len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	for ours, theirs := range map[setup.CopyState]copies.State{setup.CopyMaking: copies.Copying, setup.CopyBehind: copies.Lagging, setup.CopyCurrent: copies.Current,
		setup.CopyAway: copies.Away, setup.CopyFull: copies.Full, setup.CopyFailing: copies.Failing, setup.CopyFenced: copies.Fenced} {
		if string(ours) != string(theirs) {
			t.Errorf("%q and %q are not one state", ours, theirs)
		}
	}
	// A domain that leaves takes no secret of its stores along.
	s.DRVA = &setup.DRVA{Listen: s.DRVA.Listen}
	check(t, s.Seal())
	check(t, r.Setup(t.Context(), &s))
	check(t, filepath.WalkDir(r.unit.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "SECRET") {
				t.Errorf("%s has a secret", path)
			}
		}
		return nil
	}))
}

// TestStates: what a DRVA answers, or its last words, in a manager's words.
func TestStates(t *testing.T) {
	live := func(state string) *drvaStatus {
		st := &drvaStatus{}
		st.State = "serving"
		st.Disks, st.Hosts = append(st.Disks, drvaDisk(state, "node1")), append(st.Hosts, drvaHost(dr.HostID{}, "node1", "live"))
		return st
	}
	with := func(st *drvaStatus, change func(*drvaStatus)) *drvaStatus { change(st); return st }
	old := func(st *drvaStatus) { st.Checkpoints.LastGroup = time.Now() }
	for want, all := range map[setup.State][]served{
		setup.Starting:     {{}, {status: &drvaStatus{}}, {status: with(live("synced"), func(s *drvaStatus) { s.State = "replaying" })}},
		setup.InitialSync:  {{status: live("syncing")}, {status: live("synced")}},
		setup.DeltaSync:    {{status: with(live("syncing"), old)}},
		setup.Protected:    {{status: with(live("synced"), old)}},
		setup.Paused:       {{status: with(live("synced"), func(s *drvaStatus) { s.Paused = &drva.Pause{} })}},
		setup.BackPressure: {{status: with(live("synced"), func(s *drvaStatus) { s.State = "full" })}},
		setup.Disconnected: {{status: with(live("synced"), func(s *drvaStatus) { old(s); s.Disks[0].Host = "" })}},
		setup.Failing:      {{err: errors.New("it ended")}, {status: with(live("synced"), func(s *drvaStatus) { s.State = "waiting for the store" })}},
		setup.Fenced: {{err: errors.New("it ended at once: holdfast: drva.Run: the domain was recovered: timeline x is the current one")},
			{status: with(live("synced"), func(s *drvaStatus) { s.Publisher.Stopped = "fenced" })}},
	} {
		for i, s := range all {
			if got := s.report(&setup.Domain{Name: "erp"}); got.State != want {
				t.Errorf("%s %d: %+v", want, i, got)
			}
		}
	}
	for _, s := range worse {
		for _, o := range worse {
			if worst(s, o) != worst(o, s) || worst(s, setup.Fenced) != setup.Fenced {
				t.Errorf("%s and %s", s, o)
			}
		}
	}
}

// TestSync: a checkpoint is cut when every disk is level, and done when it is published.
func TestSync(t *testing.T) {
	r := newDRVARig(t)
	in := &plan.DomainInputs{Domain: "erp"}
	a := act(nil)
	step := func(final bool) runs.Result {
		t.Helper()
		res, err := r.Sync(t.Context(), a, in, final)
		check(t, err)
		a.Memory = res.Memory
		return res
	}
	host, disk := dr.HostID{UUID: dr.NewUUID()}, drvaDisk("syncing", "node1")
	for _, c := range []struct {
		name   string
		change func(*drvaStatus)
	}{
		{"no disk", func(*drvaStatus) {}},
		{"a copy under way", func(s *drvaStatus) {
			s.Disks, s.Hosts = append(s.Disks, disk), append(s.Hosts, drvaHost(host, "node1", "live"))
		}},
		{"its host away", func(s *drvaStatus) { s.Disks[0].State, s.Hosts[0].State = "synced", "away" }},
		{"no host", func(s *drvaStatus) { s.Hosts[0].State, s.Disks[0].Host = "live", "" }},
		{"replaying", func(s *drvaStatus) { s.Disks[0].Host, s.State = "node1", "replaying" }},
	} {
		r.is(c.change)
		if res := step(false); res.Again == 0 || res.Note == "" || r.cuts != 0 {
			t.Errorf("%s: %+v, %d checkpoints", c.name, res, r.cuts)
		}
	}
	r.is(func(s *drvaStatus) { s.State = "serving" })
	if _, err := r.Sync(t.Context(), act(errors.New("fenced")), in, false); err == nil || r.cuts != 0 {
		t.Errorf("a checkpoint by who may not: %v", err)
	}
	if res := step(true); res.Again == 0 || r.cuts != 1 {
		t.Errorf("%+v, %d checkpoints", res, r.cuts)
	}
	if res := step(true); res.Again == 0 || r.cuts != 1 {
		t.Errorf("not published yet: %+v, %d checkpoints", res, r.cuts)
	}
	r.is(func(s *drvaStatus) { s.Checkpoints.LastPublished = &dr.Checkpoint{ID: 41, Scope: dr.Partial} })
	if _, err := r.Sync(t.Context(), a, in, true); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a last checkpoint without all: %v", err)
	}
	r.is(func(s *drvaStatus) { s.Checkpoints.LastPublished.Scope = dr.Group })
	if res := step(true); res.Again != 0 || r.cuts != 1 {
		t.Errorf("published: %+v", res)
	}
	if _, err := r.Sync(t.Context(), act(nil), &plan.DomainInputs{Domain: "crm"}, false); !errs.Is(err, errs.NotFound) {
		t.Errorf("another's domain: %v", err)
	}
}

// TestSchedule: what retention becomes is what processes take, whatever was asked for.
func TestSchedule(t *testing.T) {
	h := func(n int) site.Span { return site.Span(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		slots    []site.Slot
		interval time.Duration
		want     string
		coarse   bool
	}{
		{[]site.Slot{{For: h(1)}, {Every: site.Span(time.Minute), For: h(24)}}, 0, "5s for 1h, 1m for 24h", false},
		{[]site.Slot{{For: h(24)}}, 0, "5s for 24h", false},
		{[]site.Slot{{For: h(24)}}, time.Second, "4s for 24h", true},
		{[]site.Slot{{For: h(24)}, {Every: site.Span(2 * time.Second), For: h(48)}}, time.Second, "", true},
		{[]site.Slot{{Every: site.Span(time.Second), For: h(1)}, {Every: site.Span(3 * time.Second), For: h(2)}}, time.Minute, "1m for 1h, 61s for 2h", false},
		{[]site.Slot{{For: h(24 * 3000)}, {Every: h(1), For: h(24 * 3650)}}, time.Second, "", true},
	} {
		got, coarse := schedule(c.slots, c.interval)
		if s, err := maintain.ParseSchedule(got); err != nil || s.Span() < c.slots[len(c.slots)-1].For.D() {
			t.Errorf("%q: %v, %v", got, s, err)
		}
		if c.want != "" && got != c.want || coarse != c.coarse {
			t.Errorf("%v: %q, %v; want %q", c.slots, got, coarse, c.want)
		}
	}
	if got, _ := schedule(nil, 0); got != "" {
		t.Errorf("nothing: %q", got)
	}
}
