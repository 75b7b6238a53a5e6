package operate_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// The test binary is also a manager's process that can be killed: these say what it is
// to do.
const (
	helperURL  = "HOLDFAST_OPERATE_URL"
	helperSeed = "HOLDFAST_OPERATE_SEED" // which points it dies at,
	helperOne  = "HOLDFAST_OPERATE_ONE"  // one in so many; 0: none

	helperBoxes = "HOLDFAST_OPERATE_BOXES" // directory of boxes: it is they, or a manager that commands them
	helperURLA  = "HOLDFAST_OPERATE_URL_A" // database of the other site's manager
	helperPart  = "HOLDFAST_OPERATE_PART"  // "boxes" or "manager"
)

// storyWorld is what the killed processes and the test agree on.
func storyWorld() *world {
	w := newWorld(2, 1)
	p := w.plan("p", "d1", "d2")
	p.VMs = []plan.VM{{VM: "vm1", Priority: 1, Critical: true, Post: []plan.Callout{{Name: "post", Run: plan.OnManager, Script: plan.Script{Command: []string{"true"}}}}}}
	p.Suspend = []site.Ref{"lab"}
	return w
}

func helper() {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	d, err := db.Open(ctx, os.Getenv(helperURL))
	if err != nil {
		fail(err)
	}
	store, err := fakesite.NewInDB(ctx, d)
	if err != nil {
		fail(err)
	}
	o, err := operate.New(operate.Options{World: storyWorld(), Pause: time.Millisecond})
	if err != nil {
		fail(err)
	}
	s := &fakesite.Site{Store: store, JobPolls: 2, Point: func(where string, kind plan.Kind, a *operate.Act) { dieAt(d, where, kind, a) }}
	if os.Getenv(helperBoxes) != "" {
		fail(commanded(ctx, d, o, s))
	}
	w, err := runs.NewWorker(d, runs.Options{Kinds: operate.Kinds(s, 2*time.Millisecond), Joined: o.Joined,
		Lease: 500 * time.Millisecond, Renew: 80 * time.Millisecond, Poll: 10 * time.Millisecond, Crashes: 100000})
	if err != nil {
		fail(err)
	}
	fail(w.Run(ctx))
}

// dieAt ends the process, once, at a point that the seed chooses.
func dieAt(d *db.DB, where string, kind plan.Kind, a *operate.Act) {
	one, _ := strconv.Atoi(os.Getenv(helperOne))
	if one == 0 {
		return
	}
	h := fnv.New32a()
	fmt.Fprint(h, os.Getenv(helperSeed), a.Step.Name, where)
	if h.Sum32()%uint32(one) != 0 {
		return
	}
	var n int64
	point := fmt.Sprint(a.Run, " ", a.Step.Name, " ", kind, " ", where)
	for n == 0 {
		err := d.Tx(context.Background(), func(tx *db.Tx) (err error) {
			n, err = tx.Exec(context.Background(), "INSERT INTO deaths (point) VALUES ($1) ON CONFLICT (point) DO NOTHING", point)
			return err
		})
		if err == nil && n == 0 {
			return // it has died here
		}
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it arrives
}

// replicas keeps n processes alive until the test ends; what dies is started again.
func replicas(t *testing.T, url string, n int, env ...string) {
	quit := make(chan struct{})
	ended := make(chan struct{}, n)
	for range n {
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				exe, _ := os.Executable()
				cmd := exec.Command(exe)
				cmd.Env = append(append(os.Environ(), helperURL+"="+url), env...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				died := make(chan struct{})
				go func() { _ = cmd.Wait(); close(died) }()
				select {
				case <-died:
				case <-quit:
					_ = cmd.Process.Kill()
					<-died
					return
				}
			}
		}()
	}
	t.Cleanup(func() {
		close(quit)
		for range n {
			<-ended
		}
	})
}

// TestKilledEverywhere kills the process that carries a plan out before, in and after
// the steps of every operation, while two replicas take over from each other: each
// operation leads where it should, and nothing is done twice. HOLDFAST_RUNS_KILLS=1 kills
// at every point; else one in a hundred, drawn from a seed.
func TestKilledEverywhere(t *testing.T) {
	one, seed := killing()
	dbtest.Each(t, func(t *testing.T, url string) {
		r := newRig(t, url, storyWorld())
		r.outlives()
		t.Logf("seed %s, one in %s", seed, one)
		replicas(t, url, 2, helperSeed+"="+seed, helperOne+"="+one)
		r.life(wholeLife)
	})
}

// leg is an operation and where it leads.
type leg struct {
	op   plan.Operation
	want plan.State
}

// wholeLife has every operation.
var wholeLife = []leg{
	{plan.Test, plan.TestComplete}, {plan.Cleanup, plan.Ready}, {plan.Planned, plan.BeforeCommit}, {plan.Rollback, plan.Ready},
	{plan.Planned, plan.BeforeCommit}, {plan.CommitRun, plan.RecoveryComplete}, {plan.Reprotect, plan.Ready},
	{plan.Failback, plan.BeforeCommit}, {plan.CommitRun, plan.RecoveryComplete}, {plan.Reprotect, plan.Ready},
	{plan.Disaster, plan.BeforeCommit}, {plan.CommitRun, plan.RecoveryComplete},
}

// killing says at how many points processes are killed, and at which.
func killing() (one, seed string) {
	one = "100"
	if s := os.Getenv("HOLDFAST_RUNS_KILLS"); s != "" {
		one = s
	}
	seed = strconv.FormatInt(time.Now().UnixNano()%1e9, 10)
	if s := os.Getenv("HOLDFAST_RUNS_SEED"); s != "" {
		seed = s
	}
	return one, seed
}

// outlives has the world be in the database, which outlives processes.
func (r *rig) outlives() {
	store, err := fakesite.NewInDB(r.t.Context(), r.d)
	if err != nil {
		r.t.Fatal(err)
	}
	r.site.Store = store
	r.power(true)
	r.must(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE deaths (point TEXT NOT NULL PRIMARY KEY)")
		return err
	})
}

// life does operations, while processes die.
func (r *rig) life(legs []leg) {
	r.t.Helper()
	for _, leg := range legs {
		r.does("p", leg.op, leg.want)
		r.well()
	}
	r.must(func(ctx context.Context, tx *db.Tx) error {
		var n int
		if _, err := tx.Row(ctx, "SELECT count(*) FROM deaths", nil, &n); err != nil {
			return err
		}
		r.t.Logf("%d deaths", n)
		return nil
	})
}
