package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

func TestRunIsRemembered(t *testing.T) {
	spec := everything()
	spec.Keep = true
	r, dir := newRun(spec), t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := readRun(dir); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("remembered %+v, %v; want %+v", got, err, r)
	}
	if _, err := readRun(t.TempDir()); !errs.Is(err, errs.NotFound) {
		t.Errorf("a run that is not kept: %v, want kind not found", err)
	}
	for _, bad := range []string{"", "{}", `{"name":"web","keep":true}`, "null"} {
		if _, err := decodeRun([]byte(bad)); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v, want kind corrupt", bad, err)
		}
	}
}

// TestSweep removes what a run left that is over, and nothing of one that is not.
func TestSweep(t *testing.T) {
	work := t.TempDir()
	for _, name := range []string{runPrefix + "1", runPrefix + "2", "else"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	dirs, err := runDirs(work)
	if err != nil || len(dirs) != 2 {
		t.Fatalf("runs %q, %v", dirs, err)
	}
	lock, err := lockRun(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockRun(dirs[0]); !errs.Is(err, errs.Conflict) {
		t.Errorf("a run's directory is locked twice: %v", err)
	}
	if over, err := sweepRun(dirs[0]); err != nil || over {
		t.Errorf("a run that goes on is over: %v, %v", over, err)
	}
	if over, err := sweepRun(dirs[1]); err != nil || !over {
		t.Errorf("a run that is over goes on: %v, %v", over, err)
	}
	lock.Close()
	if over, err := sweepRun(dirs[0]); err != nil || !over {
		t.Errorf("the run goes on after its end: %v, %v", over, err)
	}
	if _, err := os.Stat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is there: %v", err)
	}
}

func FuzzDecodeRun(f *testing.F) {
	f.Add([]byte(`{"id":"00000000-0000-0000-0000-000000000009","name":"web","keep":true,"disks":[{"name":"system","size":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRun(b); err == nil && (r.Name == "" || r.ID.IsZero() || len(r.Disks) > hypervisor.MaxDisks) {
			t.Errorf("%q describes %+v", b, r)
		}
	})
}
