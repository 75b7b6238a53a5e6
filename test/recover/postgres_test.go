//go:build recoverlong

package recover

import (
	"path/filepath"
	"testing"

	"holdfast/test/rig"
)

// TestPostgres loses a site whose guest commits to a PostgreSQL 15, recovers it, and
// goes home: every commit the server acknowledged before the checkpoint is there, and
// its chain of rows is whole. The build of its disk needs the machine's PostgreSQL.
func TestPostgres(t *testing.T) {
	out, err := filepath.Abs("../../build/guest")
	must(t, err)
	rig.Tool(t, "../../guest/build.sh", out, "postgres")
	g := newStage(t, onS3, byQEMU, filepath.Join(out, "postgres.raw"))
	g.rows(20)
	g.protected()
	g.loseAndGoHome()
	t.Logf("%d commits were acknowledged at A", g.acks.last())
}
