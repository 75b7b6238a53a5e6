package live

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"holdfast/internal/errs"
)

// sleeper starts a process that does nothing.
func sleeper(t *testing.T) (*exec.Cmd, uint64) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	start, err := StartOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, start
}

func TestProcessIsKilled(t *testing.T) {
	cmd, start := sleeper(t)
	p, err := OpenProcess(cmd.Process.Pid, start, func(context.Context) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	select {
	case <-p.Gone():
		t.Fatal("it is gone already")
	default:
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(ctx); err != nil {
		t.Fatal("killed twice:", err)
	}
}

// TestAnotherProcessIsLeftAlone: of the same number, and begun at another time.
func TestAnotherProcessIsLeftAlone(t *testing.T) {
	cmd, start := sleeper(t)
	if _, err := OpenProcess(cmd.Process.Pid, start+1, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
	p, err := OpenProcess(cmd.Process.Pid, start, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if again, err := StartOf(cmd.Process.Pid); err != nil || again != start {
		t.Errorf("it was touched: %v", err)
	}
	if own, err := StartOf(os.Getpid()); err != nil || own == 0 || own > start {
		t.Errorf("own start %d, a later process's %d, %v", own, start, err)
	}
}
