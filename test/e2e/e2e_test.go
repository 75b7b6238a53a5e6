package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/cli"
	"holdfast/internal/demo"
	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store/dir"
)

// asHoldfast makes this test binary the holdfast binary in a child process.
const asHoldfast = "HOLDFAST_E2E_MAIN"

// TestMain lets the test binary serve as the product's: the code under test is
// the same, and nothing has to be built first.
func TestMain(m *testing.M) {
	if os.Getenv(asHoldfast) != "" {
		os.Exit(cli.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// setUp returns the binary to run and the guest's image.
func setUp(t *testing.T) (binary, image string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asHoldfast, "1")
	image, err = ledger.BuildImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return binary, image
}

// writer sends what a demo says to the test's log, line by line.
type writer struct {
	t    *testing.T
	rest string // of a line that has not ended
}

func (w *writer) Write(p []byte) (int, error) {
	w.rest += string(p)
	for {
		line, rest, whole := strings.Cut(w.rest, "\n")
		if !whole {
			return len(p), nil
		}
		w.t.Log(line)
		w.rest = rest
	}
}

// TestDisaster is the demo with a look at every sampled checkpoint, not only
// the newest: each one offered as a recoverable group point must hold every
// commit acknowledged before it was cut, whole ledgers, and both guests at one
// instant.
func TestDisaster(t *testing.T) {
	for _, c := range []struct {
		ack      string
		interval time.Duration
		sample   int
	}{
		{"async", time.Second, 14},
		{"sync", 2 * time.Second, 3},
	} {
		t.Run(c.ack, func(t *testing.T) {
			binary, image := setUp(t)
			checked := 0
			res, err := demo.Run(t.Context(), demo.Options{
				Binary: binary, Image: image, Interval: c.interval, Ack: c.ack,
				MinRun: 10 * time.Second, MaxRun: 18 * time.Second, Out: &writer{t: t},
				Inspect: func(ctx context.Context, l *demo.Loss) error {
					checked = checkEvery(ctx, t, l, c.sample)
					if c.ack == "async" {
						bootByHand(ctx, t, binary, l)
					}
					return nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if checked < min(3, c.sample) {
				t.Errorf("only %d checkpoints could be checked", checked)
			}
			for i := range res.Recovered {
				if res.Recovered[i] == 0 || res.Recovered[i] < res.Promised[i] {
					t.Errorf("guest %d: recovered %d, promised %d", i+1, res.Recovered[i], res.Promised[i])
				}
			}
			if limit := c.interval + 15*time.Second; res.RPO > limit {
				t.Errorf("RPO %v, over %v", res.RPO, limit)
			}
		})
	}
}

// checkEvery restores up to n recoverable group checkpoints, spread over the
// history, and checks the disks without booting them.
func checkEvery(ctx context.Context, t *testing.T, l *demo.Loss, n int) (checked int) {
	t.Helper()
	id, err := journal.ParseIdentityFile(l.Key)
	if err != nil {
		t.Fatal(err)
	}
	st, err := dir.Open(strings.TrimPrefix(l.URL, "file://"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := journal.Open(ctx, st, id)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p := h.Problems(); len(p) > 0 {
		t.Errorf("the history has problems: %+v", p)
	}
	var points []journal.CheckpointInfo
	for _, p := range h.Checkpoints() {
		if p.Recoverable && p.Scope == dr.Group {
			points = append(points, p)
		}
	}
	step := max(1, (len(points)+n-1)/n)
	for i := len(points) - 1; i >= 0; i -= step {
		checkPoint(ctx, t, c, h, points[i], l)
		checked++
	}
	t.Logf("checked %d of %d recoverable group checkpoints", checked, len(points))
	return checked
}

func checkPoint(ctx context.Context, t *testing.T, c *journal.Container, h *journal.History, cp journal.CheckpointInfo, l *demo.Loss) {
	t.Helper()
	img, err := h.Resolve(ctx, cp)
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := os.MkdirTemp(l.Dir, "check-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(scratch)
	var targets []rocva.Target
	path := map[string]string{} // by VM name
	for _, d := range img.Disks {
		p := filepath.Join(scratch, d.ID.String()+".raw")
		targets = append(targets, rocva.Target{Disk: d.ID, Path: p})
		path[img.VMs[d.VM].Name] = p
	}
	if _, err := rocva.Full(ctx, c, img, targets, rocva.Options{}); err != nil {
		t.Fatal(err)
	}
	var reports [2]ledger.Report
	for i := range reports {
		p := path[fmt.Sprintf("guest%d", i+1)]
		if reports[i], err = ledger.CheckImage(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	leader, follower := l.AckedBefore(cp.Time)
	if err := ledger.CheckPair(reports[0], reports[1]); err != nil {
		t.Errorf("checkpoint %d: %v", cp.ID, err)
	}
	if reports[0].Max < leader || reports[1].Max < follower {
		t.Errorf("checkpoint %d lost commits: acknowledged %d/%d before it was cut, holds %d/%d",
			cp.ID, leader, follower, reports[0].Max, reports[1].Max)
	}
}

// TestInterrupt stops the demo in the middle, as Ctrl-C does: no process,
// socket or file may stay.
func TestInterrupt(t *testing.T) {
	binary, image := setUp(t)
	work := filepath.Join(t.TempDir(), "w")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "demo", "--image", image, "--dir", work)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, out, "both guests are up")
	if len(processesIn(t, work)) == 0 {
		t.Error("the look for processes finds none while the demo runs: it proves nothing")
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 130 {
			t.Errorf("ended with %v, want exit code 130", err)
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		t.Fatal("did not end within a minute")
	}
	if left := processesIn(t, work); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if _, err := os.Stat(work); err == nil {
		t.Errorf("%s is left behind", work)
	}
}

// waitFor reads until a line holds the words.
func waitFor(t *testing.T, r io.Reader, words string) {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), words) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("ended before %q: %v\n%s", words, err, seen.String())
		}
	}
}

// processesIn lists processes whose command line names dir.
func processesIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended
		}
		line := strings.ReplaceAll(string(b), "\x00", " ")
		if strings.Contains(line, dir+"/") {
			found = append(found, line)
		}
	}
	return found
}
