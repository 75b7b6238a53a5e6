package hypervisor

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/errs"
)

func TestClaims(t *testing.T) {
	dir := t.TempDir()
	var one, two Claims
	for range 2 {
		if err := one.Claim(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := two.Claim(dir + "/."); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Errorf("a directory that is claimed: %v, want kind conflict and a remedy", err)
	}
	if err := two.Claim(filepath.Join(dir, "nowhere")); !errs.Is(err, errs.NotFound) {
		t.Errorf("a directory that is not there: %v", err)
	}
	one.Release()
	if err := two.Claim(dir); err != nil {
		t.Errorf("a directory that was given back: %v", err)
	}
	if err := one.Claim(dir); !errs.Is(err, errs.Canceled) {
		t.Errorf("Claim after Release: %v, want kind canceled", err)
	}
	two.Release()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("claims left %v, %v", left, err)
	}
}
