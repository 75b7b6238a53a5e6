package stores

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/azblob"
	"holdfast/internal/store/meter"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/s3"
	"holdfast/internal/store/storetest/azurite"
	"holdfast/internal/store/storetest/s3rver"
	"holdfast/internal/store/storetest/versitygw"
	"holdfast/internal/store/verify"
)

// binary is the command, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-stores-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "holdfast")
	out, err := exec.Command("go", "build", "-o", binary, "holdfast/cmd/holdfast").CombinedOutput()
	code := 1
	if err != nil {
		os.Stderr.Write(out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// server is one real store: its address and the variables with its
// credentials.
type server struct {
	name string
	url  store.URL
	env  map[string]string
}

func (s *server) getenv(name string) string { return s.env[name] }

// open connects to the server as the command line does.
func (s *server) open(ctx context.Context) (store.Store, error) {
	var driver store.Store
	var err error
	if s.url.Scheme == store.SchemeAzure {
		driver, err = azblob.Open(ctx, s.url, azblob.Options{Getenv: s.getenv})
	} else {
		driver, err = s3.Open(ctx, s.url, s3.Options{Getenv: s.getenv})
	}
	if err != nil {
		return nil, err
	}
	return retry.New(meter.New(driver), retry.Options{Elapsed: 2 * time.Second}), nil
}

// run runs the command with the server's credentials.
func (s *server) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true"}
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out, errw bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errw
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errw.String()
}

func startAzurite(t *testing.T, tls bool) *server {
	t.Helper()
	a := azurite.Start(t, azurite.Options{TLS: tls})
	if err := a.MakeContainer(t.Context(), "trial"); err != nil {
		t.Fatal(err)
	}
	return &server{"azurite", a.URL("trial", "erp"), map[string]string{"AZURE_STORAGE_KEY": azurite.Key}}
}

func startVersity(t *testing.T, tls, lock bool) *server {
	t.Helper()
	v := versitygw.Start(t, versitygw.Options{TLS: tls})
	if err := v.MakeBucket(t.Context(), "trial", lock); err != nil {
		t.Fatal(err)
	}
	return versityServer(v)
}

func startS3rver(t *testing.T) *server {
	t.Helper()
	s := s3rver.Start(t, s3rver.Options{})
	u := store.URL{Scheme: store.SchemeS3, Bucket: s.Bucket, Endpoint: s.Endpoint, PathStyle: true}
	return &server{"s3rver", u, map[string]string{"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}}
}

// trial runs a trial with the packages and returns its report.
func (s *server) trial(t *testing.T, quick bool) *verify.Report {
	t.Helper()
	st, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Run(t.Context(), st, verify.Options{Quick: quick, Connect: s.open})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Properties {
		t.Logf("%-20s %-14s %-10v %s", p.Name, p.Verdict, p.Took, p.Detail)
	}
	t.Logf("%+v of %+v in %v", r.Used, r.Allowed, r.Took)
	return r
}

// TestGoodStores: the emulators that keep the contract pass a trial, over
// plain connections and over TLS, and nothing of it is left.
func TestGoodStores(t *testing.T) {
	for name, c := range map[string]struct {
		start  func(*testing.T) *server
		quick  bool
		locked bool
	}{
		"azurite":             {func(t *testing.T) *server { return startAzurite(t, false) }, false, false},
		"azurite, TLS":        {func(t *testing.T) *server { return startAzurite(t, true) }, true, false},
		"versitygw":           {func(t *testing.T) *server { return startVersity(t, false, false) }, false, false},
		"versitygw with lock": {func(t *testing.T) *server { return startVersity(t, true, true) }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.start(t)
			r := s.trial(t, c.quick)
			for _, p := range r.Properties {
				switch {
				case p.Verdict == verify.Pass:
				case p.Verdict == verify.Unknown && (p.Name == "durable" || p.Name == "lock" && !c.locked):
				default:
					t.Errorf("%s: %s, %s", p.Name, p.Verdict, p.Detail)
				}
			}
			for _, role := range verify.Roles() {
				if err := r.Usable(role); err != nil {
					t.Error(err)
				}
			}
			want := 0
			if c.locked {
				want = 1
			}
			if r.LeftCount != want {
				t.Errorf("left behind: %v, %s", r.Left, r.LeftWhy)
			}
		})
	}
}

// TestRefused: the server that ignores conditions is refused by the name of
// the property, by the package, by the command and when a domain is made.
func TestRefused(t *testing.T) {
	s := startS3rver(t)
	st, err := s.open(t.Context())
	if err == nil {
		var r *verify.Report
		if r, err = verify.Run(t.Context(), st, verify.Options{Connect: s.open}); err == nil {
			p, _ := r.Property("create-once")
			if p.Verdict != verify.Fail {
				t.Errorf("create-once: %+v", p)
			}
			err = r.Usable(verify.Publisher)
		}
	}
	if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "create-once") || errs.RemedyOf(err) == "" {
		t.Errorf("usable: %v", err)
	}
	for _, args := range [][]string{
		{"store", "verify", s.url.String(), "--quick", "-o", "json"},
		{"domain", "create", s.url.String(), "--quick", "--name", "erp", "--recipient", recipient(t, s)},
	} {
		code, _, stderr := s.run(t, args...)
		if code != 2 || !strings.Contains(stderr, "create-once") || !strings.Contains(stderr, "If-None-Match") {
			t.Errorf("%v: exit %d\n%s", args, code, stderr)
		}
	}
	page, err := st.List(t.Context(), "", "", store.MaxList)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range page {
		t.Errorf("left behind: %s", info.Key)
	}
}

// recipient makes a recovery key and returns its public part.
func recipient(t *testing.T, s *server) string {
	t.Helper()
	code, out, stderr := s.run(t, "key", "new", filepath.Join(t.TempDir(), "recovery.key"))
	if code != 0 {
		t.Fatal(stderr)
	}
	return strings.TrimSpace(out)
}

// TestCommands: the command line works with each kind of store by its address
// and the environment alone.
func TestCommands(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *server{
		"azurite":   func(t *testing.T) *server { return startAzurite(t, true) },
		"versitygw": func(t *testing.T) *server { return startVersity(t, true, true) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			url := s.url.String()
			code, out, stderr := s.run(t, "store", "verify", url, "--quick", "--role", "maintainer", "-o", "json")
			var view struct {
				Properties []verify.Property
				Roles      []struct {
					Role   verify.Role
					Usable bool
				}
			}
			if err := json.Unmarshal([]byte(out), &view); err != nil || code != 0 || len(view.Roles) != 3 || !view.Roles[0].Usable || len(view.Properties) < 20 {
				t.Fatalf("exit %d, %v\n%s%s", code, err, out, stderr)
			}
			key := filepath.Join(t.TempDir(), "recovery.key")
			_, public, _ := s.run(t, "key", "new", key)
			if code, _, stderr = s.run(t, "domain", "create", url, "--quick", "--name", "erp", "--recipient", strings.TrimSpace(public)); code != 0 {
				t.Fatalf("domain create: exit %d\n%s", code, stderr)
			}
			if code, _, stderr = s.run(t, "domain", "create", url, "--name", "erp", "--recipient", strings.TrimSpace(public)); code != 4 || strings.Contains(stderr, "trying") {
				t.Errorf("a second domain: exit %d\n%s", code, stderr)
			}
			for _, args := range [][]string{{"inspect", url, "--key", key}, {"fsck", url, "--key", key}} {
				if code, out, stderr = s.run(t, args...); code != 0 {
					t.Errorf("%v: exit %d\n%s%s", args, code, out, stderr)
				}
			}
			s.env = nil
			if code, _, stderr = s.run(t, "store", "verify", url); code != 7 {
				t.Errorf("without credentials: exit %d\n%s", code, stderr)
			}
		})
	}
}
