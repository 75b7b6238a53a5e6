package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/kms/kmstest"
	"holdfast/internal/store/mem"
)

const serviceToken = "hvs.secret-of-the-cli-test"

// serviceKey is the address of a key in a key service that runs.
func serviceKey(t *testing.T) (address string) {
	srv := httptest.NewServer(kmstest.NewTransit(serviceToken, "site"))
	t.Cleanup(srv.Close)
	t.Setenv("VAULT_TOKEN", serviceToken)
	return "vault+http://" + strings.TrimPrefix(srv.URL, "http://") + "/transit/site"
}

func TestKeyServiceFromCreationToRestore(t *testing.T) { keyServiceLife(t, serviceKey(t)) }

// keyServiceLife makes, lists, rotates, repeats and restores with the key of a
// service alone.
func keyServiceLife(t *testing.T, address string) {
	t.Helper()
	b, d := newBox(t), t.TempDir() // its disk and VM, in another container
	b.dir, b.key = filepath.Join(d, "store"), filepath.Join(d, "recovery.key")
	b.url = "file://" + b.dir
	recipient := must(t, "key", "new", b.key)
	if code, _, said := call(t, "domain", "create", b.url, "--quick", "--name", "erp", "--kms", strings.Replace(address, "site", "missing", 1)); code != exitNotFound {
		t.Fatalf("a key that is not there: %d %s", code, said)
	}
	said := must(t, "domain", "create", b.url, "--quick", "--name", "erp", "--recipient", recipient, "--kms", address)
	b.publish(t)
	said += must(t, "key", "rotate-data", b.url, "--kms", address)
	b.publish(t)
	list := must(t, "key", "list", b.url, "--kms", address)
	if strings.Count(list, address) != 2 || strings.Count(list, recipient) != 2 {
		t.Fatal(list)
	}
	said += list + must(t, "restore", b.url, "--kms", address, "--out", filepath.Join(d, "out"))
	if strings.Contains(said, os.Getenv("VAULT_TOKEN")) {
		t.Fatal("the output shows the token")
	}
	err := filepath.WalkDir(b.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if bytes.Contains(body, []byte(os.Getenv("VAULT_TOKEN"))) {
			t.Errorf("%s holds the token", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEraseTriesTheKeyAndNamesLocks(t *testing.T) {
	b := newBox(t)
	other := filepath.Join(t.TempDir(), "other.key")
	must(t, "key", "new", other)
	out := must(t, "key", "erase", b.url, "--yes-erase", "erp", "--key", b.key)
	if !strings.Contains(out, "opened the container before, and opens it no more") {
		t.Fatal(out)
	}
	// What never opened it proves nothing, and that is said.
	for _, key := range []string{b.key, other} {
		if out := must(t, "key", "erase", b.url, "--yes-erase", "erp", "--key", key); !strings.Contains(out, "did not before either") {
			t.Fatal(out)
		}
	}
}

func TestPassphraseFiles(t *testing.T) {
	b := newBox(t)
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		path string
		code int
	}{
		"others may read it": {file("open", "nine unrelated words\n", 0o640), exitDenied},
		"empty":              {file("empty", "\nnine unrelated words\n", 0o600), exitUsage},
		"large":              {file("large", strings.Repeat("x", maxPassphrase+1), 0o600), exitUsage},
		"a directory":        {dir, exitUsage},
		"missing":            {filepath.Join(dir, "missing"), exitNotFound},
	} {
		if code, _, said := call(t, "key", "add", b.url, "--key", b.key, "--recipient-passphrase-file", c.path); code != c.code || strings.Contains(said, "unrelated") {
			t.Errorf("%s: %d %s", name, code, said)
		}
	}
	if _, err := (&identityFlags{passphrase: "-"}).load(); !errs.Is(err, errs.Invalid) {
		t.Errorf("an appliance that asks: %v", err)
	}
}

// asks runs a command with in as its standard input.
func asks(t *testing.T, ctx context.Context, in *os.File, args ...string) (out string, err error) {
	t.Helper()
	var b bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(&b)
	root.SetErr(&b)
	err = root.ExecuteContext(ctx)
	return b.String(), err
}

func TestPassphrasesFromStandardInput(t *testing.T) {
	b := newBox(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fmt.Fprint(w, "nine unrelated words\r\nnine unrelated words\neleven other ones\nrest")
	w.Close()
	steps := [][]string{
		{"key", "add", b.url, "--key", b.key, "--recipient-passphrase-file", "-"},
		{"key", "add", b.url, "--passphrase-file", "-", "--recipient-passphrase-file", "-"}, // each takes a line
	}
	for _, args := range steps {
		if out, err := asks(t, t.Context(), r, args...); err != nil || strings.Contains(out, "words") {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
}

// terminal opens a pair of terminals: what is typed into the first is read
// from the second.
func terminal(t *testing.T) (typist, tty *os.File) {
	t.Helper()
	typist, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { typist.Close() })
	if err := unix.IoctlSetPointerInt(int(typist.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(typist.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return typist, tty
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lflag&unix.ECHO != 0
}

// typed is a question's stream that answers each question as it comes.
type typed struct {
	t       *testing.T
	typist  *os.File
	tty     *os.File
	answers []string
	asked   strings.Builder
}

func (w *typed) Write(p []byte) (int, error) {
	w.asked.Write(p)
	if bytes.HasSuffix(p, []byte(": ")) {
		if echoes(w.t, w.tty) {
			w.t.Error("the terminal echoes what is typed")
		}
		if _, err := w.typist.WriteString(w.answers[0] + "\n"); err != nil {
			w.t.Error(err)
		}
		w.answers = w.answers[1:]
	}
	return len(p), nil
}

func TestPassphrasesAtATerminal(t *testing.T) {
	b := newBox(t)
	typist, tty := terminal(t)
	run := func(answers []string, args ...string) (string, error) {
		root := newRoot()
		root.SetArgs(args)
		root.SetIn(tty)
		q := &typed{t: t, typist: typist, tty: tty, answers: answers}
		root.SetErr(q)
		root.SetOut(q)
		err := root.ExecuteContext(t.Context())
		if !echoes(t, tty) {
			t.Error("the terminal stays mute")
		}
		if len(q.answers) != 0 {
			t.Errorf("not asked: %q", q.answers)
		}
		return q.asked.String(), err
	}
	add := []string{"key", "add", b.url, "--key", b.key, "--recipient-passphrase-file", "-"}
	if _, err := run([]string{"nine unrelated words", "nine unrelated wrods"}, add...); !errs.Is(err, errs.Invalid) {
		t.Fatalf("two that differ: %v", err)
	}
	if out, err := run([]string{"nine unrelated words", "nine unrelated words"}, add...); err != nil || strings.Contains(out, "unrelated") {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := run([]string{"nine unrelated words"}, "key", "rotate-data", b.url, "--passphrase-file", "-"); err != nil { // asked once
		t.Fatalf("%v %s", err, out)
	}
	if _, err := run([]string{"wrong words all along"}, "key", "list", b.url, "--passphrase-file", "-"); !errs.Is(err, errs.Denied) {
		t.Fatalf("a wrong one: %v", err)
	}
	// An interrupt at the question gives the terminal back.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := asks(t, ctx, tty, "key", "list", b.url, "--passphrase-file", "-"); !errs.Is(err, errs.Canceled) || !echoes(t, tty) {
		t.Fatalf("interrupted: %v", err)
	}
}

func TestApplianceNoticesARotation(t *testing.T) {
	key, err := journal.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	st := mem.New()
	c, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	k := newKeyWatch(c, slog.New(slog.NewTextHandler(&log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tick := make(chan time.Time) // who has received from it has done what came before
	go k.run(ctx, tick)
	tick <- time.Time{}
	tick <- time.Time{}
	if s := k.status(); s.Generation != 1 || !s.Newer.IsZero() || log.Len() != 0 {
		t.Errorf("before: %+v %s", s, &log)
	}
	if _, err := c.RotateDataKey(t.Context(), journal.RotateOptions{}); err != nil {
		t.Error(err)
	}
	for range 3 {
		tick <- time.Time{}
	}
	if s := k.status(); s.Generation != 1 || s.Newer.IsZero() || strings.Count(log.String(), restartWords) != 1 {
		t.Errorf("after: %+v %s", s, &log)
	}
	var shown bytes.Buffer
	printDRVA(&shown, &drvaStatus{DataKey: k.status()})
	if !strings.Contains(shown.String(), "generation 1, but there is a newer one") {
		t.Errorf("%s", &shown)
	}
	again, err := journal.Open(t.Context(), st, key.Identity())
	if err != nil {
		t.Error(err)
	} else if k := newKeyWatch(again, slog.New(slog.DiscardHandler)); k.generation != 2 {
		t.Errorf("restarted under generation %d", k.generation)
	} else if k.look(t.Context()); !k.status().Newer.IsZero() {
		t.Error("a restarted appliance still warns")
	}
}
