package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Bounds of the client.
const (
	// maxAnswer bounds an answer, bytes: an export of everything fits.
	maxAnswer = 256 << 20
	// tries is how often a request is sent, in all; firstPause is waited before the
	// second, doubled each time, unless the manager says how long.
	tries      = 4
	firstPause = 250 * time.Millisecond
	maxPause   = 30 * time.Second
	// maxLine bounds a line of a stream of events, bytes.
	maxLine = 1 << 20
)

// Options say which manager, and who asks.
type Options struct {
	// Address of the manager, as https://msa-a:8443.
	Address string
	// Token is an API token; empty: none is sent.
	Token string
	// Fingerprint is that of the manager's authority, as it prints it when it starts.
	// CA is an authority in PEM. Both empty: the system's authorities.
	Fingerprint string
	CA          []byte
	// Agent is how the program calls itself.
	Agent string
	// Tries is how often a request is sent while the manager does not answer; 0: 4.
	Tries int
}

// Client talks to one manager. It is for concurrent use.
type Client struct {
	base  *url.URL
	token string
	agent string
	tries int
	http  *http.Client
}

// Dial returns a client; it connects with the first request. Kind Invalid: the
// options.
func Dial(o Options) (*Client, error) {
	const op = "api.Dial"
	u, err := url.Parse(strings.TrimSuffix(o.Address, "/"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, errs.New(op, errs.Invalid, "the manager's address", "it is not https://HOST:PORT").WithRemedy("write it as https://msa-a:8443")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	switch {
	case o.Fingerprint != "":
		config = control.Pinned(o.Fingerprint, control.RoleManager, nil)
	case len(o.CA) > 0:
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errs.New(op, errs.Invalid, "the authority", "it holds no certificate").WithRemedy("give the certificate in PEM")
		}
	}
	c := &Client{base: u, token: o.Token, agent: o.Agent, tries: o.Tries}
	if c.tries <= 0 {
		c.tries = tries
	}
	if c.agent == "" {
		c.agent = "holdfast-go"
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig, t.ForceAttemptHTTP2 = config, true
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a token goes to nobody else
	}}
	return c, nil
}

// Close ends idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// request is what is sent.
type request struct {
	method, path string
	query        url.Values
	headers      map[string]string
	body         []byte
	kind         string // media type of body
}

// Call sends one request and decodes the answer into out, unless that is nil: for
// operations that have no method here. in becomes JSON; nil: no body. What changes
// something has an Idempotency-Key, so that it may be sent again, and is done once.
// Kinds: those of the problem; Unavailable (no answer).
func (c *Client) Call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	r := request{method: method, path: path, query: query}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return errs.E("api.Call", errs.Invalid, path, err)
		}
		r.body, r.kind = b, "application/json"
	}
	_, err := c.do(ctx, r, out)
	return err
}

// do sends a request until there is an answer, and returns the answer's headers. out
// may be *[]byte, for an answer that is not JSON.
func (c *Client) do(ctx context.Context, r request, out any) (http.Header, error) {
	key := ""
	if r.method != http.MethodGet {
		key = dr.NewUUID().String()
	}
	for try, pause := 1, firstPause; ; try, pause = try+1, min(2*pause, maxPause) {
		h, after, err := c.once(ctx, r, key, out)
		if err == nil || after < 0 || try >= c.tries {
			return h, err
		}
		// Many that wait for one manager do not come back all at once.
		wait := time.NewTimer(max(after, pause/2+rand.N(pause)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, errs.E("api.Call", errs.Canceled, c.base.Host, context.Cause(ctx))
		}
	}
}

// once sends a request. after < 0: it need not be sent again.
func (c *Client) once(ctx context.Context, r request, key string, out any) (h http.Header, after time.Duration, err error) {
	req, err := c.request(ctx, r, key)
	if err != nil {
		return nil, -1, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, afterFailure(ctx, err), c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, afterFailure(ctx, err), c.unreachable(ctx, err)
	case len(b) > maxAnswer:
		return nil, -1, errs.New("api.Call", errs.Full, r.path, "the answer is larger than any should be")
	case resp.StatusCode >= 300:
		return nil, retryAfter(resp), problemIn(resp, b)
	}
	return resp.Header, -1, decode(r.path, b, out)
}

func (c *Client) request(ctx context.Context, r request, key string) (*http.Request, error) {
	address := c.base.String() + "/api/v1" + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(r.body))
	if err != nil {
		return nil, errs.E("api.Call", errs.Invalid, r.path, err)
	}
	req.Header.Set("User-Agent", c.agent)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", r.kind)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	for name, value := range r.headers {
		req.Header.Set(name, value)
	}
	return req, nil
}

// afterFailure says whether to try again what got no answer: not when the other side
// is not who it should be, or nobody waits any more.
func afterFailure(ctx context.Context, err error) time.Duration {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	if ctx.Err() != nil || errs.Is(err, errs.Denied) || errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid) {
		return -1
	}
	return 0
}

// unreachable is the error of no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	const op = "api.Call"
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, c.base.Host, context.Cause(ctx))
	}
	if errs.Is(err, errs.Denied) {
		return errs.E(op, errs.Denied, c.base.Host, err)
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	if errors.As(err, &unknown) || errors.As(err, &name) {
		return errs.E(op, errs.Denied, c.base.Host, err).WithRemedy("give the fingerprint that the manager printed when it started")
	}
	return errs.E(op, errs.Unavailable, c.base.Host, err).WithRemedy("see whether the manager runs and is reached at this address")
}

// retryAfter says how long to wait before a refused request is sent again; < 0: it
// need not be.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable &&
		resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusGatewayTimeout {
		return -1
	}
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxPause)
}

// problemIn is the error an answer says.
func problemIn(resp *http.Response, b []byte) error {
	p := &Problem{Status: resp.StatusCode, Detail: resp.Status}
	var said Problem
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(b, &said) == nil {
		*p = said
	} else if resp.StatusCode < 400 {
		p.Detail = "what answers is no manager: " + resp.Status
	}
	e := errs.E("api", p.kindOf(), "", p)
	if p.Remedy != "" {
		e = e.WithRemedy(p.Remedy)
	}
	return e
}

func decode(path string, b []byte, out any) error {
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return errs.E("api.Call", errs.Invalid, path, fmt.Errorf("the answer is not what it should be: %w", err)).WithRemedy("use a client of the manager's release")
	}
	return nil
}

// AsProblem returns the problem an error came of, if the manager said one.
func AsProblem(err error) (*Problem, bool) {
	var p *Problem
	ok := errors.As(err, &p)
	return p, ok
}
