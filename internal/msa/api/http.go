package api

import (
	"container/list"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/command"
)

// requestHeader has the id of a request in its answer.
const requestHeader = "X-Request-Id"

// outer is what every request passes first, whatever it asks for.
func (s *server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		id := dr.NewUUID().String()
		h.Set(requestHeader, id)
		h.Set("Strict-Transport-Security", "max-age=31536000")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				s.Logger.Error("a request made the API panic", "request", id, "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				s.refuse(w, errs.New("api", errs.Internal, "", "panic"))
			}
		}()
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerFor))
		if wait := s.gates.take(hostOf(r.RemoteAddr), costOf(r.URL.Path), time.Now()); wait > 0 {
			h.Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			s.refuseAs(w, http.StatusTooManyRequests, errs.New("api", errs.Transient, "", "too many requests come from your address").
				WithRemedy("wait as long as Retry-After says"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// nothing answers for what is not there, and for what is there and cannot be done.
func (s *server) nothing(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
		other := *r
		other.Method = m
		if _, pattern := s.mux.Handler(&other); pattern != "/" && pattern != "" {
			allow = append(allow, m)
		}
	}
	if len(allow) == 0 {
		s.refuse(w, errs.New("api", errs.NotFound, "", "there is nothing at this path").WithRemedy("see "+prefix+"/openapi.json"))
		return
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	s.refuseAs(w, http.StatusMethodNotAllowed, errs.New("api", errs.Invalid, "", "this cannot be done here").WithRemedy("use "+strings.Join(allow, " or ")))
}

// hostOf is the address of who asks, without the port.
func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// gates bound what may be asked: by one address, and at once.
type gates struct {
	mu     sync.Mutex // guards what follows
	by     map[string]*list.Element
	recent *list.List // of *bucket: who asked last is first
	slots  chan struct{}
}

// bucket is what an address may still ask.
type bucket struct {
	address string
	tokens  float64
	at      time.Time
}

func newGates() *gates {
	return &gates{by: map[string]*list.Element{}, recent: list.New(), slots: make(chan struct{}, maxAtOnce)}
}

// costOf is what a request counts. Boxes and paired managers ask and tell often while a
// plan is carried out, all boxes of one machine from one address.
func costOf(path string) float64 {
	switch path {
	case command.ExchangePath, command.TellPath, command.AbroadPath:
		return 0.05
	}
	return 1
}

// take counts a request and returns how long to wait before another try; 0: go on.
func (g *gates) take(address string, cost float64, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.by[address]
	if e == nil {
		if g.recent.Len() >= maxAddresses {
			oldest := g.recent.Back()
			delete(g.by, g.recent.Remove(oldest).(*bucket).address)
		}
		e = g.recent.PushFront(&bucket{address, burst, now})
		g.by[address] = e
	}
	g.recent.MoveToFront(e)
	b := e.Value.(*bucket)
	if passed := now.Sub(b.at).Seconds(); passed > 0 { // the wall clock may go back
		b.tokens = min(burst, b.tokens+passed*perSecond)
	}
	b.at = now
	if b.tokens < cost {
		return max(1, time.Duration((cost-b.tokens)/perSecond*float64(time.Second)))
	}
	b.tokens -= cost
	return 0
}

// enter takes one of the places of requests that are served at once; none is free:
// false.
func (g *gates) enter() bool {
	select {
	case g.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g *gates) leave() { <-g.slots }
