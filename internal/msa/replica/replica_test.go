package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

// asReplica has the test binary be a replica: its value is the directory, the URL of
// the database and the address, by spaces.
const asReplica = "HOLDFAST_TEST_REPLICA"

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(asReplica)); len(args) == 3 {
		r, err := Open(context.Background(), Options{Data: args[0], DB: args[1], Listen: args[2], Site: "site-a", Release: "test"})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(r.Address(), r.Fingerprint())
		if err := r.Run(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(dbtest.Main(m))
}

// process is a replica in a process of its own.
type process struct {
	*exec.Cmd
	address, fingerprint string
}

func start(t *testing.T, dir, url, listen string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), asReplica+"="+dir+" "+url+" "+listen)
	p.Stderr = os.Stderr
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, serr := fmt.Sscan(line, &p.address, &p.fingerprint); err != nil || serr != nil {
		t.Fatalf("the replica says %q: %v", line, err)
	}
	go io.Copy(io.Discard, out)
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	if p.ProcessState == nil {
		p.Process.Kill()
		p.Wait()
	}
}

// open opens the database and makes an admin's token.
func open(t *testing.T, url string) (*db.DB, string) {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	a := auth.New(auth.Options{DB: d})
	h, err := a.Hash(t.Context(), "root", "crow lamp tundra 7")
	if err != nil {
		t.Fatal(err)
	}
	var token string
	if err := d.Tx(t.Context(), func(tx *db.Tx) (err error) {
		if _, err := auth.Create(t.Context(), tx, auth.User{Name: "root", Grants: []auth.Grant{{Role: auth.Admin}}}, h); err != nil {
			return err
		}
		_, token, err = auth.NewToken(t.Context(), tx, "root", "test", []auth.Grant{{Role: auth.Admin}}, time.Hour)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return d, token
}

func dial(t *testing.T, address, fingerprint, token string) *v1.Client {
	t.Helper()
	c, err := v1.Dial(v1.Options{Address: address, Token: token, Fingerprint: fingerprint, Tries: 60})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func siteOf(name string) *v1.Site {
	return &v1.Site{Meta: v1.Meta{Name: v1.Name(name)}, Platform: site.Fake}
}

// TestKilledDuringWrites: whatever was acknowledged before a kill -9 is there
// afterwards, with its line in the feed and in the audit log, and once. The client
// hides the kills.
func TestKilledDuringWrites(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		const kills = 2
		dir := t.TempDir()
		d, token := open(t, url)
		p := start(t, dir, url, "127.0.0.1:0")
		listen := strings.TrimPrefix(p.address, "https://")
		c := dial(t, p.address, p.fingerprint, token)
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		acked := map[v1.Name]bool{}
		tick := make(chan struct{}, 1000)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					name := fmt.Sprintf("s%d-%d", w, i)
					got, err := c.Sites().Put(t.Context(), siteOf(name))
					if err != nil || got.Version != 1 {
						t.Errorf("%s: version %d, %v", name, got.Version, err)
						return
					}
					mu.Lock()
					acked[got.Name] = true
					mu.Unlock()
					select {
					case tick <- struct{}{}:
					default:
					}
				}
			})
		}
		for range kills {
			for range 12 {
				<-tick
			}
			p.kill()
			p = start(t, dir, url, listen)
		}
		for range 12 {
			<-tick
		}
		stop()
		wg.Wait()
		p.kill()
		there := map[v1.Name]int{}
		lines := map[string]int{}
		if err := d.View(t.Context(), func(tx *db.Tx) error {
			if err := tx.Rows(t.Context(), `SELECT name FROM objects WHERE kind = 'site'`, nil, func(scan func(...any) error) error {
				var n string
				err := scan(&n)
				there[v1.Name(n)]++
				return err
			}); err != nil {
				return err
			}
			return tx.Rows(t.Context(), `SELECT name FROM changes WHERE kind = 'site' AND action = 'create'`, nil, func(scan func(...any) error) error {
				var n string
				err := scan(&n)
				lines[n]++
				return err
			})
		}); err != nil {
			t.Fatal(err)
		}
		for n := range acked {
			if there[n] != 1 || lines[string(n)] != 1 {
				t.Errorf("%s was acknowledged: it is there %d times, and %d times in the feed", n, there[n], lines[string(n)])
			}
		}
		if len(there) != len(lines) {
			t.Errorf("%d objects, %d lines", len(there), len(lines))
		}
		if _, err := audit.Verify(t.Context(), d); err != nil {
			t.Errorf("the audit log: %v", err)
		}
		t.Logf("%d acknowledged over %d kills", len(acked), kills)
	})
}

// TestTwoReplicas: what one writes the other shows, and tells those who watch it;
// who watched one that is dead goes on at the other.
func TestTwoReplicas(t *testing.T) {
	url := dbtest.Postgres(t)
	_, token := open(t, url)
	dirs := []string{t.TempDir(), t.TempDir()}
	a := start(t, dirs[0], url, "127.0.0.1:0")
	key, err := os.ReadFile(filepath.Join(dirs[0], "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	// Without the key of the first, the second one does not start.
	if r, err := Open(t.Context(), Options{Data: dirs[1], DB: url, Listen: "127.0.0.1:0", Site: "site-a"}); !errs.Is(err, errs.NotFound) || errs.RemedyOf(err) == "" {
		t.Errorf("a replica without the key: %v, %v", r, err)
	}
	if err := durable.CreateOnce(durable.OS{}, filepath.Join(dirs[1], "seal.key"), key); err != nil {
		t.Fatal(err)
	}
	b := start(t, dirs[1], url, "127.0.0.1:0")
	if a.fingerprint != b.fingerprint {
		t.Errorf("two authorities: %s and %s", a.fingerprint, b.fingerprint)
	}
	ca, cb := dial(t, a.address, a.fingerprint, token), dial(t, b.address, b.fingerprint, token)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	enough := errors.New("enough")
	var last int64
	watch := func(c *v1.Client, write *v1.Client, names ...string) {
		t.Helper()
		seen := 0
		err := c.Watch(ctx, v1.WatchOptions{After: last, Kinds: []string{"site"}}, func(e v1.Event, err error) error {
			if err != nil {
				return err
			}
			if e.Kind == "" { // it watches: now there is something to see
				go func() {
					for _, n := range names {
						if _, err := write.Sites().Put(ctx, siteOf(n)); err != nil {
							t.Error(err)
						}
					}
				}()
				return nil
			}
			if e.Name != names[seen] {
				t.Errorf("saw %s, want %s", e.Name, names[seen])
			}
			last = e.Seq
			if seen++; seen == len(names) {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	watch(cb, ca, "one", "two")
	a.kill()
	watch(cb, cb, "three")
	if got, err := cb.Sites().Get(ctx, "one"); err != nil || got.Version != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestStrangers: who is not known, or shows another certificate, gets nowhere.
func TestStrangers(t *testing.T) {
	url := dbtest.SQLite(t)
	_, token := open(t, url)
	r, err := Open(t.Context(), Options{Data: t.TempDir(), DB: url, Listen: "127.0.0.1:0", Site: "site-a", Names: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	ask := func(fingerprint, token string) error {
		c, err := v1.Dial(v1.Options{Address: r.Address(), Fingerprint: fingerprint, Token: token})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Version(t.Context())
		return err
	}
	if err := ask(r.Fingerprint(), token); err != nil {
		t.Errorf("who is known: %v", err)
	}
	for name, err := range map[string]error{
		"no token": ask(r.Fingerprint(), ""), "another token": ask(r.Fingerprint(), token+"x"),
		"another manager": ask(strings.Repeat("0", 64), token), "no authority": ask("", token),
	} {
		if !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v1.Dial(v1.Options{Address: "http://x"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("without TLS: %v", err)
	}
	// A stream does not keep the process.
	c := dial(t, r.Address(), r.Fingerprint(), token)
	watched := make(chan error, 1)
	watchCtx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		watched <- c.Watch(watchCtx, v1.WatchOptions{}, func(v1.Event, error) error { stop(); return nil })
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cancel()
	<-watched
	if err := ask(r.Fingerprint(), token); !errs.Is(err, errs.Unavailable) {
		t.Errorf("it still answers: %v", err)
	}
}
