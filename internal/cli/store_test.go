package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store/limit"
)

func TestStoreVerify(t *testing.T) {
	d := t.TempDir()
	out := must(t, "store", "verify", "file://"+d, "--quick")
	for _, want := range []string{"create-once", "publisher", "can use it", "nothing is left behind"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	var v trialView
	if err := json.Unmarshal([]byte(must(t, "store", "verify", "file://"+d, "--quick", "-o", "json")), &v); err != nil || len(v.Roles) != 3 || !v.Roles[0].Usable {
		t.Errorf("%v: %+v", err, v)
	}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitNotFound, "nowhere", []string{"file:///nowhere/at/all"}},
		{exitUsage, "king", []string{"file://" + d, "--role", "king"}},
		{exitUsage, "azblob://", []string{"azblob://account"}},
		{exitUsage, "URL", nil},
	} {
		if code, _, stderr := call(t, append([]string{"store", "verify"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit %d\n%s", c.args, code, stderr)
		}
	}
}

func TestChangeBandwidth(t *testing.T) {
	st, err := openStack(t.Context(), "file://"+t.TempDir(), stackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := limit.NewLimiter(limit.Schedule{})
	for _, c := range []struct {
		body string
		up   limit.Rate
		kind errs.Kind
	}{
		{`{}`, limit.Unlimited, 0},
		{`{"schedule":"* up 5MB/s"}`, 5e6, 0},
		{`{"schedule":"nonsense"}`, 5e6, errs.Invalid},
		{`{`, 5e6, errs.Invalid},
		{`{}`, 5e6, 0},
		{`{"schedule":""}`, limit.Unlimited, 0},
	} {
		s, err := changeBandwidth(st, l, []byte(c.body))
		if (err != nil) != (c.kind != 0) || err != nil && !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", c.body, err)
		}
		if up, _ := l.Rates(); up != c.up || err == nil && s.Up != c.up {
			t.Errorf("%s: %v, told %v", c.body, up, s.Up)
		}
	}
}
