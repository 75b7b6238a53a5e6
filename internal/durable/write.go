package durable

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/errs"
)

// tempPrefix marks files that a crash may leave behind.
const tempPrefix = ".tmp-"

// tempTag is what the name of a temporary file of a write to path begins with,
// so that who owns that name alone may remove it. Two names of one tag are as
// unlikely as two equal random numbers of 32 bits.
func tempTag(path string) string {
	sum := sha256.Sum256([]byte(filepath.Base(path)))
	return tempPrefix + hex.EncodeToString(sum[:4]) + "-"
}

// IsTemp reports whether a file of this name is a leftover of an unfinished
// write: never content, always safe to remove once its writer is gone.
func IsTemp(name string) bool { return strings.HasPrefix(filepath.Base(name), tempPrefix) }

// CreateOnce makes path with exactly data, or fails with kind Exists and
// changes nothing if the name is taken. Of several concurrent callers, in any
// process, one wins. Durable on return, and so is the winner's name when
// Exists is returned: a caller may act on finding it. After any other error
// the name may exist (with exactly data) or not.
func CreateOnce(fs FS, path string, data []byte) error {
	if _, err := fs.Stat(path); err == nil {
		return taken(fs, path) // saves writing the content; the link below decides
	}
	temp, err := writeTemp(fs, path, data)
	if err != nil {
		return errs.E("durable.CreateOnce", errs.Internal, path, err)
	}
	err = fs.Link(temp, path)
	// Unlinked before the directory is synced, so that one sync settles both.
	rmErr := fs.Remove(temp)
	if errs.Is(err, errs.Exists) {
		return taken(fs, path)
	}
	if err == nil {
		err = errors.Join(fs.SyncDir(filepath.Dir(path)), rmErr)
	}
	if err != nil {
		return errs.E("durable.CreateOnce", errs.Internal, path, err)
	}
	return nil
}

// taken reports that path exists, once that is durable: its maker may have
// died between naming it and syncing the directory.
func taken(fs FS, path string) error {
	if err := fs.SyncDir(filepath.Dir(path)); err != nil {
		return errs.E("durable.CreateOnce", errs.Internal, path, err)
	}
	return errs.New("durable.CreateOnce", errs.Exists, path, "the name is taken")
}

// WriteFile makes path hold exactly data, replacing what was there in one
// step. Durable on return. After an error path holds its old or its new
// content.
func WriteFile(fs FS, path string, data []byte) error {
	temp, err := writeTemp(fs, path, data)
	if err != nil {
		return errs.E("durable.WriteFile", errs.Internal, path, err)
	}
	if err := fs.Rename(temp, path); err != nil {
		return errs.E("durable.WriteFile", errs.Internal, path, errors.Join(err, fs.Remove(temp)))
	}
	if err := fs.SyncDir(filepath.Dir(path)); err != nil {
		return errs.E("durable.WriteFile", errs.Internal, path, err)
	}
	return nil
}

// Prewrite makes path a file of size zero bytes whose blocks are really
// written, not only reserved: later writes in place then change no metadata.
// An existing file is replaced. Durable on return; when it fails (kind Full
// when space runs out, Canceled when ctx ends) nothing is left behind. size
// must be whole pages.
func Prewrite(ctx context.Context, fs FS, path string, size int64) error {
	if size <= 0 || size%PageSize != 0 {
		return errs.New("durable.Prewrite", errs.Invalid, path, "size is not a whole number of pages")
	}
	dir := filepath.Dir(path)
	temp, f, err := openTemp(fs, path, 0)
	if err != nil {
		return errs.E("durable.Prewrite", errs.Internal, path, err)
	}
	err = errors.Join(fillZero(ctx, f, size), f.Close())
	if err == nil {
		err = fs.Rename(temp, path)
	}
	if err != nil {
		return errs.E("durable.Prewrite", errs.Internal, path, errors.Join(err, fs.Remove(temp)))
	}
	if err := fs.SyncDir(dir); err != nil {
		return errs.E("durable.Prewrite", errs.Internal, path, err)
	}
	return nil
}

func fillZero(ctx context.Context, f File, size int64) error {
	zero := [][]byte{AlignedBytes(int(min(zeroChunk, size)))}
	for off := int64(0); off < size; off += zeroChunk {
		if ctx.Err() != nil {
			return errs.E("durable.Prewrite", errs.Canceled, "", context.Cause(ctx))
		}
		zero[0] = zero[0][:min(zeroChunk, size-off)]
		if err := f.WriteAtv(zero, off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// MkdirAll makes dir and every missing parent. Durable on return; no error if
// it exists, but then it is made durable too: its maker may have died before.
func MkdirAll(fs FS, dir string) error {
	e, err := fs.Stat(dir)
	if err == nil && e.Dir {
		err = fs.SyncDir(filepath.Dir(dir))
		if errs.Is(err, errs.Denied) {
			return nil // where we may not look we made nothing
		}
		return err
	}
	if err == nil {
		return errs.New("durable.MkdirAll", errs.Invalid, dir, "is a file, not a directory")
	}
	if !errs.Is(err, errs.NotFound) {
		return errs.E("durable.MkdirAll", errs.Internal, dir, err)
	}
	parent := filepath.Dir(dir)
	if parent == dir { // the root, or the working directory, is gone
		return errs.E("durable.MkdirAll", errs.NotFound, dir, err)
	}
	if err := MkdirAll(fs, parent); err != nil {
		return err
	}
	if err := fs.Mkdir(dir); err != nil && !errs.Is(err, errs.Exists) {
		return errs.E("durable.MkdirAll", errs.Internal, dir, err)
	}
	if err := fs.SyncDir(parent); err != nil {
		return errs.E("durable.MkdirAll", errs.Internal, dir, err)
	}
	return nil
}

// Remove removes path durably; no error if it is missing.
func Remove(fs FS, path string) error {
	if err := fs.Remove(path); err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	return fs.SyncDir(filepath.Dir(path))
}

// SweepTemps removes temporary files in dir that were last written before
// the given time. The caller knows that their writers are gone: because it
// holds the directory's lock, or because before is long ago.
func SweepTemps(fs FS, dir string, before time.Time) error {
	return sweep(fs, dir, func(e Entry) bool { return e.ModTime.Before(before) })
}

// SweepTempsOf removes what writes to path that a crash cut off left, durably,
// and no other's. The caller knows that nobody writes path. Kind NotFound when
// its directory is missing.
func SweepTempsOf(fs FS, path string) error {
	return sweep(fs, filepath.Dir(path), func(e Entry) bool { return strings.HasPrefix(e.Name, tempTag(path)) })
}

// sweep removes the temporary files of dir that old says yes to.
func sweep(fs FS, dir string, old func(Entry) bool) error {
	list, err := fs.ReadDir(dir)
	if err != nil {
		return err
	}
	removed := false
	for _, e := range list {
		if !IsTemp(e.Name) || e.Dir || !old(e) {
			continue
		}
		if err := fs.Remove(filepath.Join(dir, e.Name)); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return fs.SyncDir(dir)
}

// writeTemp writes data durably under a fresh temporary name beside path. When
// it fails the name is removed as far as the device allows.
func writeTemp(fs FS, path string, data []byte) (string, error) {
	write := writeCached
	temp, f, err := "", File(nil), ErrNoDirect
	if len(data) >= directFrom && pageAddress(data) {
		write = writeDirect
		temp, f, err = openTemp(fs, path, Direct)
	}
	if errors.Is(err, ErrNoDirect) {
		write = writeCached
		temp, f, err = openTemp(fs, path, 0)
	}
	if err != nil {
		return "", err
	}
	if err = write(f, data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, fs.Remove(temp))
	}
	return temp, nil
}

// writeCached writes data through the page cache.
func writeCached(f File, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	return f.WriteAtv([][]byte{data}, 0)
}

// writeDirect writes data, which begins on a page, past the page cache: whole
// pages from where they lie, the rest padded and then cut off.
func writeDirect(f File, data []byte) error {
	whole := len(data) &^ (PageSize - 1)
	bufs := [][]byte{data[:whole]}
	if whole < len(data) {
		page := AlignedBytes(PageSize)
		copy(page, data[whole:])
		bufs = append(bufs, page)
	}
	if err := f.WriteAtv(bufs, 0); err != nil || whole == len(data) {
		return err
	}
	return f.Truncate(int64(len(data)))
}

func openTemp(fs FS, path string, mode Mode) (string, File, error) {
	var err error
	for range tempTries {
		var random [8]byte
		rand.Read(random[:]) // never fails
		temp := filepath.Join(filepath.Dir(path), tempTag(path)+hex.EncodeToString(random[:]))
		var f File
		f, err = fs.OpenFile(temp, Write|Create|Exclusive|mode)
		if err == nil {
			return temp, f, nil
		}
		if errors.Is(err, ErrNoDirect) {
			_ = fs.Remove(temp) // some kernels make the file before they refuse
		}
		if !errs.Is(err, errs.Exists) {
			break
		}
	}
	return "", nil, err
}

// RemoveTree removes a directory and all in it, durably; no error if it is missing.
// What a crash leaves is less of it, and the same call goes on. Kinds: those of fs.
func RemoveTree(fs FS, dir string) error {
	entries, err := fs.ReadDir(dir)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name)
		if e.Dir {
			err = RemoveTree(fs, path)
		} else {
			err = fs.Remove(path)
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	if err := fs.SyncDir(dir); err != nil {
		return err
	}
	return Remove(fs, dir)
}
