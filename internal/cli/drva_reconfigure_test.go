package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// TestReconfigure: a running DRVA takes what its file says by now of one domain: neither
// domain begins anew. A file that is bad, or asks for what takes a restart, changes
// nothing.
func TestReconfigure(t *testing.T) {
	d := shortDir(t)
	must(t, "cert", "init", filepath.Join(d, "ca"))
	args := []string{"cert", "issue", filepath.Join(d, "tls"), "--ca", filepath.Join(d, "ca"), "--role", "drva", "--addr", "127.0.0.1"}
	var domains []map[string]any
	var socks []string
	for i := range 2 {
		b := newBox(t)
		b.more(t, 3, 30, nil)
		args = append(args, "--name", b.open(t).Domain().ID.String())
		name := string(rune('a' + i))
		socks = append(socks, filepath.Join(d, name+".sock"))
		domains = append(domains, map[string]any{"container": b.url, "key": b.key, "log": filepath.Join(d, "log-"+name), "quota": 256 << 20,
			"status": socks[i], "interval": "30s", "retention": "30s for 2h"})
	}
	must(t, args...)
	cfg := filepath.Join(d, "drva.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(domains ...map[string]any) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"listen": "127.0.0.1:0", "tls": filepath.Join(d, "tls"), "domains": domains})
		if err != nil {
			t.Fatal(err)
		}
		write(string(body))
	}
	other := func(i int, change map[string]any) []map[string]any {
		all := slices.Clone(domains)
		m := map[string]any{}
		for k, v := range all[i] {
			m[k] = v
		}
		for k, v := range change {
			m[k] = v
		}
		all[i] = m
		return all
	}
	state := func(i int) (s drvaStatus) {
		err := control.CallLocal(t.Context(), socks[i], "/status", nil, &s)
		if err != nil && !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		return s
	}
	ask := func(i int) (out tuned, err error) {
		err = control.CallLocal(t.Context(), socks[i], "/reconfigure", nil, &out)
		return out, err
	}
	file(domains...)
	stop := background(t, "drva", "--config", cfg)
	reaches := func(i int) time.Duration {
		if m := state(i).Maintenance; m != nil && m.Generation > 0 && !m.NextRun.IsZero() {
			return m.Promised
		}
		return 0
	}
	waitFor(t, "both are maintained", func() bool { return reaches(0) == 2*time.Hour && reaches(1) == 2*time.Hour })
	epochs := func() [2]dr.Epoch { return [2]dr.Epoch{state(0).Publisher.Epoch, state(1).Publisher.Epoch} }
	waitFor(t, "both publish", func() bool { e := epochs(); return e[0] > 0 && e[1] > 0 })
	began := epochs()

	changed := map[string]any{"interval": "5s", "rpo-target": "1h", "app-interval": "10m", "compression": "none", "throttle": false, "bandwidth": "* 7MB/s", "retention": "30s for 2h, 1m for 4h"}
	file(other(0, changed)...)
	out, err := ask(1) // whichever socket
	if err != nil || len(out.Changed) != 1 || out.Changed[0] != domains[0]["container"] {
		t.Fatalf("%+v, %v", out, err)
	}
	waitFor(t, "the history's new schedule", func() bool { return reaches(0) == 4*time.Hour })
	if s := state(0); s.RPOTarget != 3600 || s.Store.Bandwidth != "* 7MB/s" && s.Store.Up != 7e6 {
		t.Errorf("%+v, target %v", s.Store, s.RPOTarget)
	}
	if s := state(1); s.RPOTarget != 0 || s.Store.Up != 0 || reaches(1) != 2*time.Hour {
		t.Errorf("the other domain: %+v", s)
	}
	if now := epochs(); now != began {
		t.Errorf("epochs were %v, are %v", began, now)
	}
	must(t, "bandwidth", socks[0], "--set", "* 9MB/s")
	if out, err := ask(0); err != nil || len(out.Changed) != 0 {
		t.Errorf("the same file: %+v, %v", out, err)
	}
	domains = other(0, changed)
	target := map[string]any{"rpo-target": "2h"} // would be taken, but for what is beside it
	for what, f := range map[string]func() errs.Kind{
		"no JSON":         func() errs.Kind { write("{"); return errs.Invalid },
		"no such setting": func() errs.Kind { file(other(1, map[string]any{"colour": "red"})...); return errs.Invalid },
		"interval":        func() errs.Kind { file(other(1, map[string]any{"interval": "1ms"})...); return errs.Invalid },
		"app-interval":    func() errs.Kind { file(other(1, map[string]any{"app-interval": "1s"})...); return errs.Invalid },
		"retention":       func() errs.Kind { file(other(1, map[string]any{"retention": "x"})...); return errs.Invalid },
		"bandwidth":       func() errs.Kind { file(other(1, map[string]any{"bandwidth": "x"})...); return errs.Invalid },
		"quota":           func() errs.Kind { file(other(1, map[string]any{"quota": 512 << 20})...); return errs.Conflict },
		"priority":        func() errs.Kind { file(other(1, map[string]any{"priority": "high"})...); return errs.Conflict },
		"lock":            func() errs.Kind { file(other(1, map[string]any{"lock": "none"})...); return errs.Conflict },
		"one less":        func() errs.Kind { file(domains[0]); return errs.Conflict },
		"another order":   func() errs.Kind { file(domains[1], domains[0]); return errs.Conflict },
	} {
		was := domains
		domains = other(0, target)
		want := f()
		domains = was
		if _, err := ask(0); !errs.Is(err, want) || errs.RemedyOf(err) == "" && want == errs.Conflict {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if s := state(0); s.RPOTarget != 3600 || s.Store.Up != 9e6 {
			t.Errorf("%s was refused, and something changed: %+v, target %v", what, s.Store, s.RPOTarget)
		}
	}
	if now := epochs(); now != began {
		t.Errorf("epochs were %v, are %v", began, now)
	}
	if code := stop(); code != 0 {
		t.Errorf("exit %d when stopped", code)
	}
}
