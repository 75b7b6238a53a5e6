package recovery

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// TestSourceIsSilent: a migration away from a DRVA that is gone ends soon, and says
// what to do instead of waiting for the source to come level.
func TestSourceIsSilent(t *testing.T) {
	b := &Boxes{DRVA: filepath.Join(t.TempDir(), "drva.sock"), Hosts: []string{"host.sock"}}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := b.Sync(context.Background())
		if !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
			t.Errorf("%v, remedy %q", err, errs.RemedyOf(err))
		}
		if took := time.Since(began); took < silentLimit || took > 2*silentLimit {
			t.Errorf("it took %v", took)
		}
	})
}

// started is a power that remembers what it started.
type started struct{ names []string }

func (s *started) Stop(context.Context, dr.VMID, string) error { return nil }
func (s *started) Close() error                                { return nil }
func (s *started) Start(_ context.Context, _ dr.VMID, name string) error {
	s.names = append(s.names, name)
	return nil
}

// TestStartWithoutHost: a source whose host component is dead gets its VM back.
func TestStartWithoutHost(t *testing.T) {
	var p started
	id := dr.VMID{UUID: dr.NewUUID()}
	b := &Boxes{Hosts: []string{filepath.Join(t.TempDir(), "host.sock")}, Power: &p}
	if err := b.Start(t.Context(), id); err != nil || len(p.names) != 1 || p.names[0] != id.String() {
		t.Errorf("started: %q, %v", p.names, err)
	}
}
