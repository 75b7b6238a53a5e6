package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
)

// monitor returns a client of a scripted QEMU that greets and answers each
// command with what reply returns; "" is silence.
func monitor(t *testing.T, greeting string, reply func(command string, id uint64) string) (*qmp, net.Conn, *[]string) {
	t.Helper()
	ours, theirs := net.Pipe()
	var events []string
	q := newQMP(ours, func(event string, data json.RawMessage) { events = append(events, event+string(data)) })
	go q.run()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		fmt.Fprintln(theirs, greeting)
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var c struct {
				Execute string
				ID      uint64
			}
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				panic(err)
			}
			if r := reply(c.Execute, c.ID); r != "" {
				fmt.Fprintln(theirs, r)
			}
		}
	}()
	t.Cleanup(func() { ours.Close(); theirs.Close(); <-q.done; <-ended })
	return q, theirs, &events
}

const greeting = `{"QMP": {"version": {}, "capabilities": []}}`

func TestQMP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _, events := monitor(t, greeting, func(command string, id uint64) string {
			switch command {
			case "refused":
				return fmt.Sprintf(`{"id": %d, "error": {"class": "GenericError", "desc": "not now"}}`, id)
			case "told":
				return fmt.Sprintf("{\"event\": \"STOP\", \"data\": {\"a\": 1}}\n\n{\"id\": 77, \"return\": {}}\n{\"id\": %d, \"return\": {\"n\": 5}}", id)
			}
			return fmt.Sprintf(`{"id": %d, "return": {}}`, id)
		})
		ctx := t.Context()
		if err := q.negotiate(ctx); err != nil {
			t.Fatal(err)
		}
		if err := q.execute(ctx, "refused", nil, nil); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "not now") {
			t.Errorf("refused command: %v, want kind conflict and QEMU's words", err)
		}
		var out struct{ N int }
		if err := q.execute(ctx, "told", map[string]int{"x": 1}, &out); err != nil || out.N != 5 {
			t.Errorf("answer %+v, %v, want 5", out, err)
		}
		if len(*events) != 1 || (*events)[0] != `STOP{"a": 1}` { // in before the answer
			t.Errorf("events %q", *events)
		}
	})
}

func TestQMPSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, theirs, _ := monitor(t, greeting, func(string, uint64) string { return "" })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.negotiate(ctx); !errs.Is(err, errs.Canceled) {
			t.Errorf("negotiate with a silent QEMU: %v, want kind canceled", err)
		}
		results := make(chan error, 2*maxPending)
		for range 2 * maxPending {
			go func() { results <- q.execute(t.Context(), "query-status", nil, nil) }()
		}
		synctest.Wait()
		if n := len(results); n != maxPending { // the others found the queue full
			t.Errorf("%d commands were refused, want %d", n, maxPending)
		}
		theirs.Close()
		synctest.Wait()
		full, gone := 0, 0
		for range 2 * maxPending {
			switch err := <-results; errs.KindOf(err) {
			case errs.Full:
				full++
			case errs.Unavailable:
				gone++
			default:
				t.Errorf("execute: %v", err)
			}
		}
		if full != maxPending || gone != maxPending {
			t.Errorf("%d full, %d unavailable, want %d each", full, gone, maxPending)
		}
		if err := q.execute(t.Context(), "quit", nil, nil); !errs.Is(err, errs.Unavailable) {
			t.Errorf("execute after the end: %v, want kind unavailable", err)
		}
	})
}

func TestQMPNonsense(t *testing.T) {
	for name, line := range map[string]string{
		"not JSON": "hello", "no kind": "{}", "endless": `{"event": "` + strings.Repeat("x", maxMessage) + `"}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			q, _, _ := monitor(t, greeting, func(string, uint64) string { return line })
			if err := q.negotiate(t.Context()); err == nil {
				t.Errorf("%s: was taken for an answer", name)
			}
		})
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"id": 1, "return": {}}`))
	f.Add([]byte(`{"id": 1, "error": {"class": "GenericError", "desc": "no"}}`))
	f.Add([]byte(`{"event": "BLOCK_IO_ERROR", "data": {"node-name": "disk0", "operation": "write", "action": "stop"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decodeMessage(line)
		if err != nil {
			if !errs.Is(err, errs.Corrupt) {
				t.Fatalf("kind %v", errs.KindOf(err))
			}
			return
		}
		if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
			t.Fatal("a message of no kind was taken")
		}
	})
}
