package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// Request asks for an operation of a plan.
type Request struct {
	// Key names the request: the same key begins one run. Empty: a new one each time.
	Key       string
	Plan      site.Name
	Operation plan.Operation
	By        string
	Point     plan.Point // zero: the plan's, or that of the run that is gone on with
	VMs       []site.Ref // empty: all
	Notes     string     // for the report
	// Confirm is what a person said before a real run; By, and who agreed, are filled
	// in. Nil: nothing.
	Confirm *plan.Confirmation
	// Agreed is the second person's agreement, which the caller has authenticated and
	// spent in the same transaction; zero: nobody has agreed.
	Agreed Agreement

	policy bool // the plan's own commit policy asks
}

// Begun is what Begin came to.
type Begun struct {
	Run      string         `json:"run"`
	Does     plan.Operation `json:"operation"` // what is done: of rerun, what is repeated
	State    plan.State     `json:"state"`
	Problems problem.List   `json:"problems,omitzero"`
	Again    bool           `json:"again,omitempty"` // an earlier request with this key began it
}

// Begin begins an operation of a plan, all in the caller's transaction: the state
// table admits it, a person has confirmed it if it changes production, the plan has
// its domains to itself, the runbook is compiled, the run is stored. Wake the worker
// once it is committed. A run that waits parked is given up by it. Kinds: NotFound,
// Invalid (request or plan: the problems), Conflict (state, another plan, the key),
// Denied (not confirmed).
func (o *Operator) Begin(ctx context.Context, tx *db.Tx, q Request) (*Begun, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	p, err := o.opts.World.Plan(ctx, tx, q.Plan)
	if err != nil {
		return nil, err
	}
	r, err := lock(ctx, tx, q.Plan)
	if err != nil {
		return nil, err
	}
	if q.Key == "" {
		q.Key = "operate/" + dr.NewUUID().String()
	} else if was, err := begunBy(ctx, tx, &q); was != nil || err != nil {
		return was, err
	}
	if err := o.see(ctx, tx, p, r); err != nil {
		return nil, err
	}
	if q.Operation == plan.Edit || q.Operation == plan.Delete || q.Operation == plan.Answer || q.Operation == plan.Cancel {
		return nil, errs.New("operate.Begin", errs.Invalid, string(q.Operation), "this has no run").WithRemedy("edit and delete the plan itself; answer and cancel its run")
	}
	next, does, err := r.Admit(q.Operation)
	if err != nil {
		return nil, err
	}
	agreed, err := confirm(p, &q, does, tx.Now())
	if err != nil {
		return nil, err
	}
	b := &beginning{o: o, q: &q, p: p, r: r, next: next, does: does, agreed: agreed}
	return b.begin(ctx, tx)
}

func (q *Request) check() error {
	bad := func(object, words string) error {
		return errs.New("operate.Begin", errs.Invalid, object, words).WithRemedy("correct the request")
	}
	switch {
	case !q.Plan.Valid():
		return bad("plan", "this is no plan's name")
	case q.By == "" || q.By != db.Text(q.By, maxKey):
		return bad("user", "it is not said who asks")
	case q.Key != db.Text(q.Key, maxKey):
		return bad("key", fmt.Sprintf("it has more than %d bytes, or is no text", maxKey))
	case len(q.VMs) > maxScopeVMs:
		return bad("vms", fmt.Sprintf("more than %d VMs", maxScopeVMs))
	case q.Notes != db.Text(q.Notes, maxWords):
		return bad("notes", fmt.Sprintf("they have more than %d bytes, or are no text", maxWords))
	}
	for _, ref := range q.VMs {
		if string(ref) != db.Text(string(ref), site.MaxRef) || ref == "" {
			return bad("vms", "a VM's name is no text, or too long")
		}
	}
	return nil
}

// begunBy returns what an earlier request with the same key came to.
func begunBy(ctx context.Context, tx *db.Tx, q *Request) (*Begun, error) {
	var name site.Name
	var asked plan.Operation
	b := &Begun{Again: true}
	found, err := tx.Row(ctx, `SELECT run, plan, asked, operation FROM plan_runs WHERE request = $1`, []any{q.Key}, &b.Run, &name, &asked, &b.Does)
	if err != nil || !found {
		return nil, err
	}
	if name != q.Plan || asked != q.Operation {
		return nil, errs.New("operate.Begin", errs.Conflict, q.Key, fmt.Sprintf("this key began %s of plan %s", asked, name)).
			WithRemedy("use a new key for each request")
	}
	r, err := read(ctx, tx, name)
	b.State = r.State
	return b, err
}

// confirm demands what a real run needs; it returns the confirmation as it is kept.
func confirm(p *plan.Plan, q *Request, does plan.Operation, now int64) (*plan.Confirmation, error) {
	if q.policy || !plan.NeedsConfirmation(does) {
		return nil, nil
	}
	op := q.Operation
	if !plan.NeedsConfirmation(op) { // rerun: of what, the caller may say in either way
		op = does
	}
	var c *plan.Confirmation
	if q.Confirm != nil {
		n := *q.Confirm
		n.By = q.By
		if n.Does == q.Operation {
			n.Does = op
		}
		n.Second, n.Agreed, n.AgreedTo = q.Agreed.By, q.Agreed.At, q.Agreed.Version
		c = &n
	}
	return c, p.Confirm(op, c, db.Time(now))
}

// Agreement is a second person's word that an operation may begin: of the version of
// the plan they have looked at.
type Agreement struct {
	By      string
	At      time.Time
	Version site.Version
}

// beginning is one Begin that was admitted.
type beginning struct {
	o      *Operator
	q      *Request
	p      *plan.Plan
	r      *row
	next   plan.Standing
	does   plan.Operation
	agreed *plan.Confirmation
	view   *plan.View
}

func (b *beginning) begin(ctx context.Context, tx *db.Tx) (*Begun, error) {
	if err := b.giveUp(ctx, tx); err != nil {
		return nil, err
	}
	if b.next.State.Holds() {
		if err := take(ctx, tx, b.p.Name, b.p.Domains); err != nil {
			return nil, err
		}
	}
	var err error
	if b.view, err = b.o.opts.World.View(ctx, tx, b.p, b.r.Reversed); err != nil {
		return nil, err
	}
	sc, err := b.scope(ctx, tx)
	if err != nil {
		return nil, err
	}
	book, problems, err := plan.Compile(b.p, plan.Request{Operation: b.does, Point: sc.Point, VMs: sc.VMs}, b.view)
	if err != nil {
		return nil, err
	}
	downed, err := stopped(ctx, tx, b.p.Name)
	if err != nil {
		return nil, err
	}
	snapshot, err := b.o.snapshot(book, downed)
	if err != nil {
		return nil, err
	}
	id, _, err := runs.Start(ctx, tx, runs.Request{Key: b.q.Key, Subject: "plan/" + string(b.p.Name), Operation: string(b.does), By: b.q.By,
		RerunOf: b.before(), Epoch: b.r.epoch, Snapshot: snapshot})
	if err != nil {
		return nil, err
	}
	if err := b.store(ctx, tx, id, book, sc); err != nil {
		return nil, err
	}
	return &Begun{Run: id, Does: b.does, State: b.next.State, Problems: problems}, nil
}

// giveUp ends the plan's last run if it waits parked: another takes its place.
func (b *beginning) giveUp(ctx context.Context, tx *db.Tx) error {
	if b.r.Run == "" {
		return nil
	}
	run, err := runs.Get(ctx, tx, b.r.Run)
	if errs.Is(err, errs.NotFound) {
		b.r.Run = ""
		return nil
	}
	if err != nil {
		return err
	}
	if run.State == runs.Active {
		return errs.New("operate.Begin", errs.Internal, run.ID, "the plan is "+string(b.r.State)+", and its run goes on")
	}
	if run.State != runs.Parked {
		return nil
	}
	if err := runs.Abandon(ctx, tx, run.ID, b.q.By); err != nil {
		return err
	}
	return b.o.closeRun(ctx, tx, b.r, run.ID, plan.Interrupted)
}

// family is the operations that go on with each other's work.
func family(op plan.Operation) plan.Operation {
	switch op {
	case plan.Disaster, plan.ForcedDisaster, plan.Failback:
		return plan.Planned
	case plan.ForcedCleanup:
		return plan.Cleanup
	case plan.ForcedReprotect:
		return plan.Reprotect
	}
	return op
}

// goesOn reports whether the operation goes on with the work of the plan's last run.
func (b *beginning) goesOn() bool {
	return b.r.Doing != "" && b.r.State.Holds() && family(b.r.Doing) == family(b.does)
}

// before is the run that is gone on with, or "".
func (b *beginning) before() string {
	if b.goesOn() {
		return b.r.Run
	}
	return ""
}

// scope is what the run is about: what is asked for, or what the plan's last test or
// recovery was about.
func (b *beginning) scope(ctx context.Context, tx *db.Tx) (scope, error) {
	sc := scope{Point: b.q.Point, VMs: slices.Clone(b.q.VMs)}
	asked := len(sc.VMs) > 0 || !sc.Point.IsZero()
	fresh := (recovers(b.does) || b.does == plan.Test) && !b.goesOn()
	if !fresh {
		if asked && !recovers(b.does) && b.does != plan.Test {
			return sc, errs.New("operate.Begin", errs.Invalid, string(b.does), "it is about what was tested or recovered, as a whole").
				WithRemedy("leave point and VMs out")
		}
		if !asked {
			sc = b.r.scope
		}
	}
	switch {
	case b.r.State == plan.PartialRecovery && len(sc.VMs) == 0:
		return b.rest(ctx, tx, sc, plan.AtRest)
	case family(b.does) == plan.Reprotect && !b.goesOn() && (sc.Rest || b.r.State == plan.PartialReprotect):
		return b.rest(ctx, tx, scope{Point: sc.Point}, plan.FailedOver) // whoever recovered them
	}
	return sc, nil
}

// rest names the VMs of the domains that stand somewhere, unless all do: others have
// done the rest already.
func (b *beginning) rest(ctx context.Context, tx *db.Tx, sc scope, want plan.Failover) (scope, error) {
	all := true
	for _, name := range b.p.Domains {
		at, err := Domain(ctx, tx, name)
		if err != nil {
			return sc, err
		}
		d := b.view.Domains[name]
		if at.Failover != want || d == nil {
			all = false
			continue
		}
		for _, vm := range b.view.Protected.Members(d, problem.For(&problem.List{}, "")) {
			sc.VMs = append(sc.VMs, site.Ref(vm.ID.String()))
		}
	}
	if sc.Rest = !all; all {
		sc.VMs = nil
	}
	return sc, nil
}

// store writes the rows that go with the run.
func (b *beginning) store(ctx context.Context, tx *db.Tx, id string, book *plan.Runbook, sc scope) error {
	h := headOf(book, sc, b.nameOf)
	for _, name := range book.Domains {
		d, err := Domain(ctx, tx, name)
		if err != nil {
			return err
		}
		to, ok := begins(b.does, d.Failover)
		if !ok {
			continue
		}
		d.Failover, d.Plan = to, b.p.Name
		h.Began[name] = to
		if err := d.save(ctx, tx); err != nil {
			return err
		}
	}
	text, err := json.Marshal(h)
	if err != nil {
		return errs.E("operate.Begin", errs.Internal, string(b.p.Name), err)
	}
	said, second := "{}", ""
	if b.agreed != nil {
		c, err := json.Marshal(b.agreed)
		if err != nil {
			return errs.E("operate.Begin", errs.Internal, string(b.p.Name), err)
		}
		said, second = string(c), b.agreed.Second
	}
	if _, err := tx.Exec(ctx, `INSERT INTO plan_runs (run, request, plan, asked, operation, started_by, agreed, confirmation, head, began_at, ended_at, status, event, state_after, notes, report)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, '', '', '', $11, '')`,
		id, b.q.Key, b.p.Name, b.q.Operation, b.does, b.q.By, db.Text(second, maxKey), said, string(text), tx.Now(), b.q.Notes); err != nil {
		return err
	}
	r := b.r
	r.Standing, r.Run, r.scope, r.Reason = b.next, id, sc, ""
	r.Decide, r.Due = "", time.Time{}
	if err := r.save(ctx, tx); err != nil {
		return err
	}
	if err := tellBegun(ctx, tx, b.p.Name, b.does, b.q.By); err != nil {
		return err
	}
	return b.o.note(ctx, tx, b.p.Name, string(b.does), b.q.By)
}

func (b *beginning) nameOf(id dr.VMID) site.Ref {
	vm, _, _ := b.view.Protected.VM(site.Ref(id.String()))
	if vm == nil {
		return ""
	}
	return vm.Ref
}
