package rocva

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/internal/journal"
	"holdfast/internal/store/dir"
)

// TestFullSurvivesKill kills the rehydrating process at different objects and
// lets it go on.
func TestFullSurvivesKill(t *testing.T) {
	root, dest := t.TempDir(), t.TempDir()
	st, err := dir.Open(root)
	check(t, err)
	who, err := journal.PassphraseRecipient(testSecret, "the usual")
	check(t, err)
	w := newWorldFor(t, st, seeded(t), 24, who, 2<<20, 1<<20+512)
	for _, at := range []string{"ready", "object 1", "object 5", "object 9", "object 15"} {
		if !childKilledAt(t, root, dest, at) {
			t.Fatalf("the run ended before %q", at)
		}
	}
	if !childKilledAt(t, root, dest, "skipped") { // all is done, only to be told
		t.Fatal("the last run did not go on from the others' work")
	}
	w.compare(t, w.targets(dest))
}

// childKilledAt runs a child until it prints a line that begins with line,
// then kills it; false when it ended by itself.
func childKilledAt(t *testing.T, root, dest, line string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+root+"|"+dest)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	in, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	killed := false
	for s := bufio.NewScanner(out); s.Scan(); {
		if got := s.Text(); strings.HasPrefix(got, line) && got != "skipped 0" {
			check(t, cmd.Process.Kill())
			killed = true
			continue
		}
		if _, err := in.Write([]byte("\n")); err != nil && !killed {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil && !killed {
		t.Fatalf("child: %v", err)
	}
	return killed
}
