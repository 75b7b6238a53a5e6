package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// script is a guest whose agent answers by rote: one answer for each question, in order.
type script struct {
	t       *testing.T
	asked   []string
	answers []any // JSON text, or an error
}

func (s *script) AskGuest(ctx context.Context, command string, _, result any) error {
	s.asked = append(s.asked, command)
	if ctx.Err() != nil {
		return errs.E("script", errs.Canceled, command, ctx.Err())
	}
	if len(s.answers) == 0 {
		return errs.New("script", errs.Unavailable, command, "no agent")
	}
	next := s.answers[0]
	s.answers = s.answers[1:]
	if err, bad := next.(error); bad {
		return err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(next.(string)), result); err != nil {
		return errs.E("script", errs.Corrupt, command, err)
	}
	return nil
}

var _ hypervisor.Guest = (*script)(nil)

// TestRun starts a program and asks for it until it has ended, over an agent that is away
// for a while; one that is away for good is told.
func TestRun(t *testing.T) {
	away := errs.New("script", errs.Unavailable, "", "away")
	runs := func(n int) (out []any) {
		for range n {
			out = append(out, away)
		}
		return out
	}
	for name, c := range map[string]struct {
		answers []any
		status  int
		out     string
		kind    errs.Kind
		fails   bool
	}{
		"ends":        {answers: []any{`{"pid":7}`, `{"exited":false}`, `{"exited":true,"exitcode":3,"out-data":"b3V0","err-data":"ZXJy"}`}, status: 3, out: "outerr"},
		"away":        {answers: slices.Concat([]any{`{"pid":7}`}, runs(patience-1), []any{`{"exited":true}`})},
		"gone":        {answers: slices.Concat([]any{`{"pid":7}`}, runs(patience), []any{`{"exited":true}`}), fails: true, kind: errs.Unavailable},
		"killed":      {answers: []any{`{"pid":7}`, `{"exited":true,"signal":9}`}, fails: true, kind: errs.Invalid},
		"refused":     {answers: []any{errs.New("script", errs.Invalid, "", "no such file")}, fails: true, kind: errs.Invalid},
		"forgotten":   {answers: []any{`{"pid":7}`, errs.New("script", errs.Invalid, "", "no such pid")}, fails: true, kind: errs.Invalid},
		"no base64":   {answers: slices.Concat([]any{`{"pid":7}`}, []any{`{"exited":true,"out-data":"*"}`, `{"exited":true,"out-data":"*"}`, `{"exited":true,"out-data":"*"}`, `{"exited":true,"out-data":"*"}`, `{"exited":true,"out-data":"*"}`}), fails: true, kind: errs.Corrupt},
		"no number":   {answers: []any{`{"pid":"x"}`}, fails: true, kind: errs.Corrupt},
		"no such vm":  {answers: []any{errs.New("script", errs.Conflict, "", "ended")}, fails: true, kind: errs.Conflict},
		"ends, ended": {answers: []any{`{"pid":7}`, errs.New("script", errs.Conflict, "", "ended")}, fails: true, kind: errs.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				status, err := Run(t.Context(), &script{t: t, answers: c.answers}, Command{Args: []string{"/bin/x"}}, &out)
				if status != c.status || out.String() != c.out || (err != nil) != c.fails || c.fails && !errs.Is(err, c.kind) {
					t.Errorf("%d, %q, %v", status, out.String(), err)
				}
			})
		})
	}
	if _, err := Run(t.Context(), &script{t: t}, Command{}, new(bytes.Buffer)); !errs.Is(err, errs.Invalid) {
		t.Errorf("no program: %v", err)
	}
}

// TestRunIsEnded ends a program whose time is up.
func TestRunIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, answers: []any{`{"pid":7}`}}
		for range 100 {
			s.answers = append(s.answers, `{"exited":false}`)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := Run(ctx, s, Command{Args: []string{"/bin/x"}}, new(bytes.Buffer))
		if !errs.Is(err, errs.Canceled) || s.asked[len(s.asked)-1] != "guest-exec" {
			t.Errorf("%v after %q", err, s.asked)
		}
	})
}

// TestInterfaces reads what a guest says of its cards, and leaves out what makes no sense.
func TestInterfaces(t *testing.T) {
	s := &script{t: t, answers: []any{`[{"name":"lo","ip-addresses":[{"ip-address":"127.0.0.1","prefix":8}]},
		{"name":"eth0","hardware-address":"52:54:00:AA:00:01","ip-addresses":[{"ip-address":"10.2.0.12","prefix":24},
		{"ip-address":"2001:db8::12","prefix":64},{"ip-address":"nonsense","prefix":1},{"ip-address":"10.0.0.1","prefix":99}]}]`}}
	got, err := Interfaces(t.Context(), s)
	if want := "[{eth0 52:54:00:aa:00:01 [10.2.0.12/24 2001:db8::12/64]}]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
}

// TestListens looks for a port in both tables; a guest without IPv6 has one.
func TestListens(t *testing.T) {
	table := func(port string, state string) string {
		b, err := json.Marshal(map[string]any{"eof": true, "buf-b64": []byte("  sl  local_address rem_address   st\n   0: 00000000:" + port + " 00000000:0000 " + state + " 0\n")})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	refused := errs.New("script", errs.Invalid, "", "no such file")
	for name, c := range map[string]struct {
		answers []any
		up      bool
		kind    errs.Kind
		fails   bool
	}{
		"v4":      {answers: []any{"1", table("1538", "0A"), "{}"}, up: true},
		"v6":      {answers: []any{"1", table("0016", "0A"), "{}", "2", table("1538", "0A"), "{}"}, up: true},
		"talks":   {answers: []any{"1", table("1538", "01"), "{}", "2", table("0016", "0A"), "{}"}},
		"no v6":   {answers: []any{"1", table("0016", "0A"), "{}", refused}},
		"nothing": {answers: []any{refused}, fails: true, kind: errs.Invalid},
	} {
		up, err := Listens(t.Context(), &script{t: t, answers: c.answers}, 0x1538)
		if up != c.up || (err != nil) != c.fails || c.fails && !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, %v", name, up, err)
		}
	}
}

// FuzzListens reads tables as any guest may send them.
func FuzzListens(f *testing.F) {
	f.Add("  sl  local_address rem_address   st\n   0: 0100007F:1538 00000000:0000 0A 0\n", 5432)
	f.Add(":\n a b:zz c 0A", 0)
	f.Fuzz(func(t *testing.T, table string, port int) {
		if listens(table, port) && (port < 0 || port > 65535) {
			t.Errorf("no such port: %d", port)
		}
	})
}
