package rocva

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/setup"
)

// TestReads: a planned recovery reads the first store and no other; where nothing can be
// read it is the first one's error that is told. What opens a copy is in a file of its own.
func TestReads(t *testing.T) {
	asked := 0
	open := func(context.Context, string, map[string]string) (*journal.Container, error) {
		asked++
		return nil, errs.New("test", errs.Unavailable, "store", "nobody answers")
	}
	s := &Appliance{opts: Options{Dir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	d := &setup.Domain{Name: "erp", ID: dr.DomainID{UUID: dr.NewUUID()}, Container: "s3://first/erp", Identity: "KEY", Copies: []setup.Copy{
		{Store: "second", Container: "s3://second/erp", Credentials: "AWS_SECRET_ACCESS_KEY=word\n"}, {Store: "third", Container: "file:///third/erp"}}}
	for name, c := range map[string]struct {
		planned bool
		copies  []setup.Copy
		asked   int
	}{"planned": {true, d.Copies, 0}, "no copies": {false, nil, 0}, "all away": {false, d.Copies, 3}} {
		asked = 0
		x := *d
		x.Copies = c.copies
		if from := s.reads(t.Context(), open, &x, c.planned); from.url != d.Container || from.warn != "" || asked != c.asked || len(from.copies) != len(c.copies) {
			t.Errorf("%s: %+v after %d tries", name, from, asked)
		}
	}
	if err := s.writeAccess(d); err != nil {
		t.Fatal(err)
	}
	access := s.copyAccess(d, 0)
	b, err := os.ReadFile(access[credentialsFile])
	if err != nil || string(b) != d.Copies[0].Credentials || !strings.HasSuffix(access[keyFile], keyFile) {
		t.Errorf("%v: %q, %v", access, b, err)
	}
	if st, err := os.Stat(access[credentialsFile]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if access := s.copyAccess(d, 1); access[credentialsFile] != "" {
		t.Errorf("%v", access)
	}
}
