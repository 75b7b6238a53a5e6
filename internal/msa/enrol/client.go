package enrol

import (
	"bytes"
	"context"
	"sync"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/msa/call"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Client calls a box's manager as the box, with the newest certificate of the directory
// that Join made. For concurrent use.
type Client struct {
	dir  string
	home home

	mu   sync.Mutex
	c    *call.Client // guarded by mu
	leaf []byte       // the certificate c has
}

// Open returns a client of the manager that a box has joined. Close it. Kinds: NotFound,
// Corrupt.
func Open(dir string) (*Client, error) {
	h, err := (&Agent{Dir: dir}).home()
	if err != nil {
		return nil, err
	}
	return &Client{dir: dir, home: h}, nil
}

// Post sends in to a path of the manager's API and reads the answer into out. Kinds as
// of call.Client's.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	line, err := c.line()
	if err != nil {
		return err
	}
	return line.Post(ctx, path, in, out)
}

// line is a line that has the newest certificate.
func (c *Client) line() (*call.Client, error) {
	creds, err := control.LoadCredentials(c.dir)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if leaf := creds.Certificate().Leaf.Raw; c.c == nil || !bytes.Equal(c.leaf, leaf) {
		if c.c != nil {
			c.c.Close()
		}
		c.c, c.leaf = call.New(c.home.Manager, control.Pinned(c.home.Fingerprint, control.RoleManager, creds.Certificate())), leaf
	}
	return c.c, nil
}

// Close closes what is not in use.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		c.c.Close()
	}
}

// Counts refuses a box whose certificate, by its digest, does not count any more. Kind
// Denied.
func Counts(ctx context.Context, tx *db.Tx, name site.Name, used string) error {
	b, err := Get(ctx, tx, name)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	return b.counts("enrol.Counts", err == nil, name, used)
}
