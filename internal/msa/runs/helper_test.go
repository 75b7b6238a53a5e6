package runs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// The test binary is also a manager's process that can be killed: these say what it
// is to do.
const (
	helperURL  = "HOLDFAST_RUNS_URL"
	helperMode = "HOLDFAST_RUNS_MODE" // die: once at every point; poison: at each; wait: act when the file is there
	helperFile = "HOLDFAST_RUNS_FILE"
)

func helper() {
	ctx := context.Background()
	d, err := db.Open(ctx, os.Getenv(helperURL))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	h := &outside{d}
	o := Options{Lease: 500 * time.Millisecond, Renew: 80 * time.Millisecond, Poll: 10 * time.Millisecond, Crashes: 1000, Kinds: h.kinds()}
	if os.Getenv(helperMode) == "poison" {
		o.Crashes = 3
	}
	w, err := NewWorker(d, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	err = w.Run(ctx)
	fmt.Fprintln(os.Stderr, "ended:", err)
	os.Exit(1)
}

// outside is the world the steps act on: tables beside the journal's, in which each
// effect is a row.
type outside struct{ d *db.DB }

func (h *outside) make(t *testing.T) {
	tx(t, h.d, func(ctx context.Context, x *db.Tx) error {
		for _, s := range []string{
			"CREATE TABLE acts (key TEXT NOT NULL, step TEXT NOT NULL, epoch BIGINT NOT NULL)",
			"CREATE TABLE marks (name TEXT NOT NULL PRIMARY KEY)",
		} {
			if _, err := x.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// mark notes something once and reports whether this call did.
func (h *outside) mark(ctx context.Context, name string) bool {
	for {
		var n int64
		err := h.d.Tx(ctx, func(x *db.Tx) (err error) {
			n, err = x.Exec(ctx, "INSERT INTO marks (name) VALUES ($1) ON CONFLICT (name) DO NOTHING", name)
			return err
		})
		if err == nil || ctx.Err() != nil {
			return n == 1
		}
	}
}

// point is where a process may end.
func (h *outside) point(c *Call, where string) {
	switch mode := os.Getenv(helperMode); {
	case mode == "poison" && where == "in":
	case mode == "die" && h.mark(context.Background(), "died "+c.Step.Name+" "+where):
	default:
		return
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it arrives
}

// act makes the step's effect: it looks, asks, acts.
func (h *outside) act(ctx context.Context, c *Call) (Result, error) {
	h.point(c, "before")
	var n int
	if err := h.d.View(ctx, func(x *db.Tx) error {
		_, err := x.Row(ctx, "SELECT count(*) FROM acts WHERE key = $1", []any{c.Key}, &n)
		return err
	}); err != nil {
		return Result{}, err
	}
	if n > 0 {
		return Result{AlreadyDone: true}, nil
	}
	if file := os.Getenv(helperFile); file != "" {
		h.mark(context.Background(), "waits")
		for _, err := os.Stat(file); err != nil; _, err = os.Stat(file) {
			time.Sleep(time.Millisecond) // deaf to its context, on purpose
		}
	}
	h.point(c, "in")
	if err := c.Hold(ctx); err != nil {
		if os.Getenv(helperFile) != "" {
			h.mark(context.Background(), "gave up: "+errs.KindOf(err).String())
		}
		return Result{}, err
	}
	if err := h.d.Tx(ctx, func(x *db.Tx) error {
		_, err := x.Exec(ctx, "INSERT INTO acts (key, step, epoch) VALUES ($1, $2, $3)", c.Key, c.Step.Name, c.Epoch)
		return err
	}); err != nil {
		return Result{}, err
	}
	h.point(c, "after")
	return Result{}, nil
}

func (h *outside) kinds() Kinds {
	k := Kinds{{"act", 1}: DoerFunc(h.act)}
	k[Kind{"job", 1}] = DoerFunc(func(ctx context.Context, c *Call) (Result, error) {
		if len(c.Memory) == 0 {
			if _, err := h.act(ctx, c); err != nil {
				return Result{}, err
			}
			return Result{Again: 5 * time.Millisecond, Memory: asJSON(1)}, nil
		}
		h.point(c, "poll")
		if string(c.Memory) == "1" {
			return Result{Again: 5 * time.Millisecond, Memory: asJSON(2)}, nil
		}
		return Result{}, nil
	})
	k[Kind{"fail", 1}] = DoerFunc(func(_ context.Context, c *Call) (Result, error) {
		h.point(c, "in")
		return Result{}, errors.New("as planned")
	})
	return k
}

// acts returns how often each step acted.
func (h *outside) acts(t *testing.T) map[string]int {
	out := make(map[string]int)
	tx(t, h.d, func(ctx context.Context, x *db.Tx) error {
		return x.Rows(ctx, "SELECT step, count(*) FROM acts GROUP BY step", nil, func(scan func(...any) error) error {
			var s string
			var n int
			err := scan(&s, &n)
			out[s] = n
			return err
		})
	})
	return out
}

func (h *outside) marks(t *testing.T, like string) (out []string) {
	tx(t, h.d, func(ctx context.Context, x *db.Tx) error {
		out = nil
		return x.Rows(ctx, "SELECT name FROM marks WHERE name LIKE $1 ORDER BY name", []any{like}, func(scan func(...any) error) error {
			var s string
			err := scan(&s)
			out = append(out, s)
			return err
		})
	})
	return out
}

// spawn starts a process of a manager. It ends with the test, or is killed.
func spawn(t *testing.T, url string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), helperURL+"="+url), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() && out.Len() > 0 {
			t.Log(out.String())
		}
	})
	return cmd
}

// replicas keeps n processes alive until stop is called; it returns how many died.
func replicas(t *testing.T, url string, n int, env ...string) (stop func() int) {
	quit := make(chan struct{})
	deaths := make(chan int, n)
	for range n {
		go func() {
			died := 0
			for {
				exe, _ := os.Executable()
				cmd := exec.Command(exe)
				cmd.Env = append(append(os.Environ(), helperURL+"="+url), env...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					deaths <- died
					return
				}
				ended := make(chan struct{})
				go func() { cmd.Wait(); close(ended) }()
				select {
				case <-ended:
					died++
				case <-quit:
					cmd.Process.Kill()
					<-ended
					deaths <- died
					return
				}
			}
		}()
	}
	return func() (all int) {
		close(quit)
		for range n {
			all += <-deaths
		}
		return all
	}
}
