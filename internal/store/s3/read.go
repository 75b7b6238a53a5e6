package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// ReadRange implements store.Store with one request, whose answer is of one
// version of the object and is held to be exactly the bytes asked for.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "s3.ReadRange"
	if err := store.CheckRead(op, key, off); err != nil {
		return 0, err
	}
	if len(p) == 0 || off >= maxOffset { // no range says "nothing"
		_, err := s.stat(ctx, op, key)
		return 0, err
	}
	c, done, err := s.begin(ctx, op, key, len(p))
	if err != nil {
		return 0, err
	}
	defer done()
	opts := minio.GetObjectOptions{Checksum: true}
	if err := opts.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, errs.E(op, errs.Invalid, key, err)
	}
	body, info, header, err := s.core.GetObject(c, s.bucket, s.prefix+key, opts)
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable { // it exists, and ends before off
		return 0, nil
	}
	if err != nil {
		return 0, s.fail(ctx, op, key, err)
	}
	defer body.Close()
	n, total, err := answered(header, off, int64(len(p)), info.Size)
	if err != nil {
		return 0, errs.E(op, errs.Corrupt, key, err).WithRemedy("look for a proxy between here and the store; probe the store")
	}
	if err := readBody(body, p[:n]); err != nil {
		return 0, s.fail(ctx, op, key, err)
	}
	if sum := header.Get(crcHeader); off == 0 && n == total && sum != "" && !strings.Contains(sum, "-") && sum != crcOf(p[:n]) {
		return 0, errs.New(op, errs.Corrupt, key, "content does not match the store's checksum of it")
	}
	return int(n), nil
}

// answered returns how many bytes an answer must have, and the object's size,
// from an answer's header; size is its content length. An error when it is an
// answer to another question.
func answered(header http.Header, off, want, size int64) (n, total int64, err error) {
	said := header.Get("Content-Range")
	if said == "" {
		// The whole object: right only when that is what the range means.
		if off != 0 || size < 0 || size > want {
			return 0, 0, errors.New("the store ignored the range asked for")
		}
		return size, size, nil
	}
	var first, last int64
	if _, err := fmt.Sscanf(said, "bytes %d-%d/%d", &first, &last, &total); err != nil {
		return 0, 0, fmt.Errorf("range %q of the answer cannot be read", said)
	}
	if first != off || last < first || last != min(off+want, total)-1 {
		return 0, 0, fmt.Errorf("the store answered with range %q where %d bytes at %d were asked for", said, want, off)
	}
	n = last - first + 1
	if size >= 0 && size != n {
		return 0, 0, fmt.Errorf("the store answered range %q with %d bytes", said, size)
	}
	return n, total, nil
}

// readBody fills p from an answer that must end there.
func readBody(body io.Reader, p []byte) error {
	if n, err := io.ReadFull(body, p); err != nil {
		return fmt.Errorf("answer broke off after %d bytes of %d: %w", n, len(p), err)
	}
	var more [1]byte
	switch n, err := io.ReadFull(body, more[:]); {
	case n != 0:
		return fmt.Errorf("answer has more than the %d bytes it announced", len(p))
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("answer broke off at its end: %w", err)
	}
	return nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	const op = "s3.Stat"
	if err := store.CheckKey(op, key); err != nil {
		return store.Info{}, err
	}
	return s.stat(ctx, op, key)
}

func (s *Store) stat(ctx context.Context, op, key string) (store.Info, error) {
	c, done, err := s.begin(ctx, op, key, 0)
	if err != nil {
		return store.Info{}, err
	}
	defer done()
	info, err := s.core.StatObject(c, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	if statusOf(err) == http.StatusNotFound {
		// The answer to HEAD has no body: that the bucket is gone must not
		// pass for an object that is.
		if there, berr := s.core.BucketExists(c, s.bucket); berr == nil && !there {
			err = minio.ErrorResponse{StatusCode: http.StatusNotFound, Code: minio.NoSuchBucket, Message: "no such bucket"}
		}
	}
	if err != nil {
		return store.Info{}, s.fail(ctx, op, key, err)
	}
	if info.Size < 0 {
		return store.Info{}, errs.New(op, errs.Transient, key, "the store did not say the object's size")
	}
	return store.Info{Key: key, Size: info.Size, Modified: info.LastModified.UTC()}, nil
}
