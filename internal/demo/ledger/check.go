package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"holdfast/internal/demo/ledger/chain"
	"holdfast/internal/errs"
)

// Report is what a look at a guest's disk found.
type Report struct {
	Max      uint64   // highest row in the ledger; 0: empty, or not there yet
	Bad      int      // what is wrong with file system, database or chain, counted; 0: sound
	Cause    uint64   // highest cause recorded
	Problems []string // some of Bad, in words
}

// complain counts one problem and keeps its words while there is room.
func (r *Report) complain(format string, args ...any) {
	r.Bad++
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Where the guest keeps its ledger, on its root file system.
const (
	ledgerDir  = "/ledger"
	ledgerFile = "ledger.db"
)

// CheckImage judges a guest's disk, a raw image that nobody writes, as the
// guest itself would at its next boot, without booting it and without changing
// it: the work is done on a copy of the file system in the temporary
// directory. It demands that the file system, once its journal is replayed,
// needs no repair beyond what every crash brings; that the database is sound;
// and that the chain is whole. What is wrong with the disk is in the Report;
// the error says that it could not be judged. Kinds: NotFound, Unavailable (a
// tool is missing or failed), Canceled.
func CheckImage(ctx context.Context, path string) (Report, error) {
	const op = "ledger.CheckImage"
	dir, err := os.MkdirTemp("", "holdfast-check-")
	if err != nil {
		return Report{}, errs.E(op, errs.Unavailable, path, err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is a copy, in the temporary directory
	var rep Report
	if err = rep.check(ctx, path, dir); ctx.Err() != nil {
		return Report{}, canceled(op, ctx)
	}
	if err != nil {
		return Report{}, errs.E(op, errs.Internal, path, err)
	}
	return rep, nil
}

// check does the work of CheckImage in dir.
func (r *Report) check(ctx context.Context, path, dir string) error {
	sound, err := r.extract(ctx, path, filepath.Join(dir, "root.img"))
	if !sound || err != nil {
		return err
	}
	if sound, err = r.fsck(ctx, dir); !sound || err != nil {
		return err
	}
	for _, name := range []string{ledgerFile, ledgerFile + "-wal"} {
		// A file that is not there is none: debugfs says so and ends well.
		if _, err := tool(ctx, dir, "debugfs", "-R", "dump "+ledgerDir+"/"+name+" "+name, "root.img"); err != nil {
			return err
		}
	}
	return r.verify(ctx, filepath.Join(dir, ledgerFile))
}

// extract copies the disk's first partition to part.
func (r *Report) extract(ctx context.Context, path, part string) (sound bool, err error) {
	in, err := os.Open(path)
	if err != nil {
		return false, errs.E("ledger.CheckImage", errs.NotFound, path, err)
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return false, err
	}
	var mbr [512]byte
	if _, err := in.ReadAt(mbr[:], 0); err != nil {
		r.complain("no boot sector: %v", err)
		return false, nil
	}
	first := mbr[446:462]
	start := int64(binary.LittleEndian.Uint32(first[8:])) * 512
	size := int64(binary.LittleEndian.Uint32(first[12:])) * 512
	if mbr[510] != 0x55 || mbr[511] != 0xaa || size <= 0 || size > maxPartition || start+size > fi.Size() {
		r.complain("no partition table, or one that does not fit the disk")
		return false, nil
	}
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	err = copyRange(ctx, out, in, start, start+size)
	return true, errors.Join(err, out.Close())
}

// fsck replays the journal, demands that nothing was damaged, and then that
// nothing at all is left to say. Exit codes are e2fsck's.
func (r *Report) fsck(ctx context.Context, dir string) (sound bool, err error) {
	const (
		corrected = 1  // and nothing worse
		misused   = 16 // from here on it is not the disk's fault
	)
	// -p repairs what an orderly crash leaves and gives up on anything else,
	// where -y would mend real damage and hide it.
	for _, mode := range []string{"-fp", "-fn"} {
		out, err := tool(ctx, dir, "e2fsck", mode, "root.img")
		var exit *exec.ExitError
		switch {
		case err == nil:
		case errors.As(err, &exit) && mode == "-fp" && exit.ExitCode() == corrected:
		case errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() < misused:
			r.complain("e2fsck %s: %s", mode, out)
			return false, nil
		default:
			return false, err
		}
	}
	return true, nil
}

// verify checks the ledger at path, a copy that may be written.
func (r *Report) verify(ctx context.Context, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil // the guest has not come so far yet
	}
	l, res, err := chain.Open(ctx, path)
	if err != nil {
		r.complain("%v", err)
		return nil
	}
	defer func() { _ = l.Close() }() // a copy, read to its end
	r.Max, r.Cause, r.Bad = res.Max, res.Cause, r.Bad+res.Bad
	r.Problems = append(r.Problems, res.Problems...)
	return nil
}

// tool runs a file system tool in dir and returns its last words. The error
// says whether it is missing or how it ended.
func tool(ctx context.Context, dir, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	for _, sbin := range []string{"/usr/sbin/", "/sbin/"} { // not on every user's PATH
		if err != nil {
			path, err = exec.LookPath(sbin + name)
		}
	}
	if err != nil {
		return "", errs.E("ledger.CheckImage", errs.Unavailable, name, err).
			WithRemedy("install e2fsprogs (or run 'make deps')")
	}
	var words lastWords
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		return words.String(), errs.E("ledger.CheckImage", errs.Unavailable, name, err)
	}
	return words.String(), nil
}
