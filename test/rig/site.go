package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
)

// DRVAStatus is what a DRVA answers on its status socket.
type DRVAStatus struct {
	drva.Status
	Address string `json:"address"` // where hosts find it
}

// Recoverable reports whether the newest published checkpoint is a group's, of
// so many disks that can all be recovered.
func (s *DRVAStatus) Recoverable(disks int) bool {
	p := s.Checkpoints.LastPublished
	if p == nil || p.Scope != dr.Group || len(p.Disks) != disks {
		return false
	}
	ok, _ := p.Recoverable()
	return ok
}

// HostConfig is a host component's configuration file.
type HostConfig struct {
	iofilter.Config
	DRVA   string `json:"drva"`
	TLS    string `json:"tls"`
	Status string `json:"status"`
}

// Site is what every protected site in a test has: a directory, an authority, a
// container's keys, boxes that run, and what went wrong beside the test's main
// line. Failures of its own end the test. Start and Note may be called by any
// goroutine, the rest by the test's.
type Site struct {
	T        testing.TB
	Dir      string
	Domain   dr.DomainID
	Identity journal.Identity // of the recovery key, which is also in recovery.key

	mu    sync.Mutex
	all   []*Process // guarded by mu
	wrong []string   // guarded by mu
}

// NewSite makes the directory, with a name that begins so: a short one, because
// paths of sockets have at most 107 bytes. The test's end ends the boxes, by
// process id, and removes every file.
func NewSite(t testing.TB, prefix string) *Site {
	t.Helper()
	dir, err := os.MkdirTemp("", prefix)
	s := &Site{T: t, Dir: dir}
	s.must(err)
	t.Cleanup(s.remove)
	return s
}

func (s *Site) must(err error) {
	s.T.Helper()
	if err != nil {
		s.T.Fatal(err)
	}
}

// Path is a file of the site.
func (s *Site) Path(name string) string { return filepath.Join(s.Dir, name) }

// CreateDomain makes the container at a URL and what a DRVA needs for it:
// drva.key and drva-tls. The recovery key is another one.
func (s *Site) CreateDomain(url string) {
	s.T.Helper()
	own, err := journal.NewRecoveryKey()
	s.must(err)
	away, err := journal.NewRecoveryKey()
	s.must(err)
	s.Identity = away.Identity()
	s.must(durable.WriteFile(durable.OS{}, s.Path("drva.key"), own.FileText()))
	s.must(durable.WriteFile(durable.OS{}, s.Path("recovery.key"), away.FileText()))
	var created struct {
		Domain dr.DomainID `json:"domain"`
	}
	s.must(Command(s.T.Context(), &created, "domain", "create", url, "--name", "test",
		"--recipient", own.Recipient().String(), "--recipient", away.Recipient().String(), "-o", "json"))
	s.Domain = created.Domain
	s.must(control.InitAuthority(s.Path("ca"), "A"))
	s.must(control.Issue(s.Path("ca"), s.Path("drva-tls"), control.RoleDRVA, s.Domain.String(), []string{"127.0.0.1"}))
}

// CreateHost makes the identity of a host: name-tls.
func (s *Site) CreateHost(name string) dr.HostID {
	s.T.Helper()
	id := dr.HostID{UUID: dr.NewUUID()}
	s.must(control.Issue(s.Path("ca"), s.Path(name+"-tls"), control.RoleHost, id.String(), nil))
	return id
}

// DRVAConfig writes a DRVA's configuration, name.json: with a log of its own, of
// so many bytes, that lies in a directory, and a status socket, name.sock. Every
// second a checkpoint is due.
func (s *Site) DRVAConfig(name, url, log string, quota int64) {
	s.T.Helper()
	s.WriteJSON(name+".json", map[string]any{
		"container": url, "key": s.Path("drva.key"), "log": log, "quota": quota,
		"listen": "127.0.0.1:0", "tls": s.Path("drva-tls"), "interval": "1s", "status": s.Path(name + ".sock"),
	})
}

// WriteJSON writes a configuration.
func (s *Site) WriteJSON(name string, v any) {
	s.T.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	s.must(err)
	s.must(os.WriteFile(s.Path(name), append(b, '\n'), 0o600))
}

// Start starts a box, which says so in name.log. An end that is not the test's
// doing is noted.
func (s *Site) Start(name string, args ...string) (*Process, error) {
	return s.keep(Start(s.Dir, name, s.ended, args...))
}

// StartOnClock is Start for a box whose wall clock can be set.
func (s *Site) StartOnClock(name string, args ...string) (*Process, error) {
	return s.keep(StartOnClock(s.Dir, name, s.ended, args...))
}

func (s *Site) ended(p *Process) { s.Note("%s ended by itself: %v\n%s", p.Name, p.Err, Tail(p.Log)) }

func (s *Site) keep(p *Process, err error) (*Process, error) {
	if err == nil {
		s.mu.Lock()
		s.all = append(s.all, p)
		s.mu.Unlock()
	}
	return p, err
}

// WaitDRVA waits until a DRVA has a place where hosts can find it, which is
// before it has reached its store, and returns that.
func (s *Site) WaitDRVA(ctx context.Context, name string, limit time.Duration) (address string, err error) {
	err = WaitStatus(ctx, s.Path(name+".sock"), name+" runs", limit, func(st *DRVAStatus) bool {
		address = st.Address
		return address != ""
	})
	return address, err
}

// WaitHost waits until a host component serves its disks.
func (s *Site) WaitHost(ctx context.Context, name string, limit time.Duration) error {
	return WaitStatus(ctx, s.Path(name+".sock"), name+" runs", limit, func(st *iofilter.Status) bool { return st.Name != "" })
}

// Note remembers what went wrong beside the test's main line.
func (s *Site) Note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, a...))
}

// Problems returns what was noted so far.
func (s *Site) Problems() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(s.wrong, "\n"))
}

// End ends every box that still runs, at once; it may be called again.
func (s *Site) End() {
	s.mu.Lock()
	all := append([]*Process(nil), s.all...)
	s.mu.Unlock()
	for _, p := range all {
		p.Kill()
	}
}

// remove leaves nothing behind, and tells what went wrong.
func (s *Site) remove() {
	s.End()
	if err := s.Problems(); err != nil {
		s.T.Error(err)
	}
	if left := ProcessesIn(s.T, s.Dir); len(left) > 0 {
		s.T.Errorf("processes left: %q", left)
	}
	if s.T.Failed() {
		logs, _ := filepath.Glob(s.Path("*.log"))
		for _, l := range logs {
			s.T.Logf("%s:\n%s", filepath.Base(l), Tail(l))
		}
		if os.Getenv("HOLDFAST_TEST_KEEP") != "" {
			s.T.Logf("kept: %s", s.Dir)
			return
		}
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		s.T.Error(err)
	}
}
