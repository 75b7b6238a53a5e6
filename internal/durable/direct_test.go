package durable

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLargeContentIsExact: large content goes past the page cache, in whole
// pages and a rest that is cut to size; content that begins off a page does not.
func TestLargeContentIsExact(t *testing.T) {
	dir := t.TempDir()
	all := AlignedBytes(directFrom + 3*PageSize)
	for i := range all {
		all[i] = byte(i * 7 >> 3)
	}
	for i, b := range [][]byte{
		all[:directFrom], all[:directFrom+1], all[:directFrom+PageSize], all[:directFrom+2*PageSize-1], all[8 : 8+directFrom], all[:directFrom-1],
	} {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := CreateOnce(OS{}, path, b); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("content %d of %d bytes reads back wrong (%d bytes, %v)", i, len(b), len(got), err)
		}
	}
}

// noDirect is a file system without direct I/O.
type noDirect struct{ OS }

func (noDirect) OpenFile(path string, mode Mode) (File, error) {
	f, err := OS{}.OpenFile(path, mode&^Direct)
	if err == nil && mode&Direct != 0 {
		f.Close()
		return nil, Wrap("durable.OpenFile", path, errors.Join(ErrNoDirect, unix.EINVAL))
	}
	return f, err
}

func TestLargeContentWithoutDirectIO(t *testing.T) {
	dir := t.TempDir()
	b := AlignedBytes(directFrom)
	b[7] = 7
	if err := CreateOnce(noDirect{}, filepath.Join(dir, "x"), b); err != nil {
		t.Fatal(err)
	}
	names, err := OS{}.ReadDir(dir)
	if err != nil || len(names) != 1 || names[0].Size != directFrom {
		t.Fatalf("left %+v, %v", names, err)
	}
}
