package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// reader reads a stream of events.
type reader struct {
	t    *testing.T
	in   *bufio.Scanner
	end  context.CancelFunc
	last string // id of the last event
}

func (r *rig) events(query, lastID string) *reader {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	r.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", r.srv.URL+prefix+"/events"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.who)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := r.srv.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		r.t.Fatalf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return &reader{t: r.t, in: bufio.NewScanner(resp.Body), end: cancel}
}

// next returns the next event with a name; an empty name: the stream has ended.
func (r *reader) next() (name, data string) {
	for r.in.Scan() {
		line := r.in.Text()
		switch {
		case strings.HasPrefix(line, "id: "):
			r.last = line[4:]
		case strings.HasPrefix(line, "event: "):
			name = line[7:]
		case strings.HasPrefix(line, "data: "):
			data = line[6:]
		case line == "" && name != "":
			return name, data
		}
	}
	return "", ""
}

func (r *reader) change() v1.Event {
	r.t.Helper()
	name, data := r.next()
	var e v1.Event
	if err := json.Unmarshal([]byte(data), &e); err != nil || name != "change" {
		r.t.Fatalf("%q %q: %v", name, data, err)
	}
	return e
}

// TestEventsResume: readers whose streams break off again and again, while others
// write through two replicas, see every change once and in order.
func TestEventsResume(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := newRig(t, url), newRig(t, url)
		const writers, rounds = 4, 20
		var wg sync.WaitGroup
		for w := range writers {
			r := []*rig{a, b}[w%2]
			wg.Go(func() {
				for i := range rounds {
					r.send("PUT", fmt.Sprintf("/sites/s%d-%d", w, i), siteOf(fmt.Sprintf("s%d-%d", w, i))).want(http.StatusCreated)
				}
			})
		}
		seen := map[string]bool{}
		place, streams := "0", 0
		for len(seen) < writers*rounds {
			st := []*rig{a, b}[streams%2].events("", place)
			streams++
			if name, _ := st.next(); name != "hello" {
				t.Fatalf("begins with %q", name)
			}
			for range min(7, writers*rounds-len(seen)) {
				e := st.change()
				if seen[e.Name] {
					t.Errorf("%s twice", e.Name)
				}
				if at, _ := strconv.ParseInt(place, 10, 64); e.Seq != at+1 || st.last != fmt.Sprint(e.Seq) {
					t.Errorf("%d follows %s, id %s", e.Seq, place, st.last)
				}
				seen[e.Name], place = true, st.last
			}
			st.end()
		}
		wg.Wait()
	})
}

func TestEventsAreScoped(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	r.who = "erp"
	st := r.events("?after=0&kind=x&kind=y", "")
	if name, _ := st.next(); name != "hello" {
		t.Fatal(name)
	}
	if err := r.db.Tx(t.Context(), func(tx *db.Tx) error {
		return catalog.NoteAll(t.Context(), tx, []catalog.Change{
			{Kind: "x", Name: "1", Folder: "crm"}, {Kind: "x", Name: "2"}, {Kind: "z", Name: "3", Folder: "erp"}, {Kind: "x", Name: "4", Folder: "erp2"}, {Kind: "y", Name: "5", Folder: "erp/prod"},
		})
	}); err != nil {
		t.Fatal(err)
	}
	if e := st.change(); e.Name != "5" {
		t.Errorf("saw %+v", e)
	}
}

// TestEventsGap: who was away for so long that lines are gone is told.
func TestEventsGap(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	for i := range 5 {
		r.send("PUT", fmt.Sprintf("/sites/s%d", i), siteOf(fmt.Sprintf("s%d", i))).want(http.StatusCreated)
	}
	if err := r.db.Tx(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM changes WHERE seq <= 3`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for place, want := range map[string]string{"2": "reset", "3": "change", "5": "", "99": "reset"} {
		st := r.events("", place)
		st.next() // hello
		if want == "" {
			r.send("PUT", "/sites/new", siteOf("new")).want(http.StatusCreated)
			want = "change"
		}
		if name, data := st.next(); name != want {
			t.Errorf("from %s on: %s %s, want %s", place, name, data, want)
		}
		st.end()
	}
	r.send("GET", "/events", nil, "Last-Event-ID", "x").problem(http.StatusUnprocessableEntity, errs.Invalid)
}

// revocable is one who may be forgotten.
type revocable struct {
	people
	gone atomic.Bool
}

func (p *revocable) Authenticate(ctx context.Context, r *http.Request) (*auth.Principal, error) {
	if p.gone.Load() {
		return nil, errs.New("test", errs.Denied, "token", "revoked")
	}
	return p.people.Authenticate(ctx, r)
}

// TestStreamEndsWithItsToken: a stream does not outlive the right to it.
func TestStreamEndsWithItsToken(t *testing.T) {
	p := &revocable{people: everybody()}
	old := askEvery
	askEvery = feedPoll
	t.Cleanup(func() { askEvery = old })
	r := newRig(t, dbtest.SQLite(t), func(o *Options) { o.Auth = p })
	st := r.events("", "")
	st.next()
	p.gone.Store(true)
	if name, data := st.next(); name != "" {
		t.Errorf("it goes on with %s %s", name, data)
	}
}

func TestTooManyStreams(t *testing.T) {
	h := newHub(nil)
	h.streams = maxStreams
	if _, err := h.join(); !errs.Is(err, errs.Transient) {
		t.Errorf("one more: %v", err)
	}
}
