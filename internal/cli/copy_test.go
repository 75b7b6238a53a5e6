package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/copies"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
)

// TestCopy: one command copies a container and brings the copy up to date; the copy is as
// good as the container. What lies elsewhere is left alone.
func TestCopy(t *testing.T) {
	b := newBox(t)
	k := []string{"--key", b.key}
	to := "file://" + filepath.Join(t.TempDir(), "new", "copy")
	has(t, "copy", must(t, append([]string{"copy", b.url, to}, k...)...), "copied", "current", "newest point")
	b.more(t, 3, 20, nil)
	must(t, append([]string{"gc", "run", b.url, "--full"}, k...)...)
	s := jsonOf[copies.Status](t, append([]string{"copy", b.url, to}, k...)...)
	if s.State != copies.Current || s.Copied == 0 || s.Lag != 0 {
		t.Errorf("%+v", s)
	}
	for _, args := range [][]string{{"checkpoints"}, {"inspect"}} {
		if a, c := must(t, append(append(args, b.url), k...)...), must(t, append(append(args, to), k...)...); args[0] == "checkpoints" && a != c {
			t.Errorf("%v:\n%s\nand of the copy:\n%s", args, a, c)
		}
	}
	must(t, append([]string{"fsck", to, "--deep"}, k...)...)
	other := newBox(t)
	for what, args := range map[string][]string{
		"another container": {"copy", b.url, other.url}, "no container": {"copy", "file://" + t.TempDir(), to}, "itself": {"copy", b.url, b.url},
	} {
		code, _, said := call(t, append(args, k...)...)
		want := map[string]int{"another container": exitUsage, "no container": exitNotFound, "itself": exitUsage}[what]
		if code != want {
			t.Errorf("%s: exit %d, %s", what, code, said)
		}
	}
}

// TestCopiesConfig: what the configuration may say of copies.
func TestCopiesConfig(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open.env")
	if err := os.WriteFile(open, []byte("X=y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		copies []copyConfig
		kind   errs.Kind
	}{
		"four":                {[]copyConfig{{Container: "file:///a"}, {Container: "file:///b"}, {Container: "file:///c"}, {Container: "file:///d"}}, errs.Invalid},
		"the container":       {[]copyConfig{{Container: "file:///erp"}}, errs.Invalid},
		"twice":               {[]copyConfig{{Container: "file:///a"}, {Container: "file:///a"}}, errs.Invalid},
		"no address":          {[]copyConfig{{Container: "nowhere"}}, errs.Invalid},
		"credentials for all": {[]copyConfig{{Container: "file:///a", Access: open}}, errs.Denied},
	} {
		cfg := domainConfig{Container: "file:///erp", Copies: c.copies}
		if _, err := cfg.copiers(); !errs.Is(err, c.kind) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v, %s", name, err, errs.RemedyOf(err))
		}
	}
}

// TestCopyEvents: people are told of what they have to see to, once, and of its end.
func TestCopyEvents(t *testing.T) {
	var told []string
	k := &copier{tell: func(e drva.Event) { told = append(told, e.Code+" "+string(e.Severity)) }}
	for _, s := range []copies.State{copies.Copying, copies.Lagging, copies.Current, copies.Away, copies.Away, copies.Lagging, copies.Current, copies.Full, copies.Fenced} {
		k.changed(copies.Status{State: s})
	}
	if got := strings.Join(told, ", "); got != "copy-current info, copy-behind warning, copy-current info, copy-behind warning, copy-fenced alarm" {
		t.Error(got)
	}
}
