package command

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// rig is a desk with enrolled boxes.
type rig struct {
	t testing.TB
	*Desk
}

func newRig(t testing.TB, url string) *rig {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	r := &rig{t, &Desk{DB: d, Site: "b", Router: &Boxes{Site: "b"}}}
	r.box("rocva-1", site.RocVA)
	return r
}

// box enrols a box that is heard of for the next hour.
func (r *rig) box(name site.Name, role site.Role) {
	r.t.Helper()
	r.must(func(tx *db.Tx) error {
		_, err := tx.Exec(r.t.Context(), `INSERT INTO enrolments (name, role, box, state, generation, addresses, domains, cert, cert_until, cert_before, enrolled_at, changed_at, seen_at, remote, release, skew, capacity)
			VALUES ($1, $2, $3, 'enrolled', 1, '', '', 'proof', 0, '', 0, 0, $4, '', '', 0, '')`, name, role, "/"+name, tx.Now()+time.Hour.Milliseconds())
		return err
	})
}

func (r *rig) must(f func(tx *db.Tx) error) {
	r.t.Helper()
	if err := r.DB.Tx(r.t.Context(), f); err != nil {
		r.t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

func (r *rig) exec(query string, args ...any) {
	r.t.Helper()
	r.must(func(tx *db.Tx) error { _, err := tx.Exec(r.t.Context(), query, args...); return err })
}

// silence has a box not be heard of.
func (r *rig) silence(name site.Name, d time.Duration) {
	r.t.Helper()
	r.must(func(tx *db.Tx) error {
		_, err := tx.Exec(r.t.Context(), `UPDATE enrolments SET seen_at = $2 WHERE name = $1`, name, tx.Now()-d.Milliseconds())
		return err
	})
}

// fenceOf is a command of one attempt in one epoch.
func fenceOf(attempt int, epoch int64) *Command {
	return &Command{Kind: string(plan.KindFence), Key: "run/1/fence", StepKey: "run/1", Origin: "fp", Run: "run", Plan: "p", From: "a", To: "b", Domain: "erp",
		Step: "fence/erp", Seq: 1, Attempt: attempt, Epoch: epoch, Input: json.RawMessage(`{"domain":"erp"}`)}
}

// ask asks without waiting.
func (r *rig) ask(c *Command) Status {
	r.t.Helper()
	s, err := r.Ask(r.t.Context(), c, 0)
	if err != nil {
		r.t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
	return s
}

// hands gives a box what there is now.
func (r *rig) hands(box site.Name, holds ...Held) *Reply {
	r.t.Helper()
	reply, err := r.hand(r.t.Context(), box, "proof", &Exchange{Holds: holds}, true)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

func (r *rig) tells(box site.Name, t ...Tale) {
	r.t.Helper()
	if err := r.Tell(r.t.Context(), box, "proof", &Told{Commands: t}); err != nil {
		r.t.Fatal(err)
	}
}

// TestCommand follows a command through its life: it is handed out until its end is
// told, told again, and done once.
func TestCommand(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		if s := r.ask(fenceOf(1, 1)); s.Done {
			t.Fatalf("done by nobody: %+v", s)
		}
		first := r.hands("rocva-1").Commands
		if len(first) != 1 || first[0].Kind != "fence" || first[0].StepKey != "run/1" || first[0].Box != "rocva-1" {
			t.Fatalf("%+v", first)
		}
		id := first[0].ID
		if got := r.hands("rocva-1", Held{ID: id, Epoch: 1}); !got.empty() {
			t.Errorf("what the box has is handed out again: %+v", got)
		}
		r.tells("rocva-1", Tale{ID: id, Progress: Progress{Done: 3, Total: 7, Output: "so far", Memory: json.RawMessage(`{"job":1}`)}})
		if s := r.ask(fenceOf(2, 1)); s.Done || s.Progress.Done != 3 || s.Progress.Total != 7 || string(s.Progress.Memory) != `{"job":1}` || s.Progress.Output != "so far" {
			t.Errorf("%+v", s)
		}
		// The box dies: its next life has the command again, with what the job had left.
		if got := r.hands("rocva-1").Commands; len(got) != 1 || got[0].ID != id || string(got[0].Memory) != `{"job":1}` {
			t.Errorf("%+v", got)
		}
		r.tells("rocva-1", Tale{ID: id, Done: true, Outcome: Outcome{Note: "well", Memory: json.RawMessage(`{"checkpoint":7}`), Warnings: []string{"w"}, Output: "o"}})
		r.tells("rocva-1", Tale{ID: id, Done: true, Outcome: Fail(errCancelled)}) // too late
		for attempt := range 3 {
			// A later owner, too, is told how it ended: the first may have died with it.
			s := r.ask(fenceOf(3+attempt, 1+int64(attempt)))
			if o := s.Outcome; !s.Done || o.Note != "well" || string(o.Memory) != `{"checkpoint":7}` || len(o.Warnings) != 1 || o.Output != "o" || o.Failure != nil {
				t.Errorf("%+v", s)
			}
		}
		if got := r.hands("rocva-1", Held{ID: id, Epoch: 1}); !slices.Equal(got.Gone, []string{id}) || len(got.Commands) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestFailure: a failure is told to one attempt; the next has it done again, with what
// was left, and the box under way is not asked twice.
func TestFailure(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		r.ask(fenceOf(1, 1))
		id := r.hands("rocva-1").Commands[0].ID
		why := errs.New("x", errs.Transient, "o", "not now").WithRemedy("wait")
		r.tells("rocva-1", Tale{ID: id, Done: true, Progress: Progress{Memory: json.RawMessage(`{"m":1}`)}, Outcome: Fail(why)})
		for range 2 { // who lost the answer asks again
			s := r.ask(fenceOf(1, 1))
			if err := s.Outcome.Failure.Err(); !s.Done || !errs.Is(err, errs.Transient) || errs.RemedyOf(err) != "wait" || !strings.Contains(err.Error(), "not now") {
				t.Errorf("%+v %v", s, err)
			}
		}
		if s := r.ask(fenceOf(2, 1)); s.Done {
			t.Errorf("the second attempt is told the failure of the first: %+v", s)
		}
		got := r.hands("rocva-1").Commands
		if len(got) != 1 || got[0].ID == id || got[0].Attempt != 2 || string(got[0].Memory) != `{"m":1}` {
			t.Errorf("%+v", got)
		}
	})
}

// TestOwners: what is under way goes on under a newer owner, who is the only one to ask
// then.
func TestOwners(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		r.ask(fenceOf(1, 1))
		id := r.hands("rocva-1").Commands[0].ID
		r.ask(fenceOf(2, 5))
		if got := r.hands("rocva-1", Held{ID: id, Epoch: 1}); got.Epochs[id] != 5 || len(got.Commands) != 0 || len(got.Cancelled) != 0 {
			t.Errorf("%+v", got)
		}
		if got := r.hands("rocva-1", Held{ID: id, Epoch: 5}); !got.empty() {
			t.Errorf("told again: %+v", got)
		}
		if _, err := r.Ask(t.Context(), fenceOf(2, 4), 0); !errs.Is(err, errs.Fenced) {
			t.Errorf("an older owner: %v", err)
		}
		// A failure of the time of an earlier owner is nothing to the newer one.
		r.tells("rocva-1", Tale{ID: id, Done: true, Outcome: Fail(errs.New("x", errs.Fenced, "", "older"))})
		if s := r.ask(fenceOf(3, 6)); s.Done {
			t.Errorf("%+v", s)
		}
	})
}

// TestCancel: who takes a step back, a later run of the plan, and whoever asks for it
// have what is under way stopped; what no box has is not begun any more.
func TestCancel(t *testing.T) {
	undo := fenceOf(1, 1)
	undo.Kind, undo.Key, undo.StepKey, undo.Undoes = "return", "run/9/return", "run/9", "run/1"
	next := fenceOf(1, 9)
	next.Run, next.Key, next.StepKey = "other", "other/1/fence", "other/1"
	for name, then := range map[string]func(r *rig){
		"undo, PostgreSQL": func(r *rig) { r.ask(undo) },
		"undo":             func(r *rig) { r.ask(undo) },
		"next run":         func(r *rig) { r.ask(next) },
		"cancel": func(r *rig) {
			if err := r.Cancel(r.t.Context(), "fp", "run/1/fence"); err != nil {
				r.t.Fatal(err)
			}
		},
		"nobody comes": func(r *rig) {
			r.exec(`UPDATE commands SET asked_at = asked_at - $1`, (orphanFor + time.Second).Milliseconds())
			if err := r.Sweep(r.t.Context()); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := dbtest.SQLite
			if strings.HasSuffix(name, "PostgreSQL") {
				url = dbtest.Postgres
			}
			r := newRig(t, url(t))
			r.ask(fenceOf(1, 1))
			id := r.hands("rocva-1").Commands[0].ID
			another := fenceOf(1, 1)
			another.Key, another.StepKey, another.Domain = "run/1/fence-2", "run/1", "crm"
			r.ask(another)
			then(r)
			got := r.hands("rocva-1", Held{ID: id, Epoch: 1})
			if !slices.Equal(got.Cancelled, []string{id}) {
				t.Errorf("%+v", got)
			}
			if got := r.hands("rocva-1", Held{ID: id, Epoch: 1, Cancelled: true}); len(got.Cancelled) != 0 {
				t.Errorf("told again: %+v", got)
			}
			wanted := name == "cancel" // of the key alone
			for _, c := range append(got.Commands, r.hands("rocva-1").Commands...) {
				if c.Domain == "crm" && !wanted {
					t.Error("what no box had is handed out")
				}
			}
			// It is wanted again, and done again once the box has let go.
			if s := r.ask(fenceOf(2, 10)); s.Done {
				t.Errorf("%+v", s)
			}
			r.tells("rocva-1", Tale{ID: id, Done: true, Outcome: Fail(errCancelled)})
			if s := r.ask(fenceOf(3, 10)); s.Done {
				t.Errorf("%+v", s)
			}
			if !slices.ContainsFunc(r.hands("rocva-1").Commands, func(c Command) bool { return c.Key == "run/1/fence" && c.ID != id }) {
				t.Error("it is not done again")
			}
		})
	}
}

// TestAway: a box that says nothing is named, and one that takes nothing; not before it
// may have restarted.
func TestAway(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	want := func(what string, kind errs.Kind, c *Command) {
		t.Helper()
		r.exec(`UPDATE commands SET asked_at = asked_at - $1`, touchEvery.Milliseconds()) // it is looked at now and then
		_, err := r.Ask(t.Context(), c, 0)
		if kind == errs.Internal && err != nil || kind != errs.Internal && (!errs.Is(err, kind) || !strings.Contains(err.Error(), "rocva-1") || errs.RemedyOf(err) == "") {
			t.Errorf("%s: %v (%s)", what, err, errs.RemedyOf(err))
		}
	}
	r.silence("rocva-1", enrol.SilentAfter+time.Second)
	want("a silent box is given nothing new", errs.Unavailable, fenceOf(1, 1))
	r.silence("rocva-1", 0)
	want("it is back", errs.Internal, fenceOf(1, 1))
	r.silence("rocva-1", enrol.SilentAfter+time.Second)
	want("it may be restarting", errs.Internal, fenceOf(2, 1))
	r.silence("rocva-1", patience+time.Second)
	want("it is not", errs.Unavailable, fenceOf(3, 1))
	r.silence("rocva-1", 0)
	r.exec(`UPDATE commands SET made_at = made_at - $1`, (patience + time.Second).Milliseconds())
	want("it lives, and takes nothing", errs.Unavailable, fenceOf(4, 1))
	r.hands("rocva-1")
	want("it has taken it", errs.Internal, fenceOf(5, 1))
	r.exec(`DELETE FROM enrolments`)
	want("it was removed", errs.Unavailable, fenceOf(6, 1))
}

// TestHostile: a box gets, ends and sees commands of its own alone; what it tells is cut
// to what a row takes; one whose certificate does not count is told nothing.
func TestHostile(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		r.box("evil", site.RocVA)
		r.Allow = enrol.Counts
		r.ask(fenceOf(1, 1))
		got := r.hands("evil")
		if len(got.Commands) == 0 { // the first of two boxes that have nothing
			got = r.hands("rocva-1")
		}
		c := got.Commands[0]
		other := site.Name("evil")
		if c.Box == "evil" {
			other = "rocva-1"
		}
		r.tells(other, Tale{ID: c.ID, Done: true}, Tale{ID: c.ID, Progress: Progress{Done: 1}}, Tale{ID: "\x00\xff", Done: true}, Tale{})
		if s := r.ask(fenceOf(2, 1)); s.Done || s.Progress.Done != 0 {
			t.Errorf("another box has ended it: %+v", s)
		}
		if got := r.hands(other, Held{ID: c.ID}); !slices.Equal(got.Gone, []string{c.ID}) || len(got.Commands) != 0 {
			t.Errorf("%+v", got)
		}
		long := strings.Repeat("\xff\x00", 1<<16)
		bad := Outcome{Note: long, Output: long, Warnings: slices.Repeat([]string{long}, 1000), Memory: json.RawMessage(`"` + strings.Repeat("x", maxMemory) + `"`), Answer: true}
		r.tells(c.Box, Tale{ID: c.ID, Progress: Progress{Done: -1, Total: -7, Output: long, Memory: json.RawMessage(`"` + strings.Repeat("x", maxMemory) + `"`)}})
		r.tells(c.Box, Tale{ID: c.ID, Done: true, Outcome: bad})
		s := r.ask(fenceOf(2, 1))
		if o := s.Outcome; !s.Done || o.Failure == nil || len(o.Note) > maxWords || len(o.Output) > maxOutput || len(o.Warnings) > maxWarnings || len(o.Memory) > 0 {
			t.Errorf("%d %d %d %+v", len(o.Note), len(o.Output), len(o.Warnings), o.Failure)
		}
		for what, f := range map[string]func() error{
			"proof": func() error { return r.Tell(t.Context(), c.Box, "another", &Told{Report: &setup.Report{}}) },
			"hand":  func() error { _, err := r.Exchange(t.Context(), c.Box, "another", &Exchange{}); return err },
			"tell":  func() error { return r.Tell(t.Context(), c.Box, "another", &Told{}) },
		} {
			if err := f(); !errs.Is(err, errs.Denied) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for what, f := range map[string]func() error{
			"holds": func() error {
				_, err := r.Exchange(t.Context(), c.Box, "proof", &Exchange{Holds: make([]Held, 2*maxHeld+1)})
				return err
			},
			"tales": func() error { return r.Tell(t.Context(), c.Box, "proof", &Told{Commands: make([]Tale, maxTold+1)}) },
			"report": func() error {
				return r.Tell(t.Context(), c.Box, "proof", &Told{Report: &setup.Report{Lives: make([]site.Name, setup.MaxDomains+1)}})
			},
		} {
			if err := f(); !errs.Is(err, errs.Invalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// TestBounds: what is asked is bounded: in size, in number for a box, in bytes of one
// answer.
func TestBounds(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	for what, f := range map[string]func(c *Command){
		"key": func(c *Command) { c.Key = "" }, "long key": func(c *Command) { c.Key = strings.Repeat("x", maxKey+1) }, "NUL": func(c *Command) { c.Kind = "a\x00" },
		"plan": func(c *Command) { c.Plan = "A b" }, "domain": func(c *Command) { c.Domain = "/" }, "input": func(c *Command) { c.Input = json.RawMessage(`{`) },
		"large":  func(c *Command) { c.Input = json.RawMessage(`"` + strings.Repeat("x", maxInput) + `"`) },
		"memory": func(c *Command) { c.Memory = json.RawMessage(`x`) }, "epoch": func(c *Command) { c.Epoch = -1 }, "no such kind": func(c *Command) { c.Kind = "dance" },
	} {
		c := fenceOf(1, 1)
		f(c)
		if _, err := r.Ask(t.Context(), c, 0); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	big := json.RawMessage(`"` + strings.Repeat("x", 200<<10) + `"`)
	for i := range 5 {
		c := fenceOf(1, 1)
		c.Key, c.Input = fmt.Sprintf("run/%d/fence", i), big
		r.ask(c)
	}
	got := r.hands("rocva-1").Commands
	if len(got) == 0 || len(got) > 3 {
		t.Errorf("%d commands of 200 KiB in one answer", len(got))
	}
	var held []Held
	for all := 0; all < 5; all = len(held) {
		for _, c := range r.hands("rocva-1", held...).Commands {
			held = append(held, Held{ID: c.ID, Epoch: 1})
		}
		if len(held) == all {
			t.Fatal("the rest is not handed out")
		}
	}
	r.must(func(tx *db.Tx) error {
		for i := range maxOpen {
			if _, err := tx.Exec(t.Context(), `INSERT INTO commands (id, origin, key, box, plan, run, seq, state, epoch, cancelled, told, made_at, asked_at, done_at, deadline, doc, progress, outcome)
				VALUES ($1, 'x', $1, 'rocva-1', '', '', 0, 'waiting', 0, 0, 0, 0, $2, 0, 0, '{}', '', '')`, fmt.Sprint(i), tx.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	full := fenceOf(1, 1)
	full.Key = "run/full/fence"
	if _, err := r.Ask(t.Context(), full, 0); !errs.Is(err, errs.Full) {
		t.Errorf("%v", err)
	}
	// What nobody asks for any more is deleted, a batch at once.
	r.exec(`UPDATE commands SET asked_at = 0`)
	for left := maxOpen + 5; left > 0; {
		var n int64
		r.must(func(tx *db.Tx) (err error) { n, err = Prune(t.Context(), tx); return err })
		if left -= int(n); n == 0 {
			t.Fatalf("%d rows are left", left)
		}
	}
}

// TestWaits: who waits is woken by the end, and a box by a command.
func TestWaits(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	handed := make(chan *Reply, 1)
	go func() {
		reply, _ := r.Exchange(t.Context(), "rocva-1", "proof", &Exchange{})
		handed <- reply
	}()
	asked := make(chan Status, 1)
	go func() {
		s, _ := r.Ask(t.Context(), fenceOf(1, 1), time.Minute)
		asked <- s
	}()
	reply := <-handed
	r.tells("rocva-1", Tale{ID: reply.Commands[0].ID, Done: true, Outcome: Outcome{AlreadyDone: true}})
	if s := <-asked; !s.Done || !s.Outcome.AlreadyDone {
		t.Errorf("%+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other := fenceOf(1, 1)
	other.Key = "run/2/fence"
	if _, err := r.Ask(ctx, other, time.Minute); !errs.Is(err, errs.Canceled) {
		t.Errorf("%v", err)
	}
	if len(r.bells.by) != 0 {
		t.Errorf("%d bells that nobody hears", len(r.bells.by))
	}
}

// TestRoutes: who does what.
func TestRoutes(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	vms := []dr.VMID{{UUID: dr.NewUUID()}, {UUID: dr.NewUUID()}, {UUID: dr.NewUUID()}}
	for name, role := range map[site.Name]site.Role{"rocva-2": site.RocVA, "drva-1": site.DRVA, "drva-2": site.DRVA, "host-1": site.IOFilter, "host-2": site.IOFilter, "host-3": site.IOFilter} {
		r.box(name, role)
	}
	report := func(box site.Name, rep setup.Report) {
		t.Helper()
		rep.Generation = "1"
		if err := r.hear(t.Context(), box, "proof", &rep); err != nil {
			t.Fatal(err)
		}
	}
	of := func(ids ...dr.VMID) (list []setup.VMReport) {
		for _, id := range ids {
			list = append(list, setup.VMReport{ID: id})
		}
		return list
	}
	report("drva-1", setup.Report{Domains: []setup.DomainReport{{Name: "erp"}}})
	report("drva-2", setup.Report{Domains: []setup.DomainReport{{Name: "crm"}}})
	report("host-1", setup.Report{Domains: []setup.DomainReport{{Name: "erp", VMs: of(vms[0])}}})
	report("host-2", setup.Report{Domains: []setup.DomainReport{{Name: "erp", VMs: of(vms[1])}, {Name: "crm"}}})
	route := func(kind string, domain site.Name, vm dr.VMID, input string) string {
		t.Helper()
		c := fenceOf(1, 1)
		c.Kind, c.Domain, c.VM, c.Input = kind, domain, vm, json.RawMessage(input)
		var got []site.Name
		err := r.DB.Tx(t.Context(), func(tx *db.Tx) (err error) { got, err = r.Router.Route(t.Context(), tx, c); return err })
		if err != nil {
			return errs.KindOf(err).String()
		}
		return fmt.Sprint(got)
	}
	none := dr.VMID{}
	for _, c := range []struct {
		kind   string
		domain site.Name
		vm     dr.VMID
		input  string
		want   string
	}{
		{"sync", "erp", none, "{}", "[drva-1]"}, {"final-sync", "crm", none, "{}", "[drva-2]"}, {"sync", "hr", none, "{}", "unavailable"},
		{Running, "erp", vms[0], "{}", "[host-1]"}, {Cut, "erp", vms[1], "{}", "[host-2]"}, {Running, "erp", vms[2], "{}", "[host-1 host-2]"},
		{"retire-vm", "erp", vms[1], "{}", "[host-2]"}, {"source-off", "erp", none, "{}", "[host-1 host-2]"}, {"clean-domain", "crm", none, "{}", "[host-2]"},
		{"source-off", "hr", none, "{}", "unavailable"}, {"clean-domain", "hr", none, "{}", "[host-1 host-2 host-3]"},
		{"fence", "erp", none, "{}", "[rocva-1]"}, {"fence", "crm", none, "{}", "[rocva-2]"}, {"disks", "erp", none, "{}", "[rocva-1]"}, {AgentUp, "crm", vms[2], "{}", "[rocva-2]"},
		{"wake-host", "", none, "{}", "[rocva-2]"}, // a place of the plan's, by name of domain
		{"script", "erp", none, `{"run":"guest"}`, "[rocva-1]"}, {"script", "erp", none, `{"run":"appliance","appliance":"host-3"}`, "[host-3]"},
		{"script", "erp", none, `{"run":"appliance","appliance":"x"}`, "unavailable"}, {"script", "erp", none, `[`, "invalid"}, {"dance", "erp", none, "{}", "invalid"},
	} {
		if got := route(c.kind, c.domain, c.vm, c.input); got != c.want {
			t.Errorf("%s of %q: %s, want %s", c.kind, c.domain, got, c.want)
		}
	}
	// A VM moves to another host; a box has a domain no more; a domain's recovery lives here.
	report("host-1", setup.Report{Domains: []setup.DomainReport{{Name: "erp", VMs: of(vms[1])}}})
	report("host-2", setup.Report{Domains: []setup.DomainReport{{Name: "erp"}}})
	report("drva-1", setup.Report{})
	if a, b := route(Cut, "erp", vms[1], "{}"), route("sync", "erp", none, "{}"); a != "[host-1]" || b != "unavailable" {
		t.Errorf("%s %s", a, b)
	}
	report("rocva-2", setup.Report{Lives: []site.Name{"erp"}})
	for _, kind := range []string{"sync", Running, Cut, "source-off", "start-source", "retire-vm", "placeholder", "clean-domain"} {
		if got := route(kind, "erp", vms[0], "{}"); got != "[rocva-2]" {
			t.Errorf("%s of a domain that lives in a recovery: %s", kind, got)
		}
	}
	// Its agent begins anew, and has not found yet what is in it.
	if err := r.hear(t.Context(), "rocva-2", "proof", &setup.Report{}); err != nil {
		t.Fatal(err)
	}
	if got := route("sync", "erp", none, "{}"); got != "[rocva-2]" {
		t.Errorf("while its agent begins: %s", got)
	}
	// The one that has the domain is away: nobody else can do it. One that was removed has
	// taken what it had along.
	r.silence("rocva-1", enrol.SilentAfter+time.Second)
	if got := route("disks", "erp", none, "{}"); got != "unavailable" {
		t.Error(got)
	}
	if got := route("fence", "hr", none, "{}"); got != "[rocva-2]" {
		t.Errorf("a silent box is given a new domain: %s", got)
	}
	r.exec(`DELETE FROM enrolments WHERE name = 'rocva-1'`)
	if got := route("disks", "erp", none, "{}"); got != "[rocva-2]" {
		t.Error(got)
	}
	// What was discarded has no place any more.
	r.silence("rocva-2", 0)
	c := fenceOf(1, 1)
	c.Kind, c.Key = "discard", "run/1/discard"
	r.ask(c)
	for _, c := range r.hands("rocva-2").Commands {
		r.tells("rocva-2", Tale{ID: c.ID, Done: true})
	}
	r.must(func(tx *db.Tx) error {
		var n int
		_, err := tx.Row(t.Context(), `SELECT count(*) FROM command_places WHERE domain = 'erp'`, nil, &n)
		if n != 0 {
			t.Error("a place is left of what was discarded")
		}
		return err
	})
}

// TestTogether: what several boxes say is one outcome.
func TestTogether(t *testing.T) {
	missing := Fail(errs.New("x", errs.NotFound, "", "no such VM"))
	for name, c := range map[string]struct {
		of   []Outcome
		want Outcome
	}{
		"one runs":        {[]Outcome{{}, {Answer: true}}, Outcome{Answer: true}},
		"one has it":      {[]Outcome{missing, {Note: "off"}}, Outcome{Note: "off"}},
		"none has it":     {[]Outcome{missing, missing}, missing},
		"all were done":   {[]Outcome{{AlreadyDone: true}, {AlreadyDone: true}}, Outcome{AlreadyDone: true}},
		"one was done":    {[]Outcome{{AlreadyDone: true}, {}}, Outcome{}},
		"one has failed":  {[]Outcome{{AlreadyDone: true}, Fail(errCancelled)}, Fail(errCancelled)},
		"done, not there": {[]Outcome{{AlreadyDone: true}, missing}, Outcome{AlreadyDone: true}},
		"notes, warnings": {[]Outcome{{Note: "a", Warnings: []string{"1"}}, {Note: "b", Warnings: []string{"2"}}, {Note: "a"}}, Outcome{Note: "a; b", Warnings: []string{"1", "2"}}},
		"the last memory": {[]Outcome{{Memory: json.RawMessage(`1`)}, {}}, Outcome{Memory: json.RawMessage(`1`)}},
	} {
		var rows []row
		for _, o := range c.of {
			rows = append(rows, row{state: done, outcome: o})
		}
		got, _ := json.Marshal(merge(rows))
		want, _ := json.Marshal(c.want)
		if string(got) != string(want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
