package fleet_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
)

// alarms are those that hold, as "code object".
func (r *rig) alarms() (list []string) {
	r.Helper()
	check(r, r.f.Judge(r.Context()))
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		list = nil
		page, _, err := alarm.List(ctx, tx, false, alarm.Cursor{}, 500)
		for _, a := range page {
			list = append(list, string(a.Code)+" "+a.Object)
		}
		return err
	})
	slices.Sort(list)
	return list
}

func (r *rig) wantAlarms(when string, want ...string) {
	r.Helper()
	if got := r.alarms(); !slices.Equal(got, want) {
		r.Errorf("%s: the alarms are %q, want %q", when, got, want)
	}
}

func (r *rig) exec(text string, args ...any) {
	r.Helper()
	r.tx(func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, text, args...); return err })
}

// vmsTold is a host component's report of VMs.
func vmsTold(domain site.Name, vms ...setup.VMReport) *setup.Report {
	return &setup.Report{Started: 1, Domains: []setup.DomainReport{{Name: domain, State: setup.Protected, VMs: vms}}}
}

// TestAlarms: each alarm is raised by what it is about, and cleared when that is over.
func TestAlarms(t *testing.T) {
	c := newClouds()
	r := newRig(t, dbtest.SQLite(t), "a", c, "")
	r.furnish()
	r.put(&site.Appliance{Meta: meta("host-2"), Role: site.IOFilter, Site: "a", Host: "node2"})
	r.enrol("drva-1", site.DRVA, "")
	r.enrol("host-1", site.IOFilter, hostID.String())
	r.wantAlarms("at first")
	c.away = errs.New("clouds", errs.Unavailable, "s3", "nobody answers")
	r.settle()
	r.wantAlarms("without a store", "not-protected domain erp", "not-protected domain mail", "store-away store s3")
	c.away = nil
	r.exec(`UPDATE fleet_domains SET due_at = 0`)
	r.settle()
	r.wantAlarms("just placed")
	r.exec(`UPDATE fleet_domains SET placed_at = 1`)
	r.wantAlarms("nobody protects VMs", "not-protected erp/db", "not-protected erp/web", "not-protected mail/mail")
	r.hear("host-1", &setup.Report{Started: 1, Domains: []setup.DomainReport{
		{Name: "erp", VMs: []setup.VMReport{{ID: vm1, Ref: "db", State: setup.Protected, Bare: []string{"vdb"}}}},
		{Name: "mail", VMs: []setup.VMReport{{ID: vm3, Ref: "mail", State: setup.Failing, Cause: "no room"}}}}})
	r.wantAlarms("one host tells", "not-protected erp/web", "not-protected mail/mail", "unconfigured-disk erp/db")
	r.hear("host-1", vmsTold("mail", setup.VMReport{ID: vm3, State: setup.Protected}))
	r.seen("host-1", enrolSilent)
	r.exec(`UPDATE enrolments SET release = '0.9', cert_until = $1 WHERE name = 'drva-1'`, time.Now().Add(time.Hour).UnixMilli())
	r.wantAlarms("a silent host, an old DRVA", "appliance-away appliance host-1", "appliance-old appliance drva-1", "certificate-ends appliance drva-1",
		"not-protected erp/db", "not-protected erp/web", "not-protected mail/mail")
	r.seen("host-1", 0)
	r.exec(`UPDATE enrolments SET release = '1', cert_until = $1`, time.Now().Add(720*time.Hour).UnixMilli())
	r.exec(`UPDATE inventory_vms SET running = 0, doc = replace(doc, '"running":true', '"running":false')`)
	r.exec(`UPDATE inventory_sites SET generation = generation + 1`)
	r.wantAlarms("all is well")
	r.hear("host-1", &setup.Report{Started: 2})
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		events, _, err := alarm.Events(ctx, tx, "", 500)
		if !slices.ContainsFunc(events, func(e alarm.Event) bool { return e.Code == alarm.ApplianceBack && e.Object == "appliance host-1" }) {
			t.Error("nobody was told that it was started again")
		}
		return err
	})
}

// TestCopies: a DRVA and the recovery appliances are told of a domain's further stores,
// each with what opens it; how each stands is in the domain's status, and an alarm of what
// is wrong with it.
func TestCopies(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	r.put(&site.Store{Meta: meta("azure"), URL: "azblob://contoso/backup", Credential: "azure"}, &site.Store{Meta: meta("disk"), URL: "file:///srv/dr"})
	d := &site.ProtectedDomain{Meta: meta("erp"), From: "a", To: "b", VMs: []site.Ref{"db", "web"}, Stores: []site.Name{"s3", "azure", "disk"}, Mode: site.Failover,
		Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}}
	r.put(d)
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		return r.box.Put(ctx, tx, fleet.CredentialPrefix+"azure", []byte("AZURE_STORAGE_KEY=key\n"), "test")
	})
	r.enrol("drva-1", site.DRVA, "")
	r.enrol("roc-a", site.RocVA, "")
	r.settle()
	want := []setup.Copy{{Store: "azure", Container: "azblob://contoso/backup/erp", Credentials: "AZURE_STORAGE_KEY=key\n"}, {Store: "disk", Container: "file:///srv/dr/erp"}}
	for _, got := range [][]setup.Domain{r.setup("drva-1").DRVA.Domains, r.setup("roc-a").RocVA.Domains} {
		for _, x := range got {
			if x.Name == "erp" && !slices.Equal(x.Copies, want) || x.Name != "erp" && len(x.Copies) > 0 {
				t.Errorf("%s: %+v", x.Name, x.Copies)
			}
		}
	}
	r.exec(`UPDATE fleet_domains SET placed_at = 1`)
	r.exec(`UPDATE inventory_vms SET running = 0, doc = replace(doc, '"running":true', '"running":false')`)
	r.exec(`UPDATE inventory_sites SET generation = generation + 1`)
	stands := func(when string, azure, disk setup.CopyReport, domain, first string, alarms ...string) {
		t.Helper()
		azure.Store, disk.Store = "azure", "disk"
		r.hear("drva-1", &setup.Report{Started: 1, Domains: []setup.DomainReport{{Name: "erp", State: setup.Protected, Newest: time.Now().UnixMilli(), Copies: []setup.CopyReport{azure, disk}}}})
		r.wantAlarms(when, alarms...)
		var st v1.DomainStatus
		r.tx(func(ctx context.Context, tx *db.Tx) (err error) { st, err = r.f.Status(ctx, tx, "erp"); return err })
		if st.State != domain || len(st.Stores) != 3 || st.Stores[0].State != first || st.Stores[1].State != string(azure.State) || st.Stores[2].State != string(disk.State) || st.Stores[0].Copy || !st.Stores[1].Copy {
			t.Errorf("%s: %+v", when, st)
		}
		if azure.Newest > 0 && (st.Stores[1].Newest == nil || st.Stores[1].Newest.UnixMilli() != azure.Newest || st.Stores[1].Lag.D() != time.Duration(azure.Lag)*time.Millisecond) {
			t.Errorf("%s: %+v", when, st.Stores[1])
		}
	}
	stands("at first", setup.CopyReport{State: setup.CopyCurrent, Newest: 5000, Lag: 2000}, setup.CopyReport{State: setup.CopyMaking}, "protected", "current")
	stands("one is away, one full", setup.CopyReport{State: setup.CopyAway, Cause: "nobody answers"}, setup.CopyReport{State: setup.CopyFull}, "protected", "current", "copy-behind domain erp", "store-away store azure")
	stands("one was recovered from", setup.CopyReport{State: setup.CopyFenced, Remedy: "stop one"}, setup.CopyReport{State: setup.CopyBehind}, "error", "current", "split-brain domain erp")
	stands("all is well", setup.CopyReport{State: setup.CopyCurrent}, setup.CopyReport{State: setup.CopyCurrent}, "protected", "current")
	p := &plan.Plan{}
	p.Domains = []site.Name{"erp"}
	r.hear("drva-1", &setup.Report{Started: 1, Domains: []setup.DomainReport{{Name: "erp", State: setup.Protected, Copies: []setup.CopyReport{{Store: "azure", State: setup.CopyAway}}}}})
	var facts plan.Facts
	r.tx(func(ctx context.Context, tx *db.Tx) error { return r.f.Facts(ctx, tx, p, &facts) })
	if !facts.StoresUp["s3"] || facts.StoresUp["azure"] || !facts.StoresUp["disk"] {
		t.Errorf("stores that answer: %v", facts.StoresUp)
	}
	many := &setup.Report{Domains: []setup.DomainReport{{Copies: make([]setup.CopyReport, site.MaxStores)}}}
	if err := many.Check(); !errs.Is(err, errs.Invalid) {
		t.Errorf("more copies than there are stores: %v", err)
	}
}

const enrolSilent = time.Minute

// TestFigures: what a box measures is kept, of what it may speak about.
func TestFigures(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	r.hear("drva-1", &setup.Report{Figures: []setup.Figure{
		{Metric: stats.RPO, Object: "domain erp", Value: 7000}, {Metric: stats.RPO, Object: "domain none", Value: 1}, {Metric: stats.Tracked, Object: "vm erp/db", Value: 5},
		{Metric: stats.ApplianceLoad, Object: "appliance drva-2", Value: 1}, {Metric: stats.ApplianceLoad, Object: "appliance drva-1", Value: 300}, {Metric: "no such thing", Object: "domain erp", Value: 1}}})
	check(t, r.rec.Flush(t.Context(), r.d))
	var got []string
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		got = nil
		return tx.Rows(ctx, `SELECT DISTINCT metric, object FROM stats ORDER BY metric, object`, nil, func(scan func(...any) error) error {
			var m, o string
			err := scan(&m, &o)
			got = append(got, m+" "+o)
			return err
		})
	})
	if want := []string{"appliance_load_permille appliance drva-1", "rpo_ms domain erp", "tracked_bytes vm erp/db"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q", got)
	}
	long := &setup.Report{Figures: make([]setup.Figure, setup.MaxFigures+1)}
	if err := r.d.Tx(t.Context(), func(tx *db.Tx) error { return r.f.Heard(t.Context(), tx, "drva-1", long) }); !errs.Is(err, errs.Invalid) {
		t.Errorf("too many figures: %v", err)
	}
}

// asks answers as the manager of another rig's site does.
func (r *rig) asks(_ context.Context, _ site.Name, path string, out any) error {
	var v any
	err := r.d.View(r.Context(), func(tx *db.Tx) error {
		if strings.HasSuffix(path, "/site-key") {
			k, err := r.f.Recipient(r.Context(), tx)
			v = v1.SiteKey{Site: r.f.Site, Recipient: k}
			return err
		}
		all, err := r.f.Statuses(r.Context(), tx)
		v = map[string]any{"items": all}
		return err
	})
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

func (r *rig) paired(with site.Name) {
	r.exec(`INSERT INTO peers (name, peer_site, address, trust, authority, fingerprint, presented, presented_at, presented_by, created_at, out_at, out_ok_at, out_error, out_remedy, in_at, skew, release, changed_at)
		VALUES ('p', $1, 'https://x:1', 'trusted', '', '', '', 0, '', 0, 1, 1, '', '', 1, 0, '', 0)`, string(with))
}

// TestPeers: two sites that are paired can both open what either makes, know how the
// other's domains stand, and see when a lost site is back.
func TestPeers(t *testing.T) {
	c := newClouds()
	a, b := newRig(t, dbtest.SQLite(t), "a", c, ""), newRig(t, dbtest.SQLite(t), "b", c, "")
	for _, r := range []*rig{a, b} {
		r.furnish()
		r.paired(map[*rig]site.Name{a: "b", b: "a"}[r])
	}
	a.f.Ask, b.f.Ask = b.asks, a.asks
	told := ""
	b.f.Tell = func(_ context.Context, _ *db.Tx, p site.Name, e plan.Event, _ string) error {
		told = string(p) + " " + string(e)
		return nil
	}
	a.enrol("drva-1", site.DRVA, "")
	b.enrol("roc-b", site.RocVA, "")
	a.settle()
	for _, r := range []*rig{a, b} {
		check(t, r.f.AskPeers(t.Context()))
	}
	a.settle() // it adds b's key
	a.exec(`UPDATE peers SET in_at = 1`)
	a.wantAlarms("a peer that is lost", "peer-away site b")
	a.hear("drva-1", vmsTold("erp"))
	check(t, b.f.AskPeers(t.Context()))
	b.settle()
	x := b.setup("roc-b").RocVA
	if len(x.Domains) != 1 || x.Domains[0].Name != "erp" {
		t.Fatalf("the recovery site can recover %v", x.Domains)
	}
	id, err := journal.ParseIdentity(x.Domains[0].Identity)
	check(t, err)
	_, err = journal.Open(t.Context(), c.stores[x.Domains[0].Container], id)
	check(t, err)
	b.tx(func(ctx context.Context, tx *db.Tx) error {
		f := &plan.Facts{}
		err := b.f.Facts(ctx, tx, &plan.Plan{From: "a", To: "b", Domains: []site.Name{"erp"}}, f)
		if f.Domains["erp"].State != plan.Protected || !f.StoresUp["s3"] || !f.AppliancesUp["roc-b"] {
			t.Errorf("the facts are %+v", f)
		}
		return err
	})
	// The domain is recovered at b; a does not protect it any more, and sees that its VMs run.
	b.exec(`INSERT INTO domain_states (domain, failover, reversed, plan, changed_at) VALUES ('erp', 'failed-over', 0, 'p', 1)`)
	check(t, a.f.AskPeers(t.Context()))
	a.settle()
	if got := a.has("drva-1"); !slices.Equal(got, []site.Name{"mail"}) {
		t.Errorf("after a recovery at b, a has %v", got)
	}
	a.exec(`UPDATE fleet_domains SET placed_at = 1`)
	if got := a.alarms(); !slices.Contains(got, "split-brain domain erp") {
		t.Errorf("the alarms at a are %q", got)
	}
	b.exec(`UPDATE inventory_sites SET seen_at = 0`)
	if got := b.alarms(); slices.Contains(got, "split-brain domain erp") || told != "" {
		t.Errorf("by what was known before, the alarms at b are %q", got)
	}
	b.exec(`UPDATE inventory_sites SET seen_at = 1000000, away_since = 0`)
	if got := b.alarms(); !slices.Contains(got, "split-brain domain erp") || told != "p peer-returned" {
		t.Errorf("the alarms at b are %q, the plan was told %q", got, told)
	}
}

// TestTrustIsNotWritten: nobody becomes trusted by a file.
func TestTrustIsNotWritten(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	r.cat.Guards = []catalog.Guard{pair.Guard}
	p := func(trust site.Trust, fingerprint string) error {
		return r.d.Tx(t.Context(), func(tx *db.Tx) error {
			_, _, err := r.cat.Put(t.Context(), tx, &site.SitePair{Meta: meta("x"), Local: "a", Peer: "b", Trust: trust, Fingerprint: fingerprint}, "test")
			return err
		})
	}
	if err := p(site.Trusted, strings.Repeat("ab", 32)); !errs.Is(err, errs.Denied) {
		t.Errorf("trust was written: %v", err)
	}
	check(t, p(site.Proposed, ""))
}

// TestPlaceholders: a recovered VM that starts, or a test's, has its placeholder taken away first, and
// it comes back a while after the domain is at home again.
func TestPlaceholders(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "b", newClouds(), "")
	r.furnish()
	r.exec(`INSERT INTO placeholders (site, vm, domain, id, ref, state, error, used, doc, due_at, tries) VALUES ('b', $1, 'erp', 'x', 'db', 'present', '', 0, '{}', 0, 0)`, vm1.String())
	gone := 0
	r.f.Options.Vacate = func(context.Context, site.Name, dr.VMID) error {
		gone++
		r.exec(`UPDATE placeholders SET used = 1`)
		return nil
	}
	ask := func(kind plan.Kind, domain site.Name, test bool) {
		t.Helper()
		in, err := json.Marshal(plan.VMInputs{VM: vm1, Test: test})
		check(t, err)
		check(t, r.f.Vacate(t.Context(), &command.Command{Kind: string(kind), Domain: domain, VM: vm1, Input: in}))
	}
	ask(plan.KindPowerOff, "erp", false)
	ask(plan.KindPowerOn, "mail", false)
	if gone != 0 {
		t.Fatal("a placeholder was taken away for nothing")
	}
	ask(plan.KindPowerOn, "erp", true) // a test's has its name as well
	ask(plan.KindPowerOn, "erp", false)
	if gone != 1 {
		t.Fatalf("it was taken away %d times", gone)
	}
	used := func() (n int) {
		r.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Row(ctx, `SELECT used FROM placeholders`, nil, &n)
			return err
		})
		return n
	}
	now := time.Now()
	r.exec(`INSERT INTO domain_states (domain, failover, reversed, plan, changed_at) VALUES ('erp', 'failed-over', 0, 'p', 1)`)
	for i, c := range []struct {
		at       time.Duration
		failover plan.Failover
		used     int
	}{{0, plan.FailedOver, 1}, {time.Hour, plan.FailedOver, 1}, {2 * time.Hour, plan.AtRest, 1}, {2*time.Hour + time.Minute, plan.AtRest, 1}, {3 * time.Hour, plan.AtRest, 0}} {
		r.exec(`UPDATE domain_states SET failover = $1`, string(c.failover))
		check(t, r.f.Restore(t.Context(), now.Add(c.at)))
		if used() != c.used {
			t.Errorf("step %d: used is %d", i, used())
		}
	}
}

// TestHistoryAlarms: what a DRVA tells of a history's upkeep is judged by what the domain
// asks for.
func TestHistoryAlarms(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	r.enrol("drva-1", site.DRVA, "")
	r.settle()
	r.exec(`UPDATE fleet_domains SET placed_at = 1`)
	r.exec(`UPDATE inventory_vms SET running = 0, doc = replace(doc, '"running":true', '"running":false')`)
	r.exec(`UPDATE inventory_sites SET generation = generation + 1`)
	const day = 24 * time.Hour
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }
	tells := func(u setup.Upkeep) {
		r.hear("drva-1", &setup.Report{Started: 1, Domains: []setup.DomainReport{{Name: "erp", State: setup.Protected, Upkeep: &u}}})
	}
	keeps := func(limit int64, only bool, slots ...site.Slot) {
		r.put(&site.ProtectedDomain{Meta: meta("erp"), From: "a", To: "b", VMs: []site.Ref{"db", "web"}, Stores: []site.Name{"s3"},
			Retention: site.Retention{Schedule: slots, SizeLimit: limit, AlarmOnly: only}})
	}
	keeps(0, false, site.Slot{For: site.Span(30 * day)})
	week := (30 * day).Milliseconds()
	good := setup.Upkeep{Began: ago(90 * day), Oldest: ago(30 * day), Reach: week, Needed: 5 << 30}
	for _, x := range []struct {
		when string
		f    func(*setup.Upkeep)
		want []string
	}{
		{"as it should be", func(*setup.Upkeep) {}, nil},
		{"a failed try", func(u *setup.Upkeep) { u.Stuck, u.Error = ago(time.Hour), "denied" }, nil},
		{"a day of failed tries", func(u *setup.Upkeep) { u.Stuck, u.Error = ago(25*time.Hour), "denied" }, []string{"upkeep-stuck domain erp"}},
		{"it works again", func(*setup.Upkeep) {}, nil},
		{"shortened", func(u *setup.Upkeep) { u.Oldest = ago(20 * day) }, []string{"history-short domain erp"}},
		{"nearly", func(u *setup.Upkeep) { u.Oldest = ago(28 * day) }, nil},
		{"young", func(u *setup.Upkeep) { u.Began, u.Oldest = ago(20*day), ago(20*day) }, nil},
		{"young, and shortened", func(u *setup.Upkeep) { u.Began, u.Oldest = ago(20*day), ago(2*day) }, []string{"history-short domain erp"}},
		{"no point yet", func(u *setup.Upkeep) { u.Oldest = 0 }, nil},
		{"a liar", func(u *setup.Upkeep) { u.Oldest, u.Began, u.Reach, u.Stuck = -1, ago(-day), 1<<62, 1<<62 }, nil},
	} {
		u := good
		x.f(&u)
		tells(u)
		r.wantAlarms(x.when, x.want...)
	}
	u := good
	u.Oldest = ago(25 * day)
	tells(u)
	r.wantAlarms("points a second apart", "history-short domain erp")
	keeps(0, false, site.Slot{For: site.Span(day)}, site.Slot{Every: site.Span(7 * day), For: site.Span(30 * day)})
	r.wantAlarms("points a week apart")
	keeps(1<<30, true, site.Slot{For: site.Span(30 * day)})
	tells(good)
	r.wantAlarms("beyond a limit that only tells", "history-full domain erp")
	keeps(6<<30, true, site.Slot{For: site.Span(30 * day)})
	r.wantAlarms("the limit was raised")
	keeps(1<<30, false, site.Slot{For: site.Span(30 * day)})
	r.wantAlarms("it is shortened instead")
}

// TestPeriodic: a domain of an earlier release, in a mode that protects nothing, is told.
func TestPeriodic(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), "a", newClouds(), "")
	r.furnish()
	mode := func(from, to string) {
		r.exec(`UPDATE objects SET body = replace(body, $1, $2) WHERE kind = 'domain' AND name = 'erp'`, `"mode":"`+from+`"`, `"mode":"`+to+`"`)
	}
	r.enrol("drva-1", site.DRVA, "")
	mode("warm", "periodic")
	r.settle()
	if !slices.Contains(r.alarms(), "not-protected domain erp") || slices.Contains(r.has("drva-1"), "erp") {
		t.Error("nobody is told")
	}
	r.tx(func(ctx context.Context, tx *db.Tx) error {
		all, err := r.f.Statuses(ctx, tx)
		for _, d := range all {
			if d.Domain == "erp" && (d.State != "error" || d.Remedy == "") {
				t.Errorf("%+v", d)
			}
		}
		return err
	})
	mode("periodic", "warm")
	r.exec(`UPDATE fleet_domains SET due_at = 0`)
	r.settle()
	if slices.Contains(r.alarms(), "not-protected domain erp") || !slices.Contains(r.has("drva-1"), "erp") {
		t.Error("in another mode it is not protected")
	}
}
