package recovery

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

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
