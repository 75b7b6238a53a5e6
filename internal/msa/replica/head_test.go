package replica

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/db"
)

// TestHeadIsTold: the audit log's head is logged when it is another one, and not else.
func TestHeadIsTold(t *testing.T) {
	var log bytes.Buffer
	r, err := Open(t.Context(), Options{Data: filepath.Join(t.TempDir(), "msa"), Listen: "127.0.0.1:0", Site: "a", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	told := r.tellHead(t.Context(), audit.Head{})
	if log.Len() > 0 {
		t.Errorf("an empty log has a head: %s", &log)
	}
	for range 2 {
		if err := r.DB.Tx(t.Context(), func(tx *db.Tx) error { return audit.Append(t.Context(), tx, audit.Entry{By: "x"}) }); err != nil {
			t.Fatal(err)
		}
		told = r.tellHead(t.Context(), told)
		told = r.tellHead(t.Context(), told)
	}
	if n := strings.Count(log.String(), "audit log's head"); n != 2 || !strings.Contains(log.String(), told.Hash) || told.Seq != 2 {
		t.Errorf("told %d times: %s", n, &log)
	}
}
