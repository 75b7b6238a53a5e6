// Package call is how boxes and managers call a manager: JSON over TLS 1.3, the other
// side known by its authority's fingerprint, errors with their kind and remedy. The
// client for people's programs is holdfast/api.
package call

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"holdfast/internal/errs"
)

const (
	// maxReply bounds an answer, bytes.
	maxReply = 1 << 20
	// timeLimit bounds a call, so that a manager that hangs holds nobody.
	timeLimit = 20 * time.Second
)

// Client calls one manager. For concurrent use.
type Client struct {
	address string
	http    *http.Client
}

// New makes a client of the manager at an address, https://host:port. Close it.
func New(address string, cfg *tls.Config) *Client {
	return &Client{strings.TrimSuffix(address, "/"), &http.Client{
		Timeout: timeLimit,
		Transport: &http.Transport{
			TLSClientConfig: cfg, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: timeLimit / 2, DialContext: (&net.Dialer{Timeout: timeLimit / 2}).DialContext,
		},
		// A manager sends nobody elsewhere; what does is not one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// problem is what a manager says of what it did not do.
type problem struct {
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
	Object string `json:"object"`
	Remedy string `json:"remedy"`
}

// Post sends in as JSON to a path and reads the answer into out, nil for none. Kinds:
// what the manager says; Denied for one that is not who it should be; Unavailable.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	const op = "call.Post"
	body, err := json.Marshal(in)
	if err != nil {
		return errs.E(op, errs.Internal, c.address, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address+path, bytes.NewReader(body))
	if err != nil {
		return errs.E(op, errs.Invalid, c.address, err)
	}
	r.Header.Set("Content-Type", "application/json")
	return c.send(ctx, op, r, out)
}

// Get asks for a path and reads the answer into out. Kinds as of Post.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	const op = "call.Get"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address+path, nil)
	if err != nil {
		return errs.E(op, errs.Invalid, c.address, err)
	}
	return c.send(ctx, op, r, out)
}

func (c *Client) send(ctx context.Context, op string, r *http.Request, out any) error {
	resp, err := c.http.Do(r)
	if err != nil {
		// The handshake's verdict has a kind of its own inside.
		var known *errs.Error
		if errors.As(err, &known) {
			return errs.E(op, known.Kind, c.address, known).WithRemedy(errs.RemedyOf(known))
		}
		if ctx.Err() != nil {
			return errs.E(op, errs.Canceled, c.address, context.Cause(ctx))
		}
		return errs.E(op, errs.Unavailable, c.address, err).WithRemedy("is the manager running there, and is the way to it open?")
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return errs.E(op, errs.Unavailable, c.address, err)
	}
	if resp.StatusCode/100 != 2 {
		return c.refusal(resp, reply)
	}
	if out == nil {
		return nil
	}
	if len(reply) > maxReply {
		return errs.New(op, errs.Invalid, c.address, fmt.Sprintf("the answer has more than %d bytes", maxReply))
	}
	if err := json.Unmarshal(reply, out); err != nil {
		return errs.E(op, errs.Invalid, c.address, fmt.Errorf("the answer is none of a manager: %w", err))
	}
	return nil
}

func (c *Client) refusal(resp *http.Response, reply []byte) error {
	var p problem
	if json.Unmarshal(reply, &p) != nil || p.Kind == "" {
		return errs.New("call.Post", errs.Unavailable, c.address, "it answers "+resp.Status).WithRemedy("is this the address of a manager?")
	}
	const most = 500 // of each text: it goes into our rows and logs
	cut := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), most)], "\uFFFD") }
	kind, ok := errs.ParseKind(p.Kind)
	if !ok {
		kind = errs.Unavailable
	}
	return errs.New("call.Post", kind, cut(p.Object), cut(p.Detail)).WithRemedy(cut(p.Remedy))
}
