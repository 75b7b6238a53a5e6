package stores

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/store/storetest/azurite"
	"holdfast/internal/store/storetest/versitygw"
)

// patience bounds the wait for what must happen, however busy the machine is.
const patience = 2 * time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// output is what a process says, while it says it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var _ io.Writer = (*output)(nil)

// drva is a running appliance of its own process.
type drva struct {
	cmd    *exec.Cmd
	said   output
	socket string
	exited chan struct{}
}

// box is what a DRVA's machine has: its key, certificates and configuration.
type box struct {
	s   *server
	dir string
	key string
}

// newBox makes a container on the server and the box of its appliance.
func newBox(t *testing.T, s *server) *box {
	t.Helper()
	b := &box{s: s, dir: t.TempDir()}
	b.key = filepath.Join(b.dir, "drva.key")
	out := b.must(t, "key", "new", b.key)
	domain := b.must(t, "domain", "create", s.url.String(), "--quick", "--name", "erp", "--recipient", strings.TrimSpace(out))
	b.must(t, "cert", "init", filepath.Join(b.dir, "ca"))
	b.must(t, "cert", "issue", filepath.Join(b.dir, "tls"), "--ca", filepath.Join(b.dir, "ca"), "--role", "drva", "--name", strings.TrimSpace(domain), "--addr", "127.0.0.1")
	return b
}

func (b *box) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, stderr := b.s.run(t, args...)
	if code != 0 {
		t.Fatalf("%v: exit %d\n%s", args, code, stderr)
	}
	return out
}

func (b *box) start(t *testing.T, change func(map[string]any)) *drva {
	t.Helper()
	d := &drva{socket: filepath.Join(b.dir, "s"), exited: make(chan struct{})}
	conf := map[string]any{"container": b.s.url.String(), "key": b.key, "log": filepath.Join(b.dir, "log"), "quota": 256 << 20,
		"listen": "127.0.0.1:0", "tls": filepath.Join(b.dir, "tls"), "status": d.socket, "maintain": false}
	if change != nil {
		change(conf)
	}
	raw, err := json.Marshal(conf)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "drva.json"), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(binary, "drva", "--config", filepath.Join(b.dir, "drva.json"))
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "AWS_EC2_METADATA_DISABLED=true"}
	for name, value := range b.s.env {
		d.cmd.Env = append(d.cmd.Env, name+"="+value)
	}
	d.cmd.Stdout, d.cmd.Stderr = &d.said, &d.said
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait() // its state is looked at
		close(d.exited)
	}()
	t.Cleanup(func() { d.stop() })
	return d
}

// stop ends it in good order and returns its exit code.
func (d *drva) stop() int {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	<-d.exited
	return d.cmd.ProcessState.ExitCode()
}

// state is what the status socket says; empty while nobody answers.
func (d *drva) state(t *testing.T, s *server) string {
	t.Helper()
	code, out, _ := s.run(t, "status", d.socket, "-o", "json")
	var v struct{ State string }
	if code != 0 || json.Unmarshal([]byte(out), &v) != nil {
		return ""
	}
	return v.State
}

// TestStartWhileTheStoreIsAway: an appliance that starts before its store
// comes up, says what it waits for, and serves as soon as the store does.
func TestStartWhileTheStoreIsAway(t *testing.T) {
	v := versitygw.Start(t, versitygw.Options{TLS: true})
	if err := v.MakeBucket(t.Context(), "trial", false); err != nil {
		t.Fatal(err)
	}
	a := azurite.Start(t, azurite.Options{Dir: t.TempDir()})
	if err := a.MakeContainer(t.Context(), "trial"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		s    *server
		down func()
		up   func() error
	}{
		{&server{"versitygw", v.URL("trial", ""), v.Env()}, v.Kill, func() error { return v.Restart(t.Context()) }},
		{&server{"azurite", a.URL("trial", ""), map[string]string{"AZURE_STORAGE_KEY": azurite.Key}},
			a.Quit, func() error { return a.Restart(t.Context()) }},
	} {
		t.Run(c.s.name, func(t *testing.T) {
			b := newBox(t, c.s)
			c.down()
			d := b.start(t, nil)
			eventually(t, "it says that it waits", func() bool {
				return d.state(t, c.s) == "waiting for the store" && strings.Contains(d.said.String(), "cannot be reached, trying on")
			})
			code, out, _ := c.s.run(t, "status", d.socket)
			if code != 0 || !strings.Contains(out, "waiting for the store") || !strings.Contains(out, "error") {
				t.Errorf("status: exit %d\n%s", code, out)
			}
			if code, _, stderr := c.s.run(t, "checkpoint", d.socket); code != 5 || !strings.Contains(stderr, "waiting for its store") {
				t.Errorf("checkpoint meanwhile: exit %d\n%s", code, stderr)
			}
			if err := c.up(); err != nil {
				t.Fatal(err)
			}
			var state string
			defer func() {
				if t.Failed() {
					t.Logf("state %q; it said\n%s", state, d.said.String())
				}
			}()
			eventually(t, "it serves", func() bool { state = d.state(t, c.s); return state == "serving" })
			if code := d.stop(); code != 0 {
				t.Errorf("exit %d\n%s", code, d.said.String())
			}

			// What the store answers ends it at once.
			for what, wrong := range map[string]struct {
				change func(map[string]any)
				env    bool
				code   int
			}{
				"a missing bucket": {func(m map[string]any) {
					m["container"] = strings.Replace(c.s.url.String(), "trial", "no-such", 1)
				}, false, 3},
				"no lock in the store": {func(m map[string]any) { m["lock"] = "compliance for 30d" }, false, 2},
				"wrong credentials":    {nil, true, 7},
			} {
				s := *c.s
				if wrong.env {
					s.env = map[string]string{"AZURE_STORAGE_KEY": "bm90IHRoZSBrZXk=", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "x"}
				}
				d := (&box{&s, b.dir, b.key}).start(t, wrong.change)
				select {
				case <-d.exited:
				case <-time.After(patience):
					t.Errorf("%s: it runs on\n%s", what, d.said.String())
				}
				if code := d.stop(); code != wrong.code {
					t.Errorf("%s: exit %d, want %d\n%s", what, code, wrong.code, d.said.String())
				}
			}
		})
	}
}
