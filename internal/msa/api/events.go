package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
)

func (s *server) registerEvents() {
	add(s, operation{
		ID: "watch-events", Method: http.MethodGet, Path: "/events", Tag: "events", May: auth.EventRead, Scoped: true, Stream: true, Type: "text/event-stream",
		Summary: "Be told of every change, as server-sent events",
		Detail: "The first event is `hello`, with the place in the feed. Then each `change` is told once, in the order in which changes were committed, with its number as id. " +
			"After an interruption, go on with Last-Event-ID: nothing is missed. `reset` says that lines behind that place are deleted: read everything anew. " +
			"What you may not see is left out. The stream ends when who asks may not look any more.",
	}, s.events)
}

type eventsIn struct {
	LastID string   `header:"Last-Event-ID" maxLength:"20" doc:"The id of the last event you got"`
	After  int64    `query:"after" minimum:"-1" default:"-1" doc:"The same, for the first time: 0 is from the oldest line there is on; -1 from now on"`
	Kind   []string `query:"kind,explode" maxItems:"32" doc:"Only changes of these kinds"`
}

func (s *server) events(ctx context.Context, in *eventsIn) (*huma.StreamResponse, error) {
	after := in.After
	if in.LastID != "" {
		n, err := strconv.ParseInt(in.LastID, 10, 64)
		if err != nil || n < 0 {
			return nil, errs.New("api", errs.Invalid, "Last-Event-ID", "it is no id of this stream").WithRemedy("send the id of the last event, or none")
		}
		after = n
	}
	leave, err := s.hub.join()
	if err != nil {
		return nil, err
	}
	st := &stream{s: s, c: callOf(ctx), kinds: in.Kind, after: after}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer leave()
		st.r, st.w = humago.Unwrap(hc)
		h := st.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("X-Accel-Buffering", "no") // some proxies would keep lines back
		st.w.WriteHeader(http.StatusOK)
		if err := st.run(ctx); err != nil {
			s.Logger.Debug("a stream of events ended", "request", st.c.id, "err", err)
		}
	}}, nil
}

// stream is one who is told.
type stream struct {
	s     *server
	c     *call
	r     *http.Request
	w     http.ResponseWriter
	kinds []string
	after int64 // the last line that was looked at
}

// run tells until the one who asked is gone, or may not look any more.
func (st *stream) run(ctx context.Context) error {
	beat, look := time.NewTicker(beatEvery), time.NewTicker(askEvery)
	defer beat.Stop()
	defer look.Stop()
	first := true
	for {
		news := st.s.hub.news()
		more, err := st.tell(ctx, first)
		if err != nil {
			return err
		}
		first = false
		if more {
			continue
		}
		select {
		case <-news:
		case <-beat.C:
			// Lines that were left out count as seen.
			if err := st.write("id: %d\n\n", st.after); err != nil {
				return err
			}
		case <-look.C:
			who, err := st.s.Auth.Authenticate(ctx, st.r)
			if err != nil {
				return err
			}
			if st.c.who = who; !who.Anywhere(auth.EventRead) {
				return denied(auth.EventRead, "")
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tell writes what is new, and reports whether there may be more.
func (st *stream) tell(ctx context.Context, first bool) (more bool, err error) {
	var f catalog.Feed
	if err := st.s.view(ctx, func(tx *db.Tx) (err error) {
		f, err = catalog.Since(ctx, tx, max(st.after, 0), "", eventsAtOnce)
		return err
	}); err != nil {
		return false, err
	}
	if st.after < 0 {
		st.after, f.Changes, f.Gap = f.Last, nil, false
	}
	if first {
		if err := st.event("hello", st.after, v1.Place{Last: f.Last}); err != nil {
			return false, err
		}
	}
	// Who begins with the oldest line knows that there were others.
	if f.Gap && st.after != 0 {
		st.after = f.Last
		return false, st.event("reset", st.after, v1.Place{Last: f.Last})
	}
	for _, c := range f.Changes {
		st.after = c.Seq
		if len(st.kinds) > 0 && !slices.Contains(st.kinds, c.Kind) || !st.c.who.May(auth.EventRead, c.Folder) {
			continue
		}
		if err := st.event("change", c.Seq, v1.Event{Seq: c.Seq, At: c.At, Kind: c.Kind, Name: c.Name, Folder: string(c.Folder), Action: c.Action, By: c.By}); err != nil {
			return false, err
		}
	}
	return len(f.Changes) == eventsAtOnce, nil
}

func (st *stream) event(name string, id int64, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return errs.E("api", errs.Internal, "event", err)
	}
	return st.write("id: %d\nevent: %s\ndata: %s\n\n", id, name, b)
}

// write sends lines at once, or gives up a reader that does not read.
func (st *stream) write(format string, args ...any) error {
	rc := http.NewResponseController(st.w)
	if err := rc.SetWriteDeadline(time.Now().Add(writeFor)); err != nil && !strings.Contains(err.Error(), "not supported") {
		return errs.E("api", errs.Unavailable, "stream", err)
	}
	if _, err := io.WriteString(st.w, fmt.Sprintf(format, args...)); err != nil {
		return errs.E("api", errs.Unavailable, "stream", err)
	}
	if err := rc.Flush(); err != nil {
		return errs.E("api", errs.Unavailable, "stream", err)
	}
	return nil
}

// hub tells streams when there are new lines in the feed. While there are streams
// it looks, for all of them, how far the feed is: lines come from other replicas too.
type hub struct {
	db *db.DB

	mu      sync.Mutex // guards what follows
	streams int
	last    int64
	fresh   chan struct{} // closed when there is something new
	stop    chan struct{} // ends the one who looks
	look    chan struct{} // one place: look now
}

func newHub(d *db.DB) *hub {
	return &hub{db: d, fresh: make(chan struct{}), look: make(chan struct{}, 1)}
}

// join counts a stream in, until leave is called. Kind Transient: there are too many.
func (h *hub) join() (leave func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams >= maxStreams {
		return nil, errs.New("api", errs.Transient, "events", fmt.Sprintf("%d streams are open", h.streams)).WithRemedy("close some, or ask another replica")
	}
	if h.streams++; h.streams == 1 {
		h.stop = make(chan struct{})
		go h.watch(h.stop)
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.streams--; h.streams == 0 {
			close(h.stop)
		}
	}, nil
}

// news returns what is closed when there is something new. Whoever takes it before
// looking misses nothing.
func (h *hub) news() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fresh
}

// poke has the hub look now.
func (h *hub) poke() {
	select {
	case h.look <- struct{}{}:
	default:
	}
}

func (h *hub) watch(stop chan struct{}) {
	t := time.NewTicker(feedPoll)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		case <-h.look:
		}
		ctx, cancel := context.WithTimeout(context.Background(), writeFor)
		var last int64
		err := h.db.View(ctx, func(tx *db.Tx) error {
			_, err := tx.Row(ctx, `SELECT value FROM sequences WHERE name = 'changes'`, nil, &last)
			return err
		})
		cancel()
		h.mu.Lock()
		if err == nil && last != h.last { // an error is asked again; streams notice it themselves
			h.last = last
			close(h.fresh)
			h.fresh = make(chan struct{})
		}
		h.mu.Unlock()
	}
}
