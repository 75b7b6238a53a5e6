package dbtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// startFor ends a wait for a server that does not come up.
const startFor = 3 * time.Minute

// server is the test process's one PostgreSQL server.
var server struct {
	sync.Mutex
	dir string
	cmd *exec.Cmd
}

var schemas atomic.Int64

// Main runs a package's tests and ends the server they started, if any. TestMain
// gives its result to os.Exit.
func Main(m *testing.M) int {
	code := m.Run()
	server.Lock()
	defer server.Unlock()
	if server.cmd != nil {
		end(syscall.SIGQUIT)
	}
	if server.dir != "" {
		os.RemoveAll(server.dir)
	}
	return code
}

// SQLite returns the URL of a database that does not exist yet.
func SQLite(t testing.TB) string {
	return "sqlite://" + filepath.Join(t.TempDir(), "msa.db")
}

// Postgres returns the URL of a schema of its own in the process's server, which
// is started if need be.
func Postgres(t testing.TB) string {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	if server.dir == "" {
		initialise(t)
	}
	if server.cmd == nil {
		start(t)
	}
	q := url.Values{"host": {server.dir}, "schema": {fmt.Sprintf("t%d", schemas.Add(1))}}
	return "postgres://holdfast@/postgres?" + q.Encode()
}

// Restart ends the server as how says (SIGINT: sessions are cut; SIGQUIT: at
// once, as in a crash), runs meanwhile, and starts it again.
func Restart(t testing.TB, how syscall.Signal, meanwhile func()) {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	end(how)
	meanwhile()
	start(t)
}

// Each runs f as a subtest for each engine.
func Each(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// tool finds a program of the newest installed server.
func tool(t testing.TB, name string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		t.Fatalf("PostgreSQL's %s is not installed: make deps", name)
	}
	return found[len(found)-1]
}

// unprivileged is how the server's programs are run: they refuse root.
func unprivileged(t testing.TB, cmd *exec.Cmd) (uid, gid int) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT, Setpgid: true}
	cmd.Dir = "/"
	if os.Getuid() != 0 {
		return os.Getuid(), os.Getgid()
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(nobody.Uid)
	gid, _ = strconv.Atoi(nobody.Gid)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return uid, gid
}

func initialise(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfpg")
	if err != nil {
		t.Fatal(err)
	}
	server.dir = dir
	cmd := exec.Command(tool(t, "initdb"), "-D", filepath.Join(dir, "data"), "-U", "holdfast", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	uid, gid := unprivileged(t, cmd)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
}

func start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(server.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(tool(t, "postgres"), "-D", filepath.Join(server.dir, "data"), "-k", server.dir,
		"-c", "listen_addresses=", "-c", "max_connections=200", "-c", "timezone=Asia/Tokyo")
	unprivileged(t, cmd)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	server.cmd = cmd
	ready := tool(t, "pg_isready")
	for until := time.Now().Add(startFor); ; {
		if exec.Command(ready, "-q", "-h", server.dir).Run() == nil {
			return
		}
		if time.Now().After(until) {
			out, _ := os.ReadFile(filepath.Join(server.dir, "log"))
			t.Fatalf("the server does not come up:\n%s", out)
		}
		time.Sleep(20 * time.Millisecond) // between questions; the answer decides
	}
}

func end(how syscall.Signal) {
	server.cmd.Process.Signal(how)
	server.cmd.Wait()
	server.cmd = nil
}
