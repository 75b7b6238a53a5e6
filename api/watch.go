package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/errs"
)

// ErrReset is what Watch gives instead of an event when it was away for so long that
// events are missing: read everything anew, and go on.
var ErrReset = errors.New("events are missing: read everything anew")

// WatchOptions say which events, from where on.
type WatchOptions struct {
	After int64    // the number of the last event that is known; 0: from now on
	Kinds []string // none: all
}

// Watch tells f each change, in order and none twice, until f returns an error, which
// it returns, or ctx ends. It goes on where it was when the connection breaks off;
// with ErrReset and an empty event f is told that some are missing. Before the first
// change f is told an event without a kind, whose number is the place from which on
// nothing is missed: what is read afterwards is complete together with the events.
func (c *Client) Watch(ctx context.Context, o WatchOptions, f func(Event, error) error) error {
	w := watch{c: c, o: o, f: f, last: -1}
	if o.After > 0 {
		w.last = o.After
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		told, err := w.once(ctx)
		var done stopped
		switch {
		case errors.As(err, &done):
			return done.error
		case ctx.Err() != nil:
			return errs.E("api.Watch", errs.Canceled, c.base.Host, context.Cause(ctx))
		case errs.Is(err, errs.Denied) || errs.Is(err, errs.Invalid) || errs.Is(err, errs.NotFound):
			return err
		case told:
			pause = firstPause
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return errs.E("api.Watch", errs.Canceled, c.base.Host, context.Cause(ctx))
		}
	}
}

// stopped is the error of f.
type stopped struct{ error }

// watch is one reader of events over many connections.
type watch struct {
	c    *Client
	o    WatchOptions
	f    func(Event, error) error
	last int64 // the last number; -1: not known yet
	met  bool  // f was told where it begins
}

// once reads one connection to its end and reports whether there was anything.
func (w *watch) once(ctx context.Context) (told bool, err error) {
	q := url.Values{"kind": w.o.Kinds}
	r := request{method: http.MethodGet, path: "/events", query: q, headers: map[string]string{"Accept": "text/event-stream"}}
	if w.last >= 0 {
		r.headers["Last-Event-ID"] = strconv.FormatInt(w.last, 10)
	}
	req, err := w.c.request(ctx, r, "")
	if err != nil {
		return false, err
	}
	resp, err := w.c.http.Do(req)
	if err != nil {
		return false, w.c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b := make([]byte, 64<<10)
		n, _ := bufio.NewReader(resp.Body).Read(b)
		return false, problemIn(resp, b[:n])
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	var name, data, id string
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "":
			if err := w.take(name, data, id); err != nil {
				return told, err
			}
			told = true
			name, data, id = "", "", ""
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "event: "):
			name = line[7:]
		case strings.HasPrefix(line, "data: "):
			data = line[6:]
		}
	}
	return told, lines.Err()
}

// take takes one event, or the sign of life of a stream.
func (w *watch) take(name, data, id string) error {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return nil
	}
	var told error
	switch name {
	case "hello":
		if !w.met {
			w.met = true
			told = w.f(Event{Seq: n}, nil)
		}
	case "reset":
		told = w.f(Event{}, ErrReset)
	case "change":
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return errs.E("api.Watch", errs.Invalid, "event "+id, err)
		}
		if e.Seq <= w.last {
			return nil
		}
		told = w.f(e, nil)
	}
	if told != nil {
		return stopped{told}
	}
	w.last = n
	return nil
}

func jsonOf(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, errs.E("api.Call", errs.Invalid, "body", err)
	}
	return b, nil
}
