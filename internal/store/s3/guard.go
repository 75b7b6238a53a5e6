package s3

import (
	"fmt"
	"io"
	"net/http"
)

// guard bounds what an answer can make its reader hold: lists, errors and
// settings are parsed as they come. Objects are read into the caller's
// buffer, and are the only thing that a range is asked of.
type guard struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(req)
	if err == nil && resp.Body != nil && req.Header.Get("Range") == "" {
		resp.Body = &boundedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader; it fails where the answer goes on for too long.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("answer of more than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
