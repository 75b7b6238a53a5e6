package hypervisortest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"holdfast/internal/hypervisor"
)

// Orphan has a copy of the test program start a VM, and kills the copy. The
// copy finds role in its environment: TestMain hands its value to Parent. More
// of the environment may be given, as "KEY=value".
func Orphan(t *testing.T, role string, s hypervisor.Spec, env ...string) {
	t.Helper()
	words, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), role+"="+string(words)), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // a copy whose test ended ends, too
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if said != started {
		t.Fatalf("the other process said %q, %v", said, err)
	}
}

const started = "started\n"

// Parent is the other process of Orphan. It returns an exit code.
func Parent(p hypervisor.Provider, words string) int {
	var s hypervisor.Spec
	err := json.Unmarshal([]byte(words), &s)
	if err == nil {
		_, err = p.Start(context.Background(), s)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Print(started)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// contextEnded returns a context that has ended.
func contextEnded(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	cancel()
	return ctx, cancel
}
