package azblob

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// ReadRange implements store.Store with one request.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "azblob.ReadRange"
	if err := store.CheckRead(op, key, off); err != nil {
		return 0, err
	}
	if len(p) == 0 { // the service has no empty ranges
		_, err := s.Stat(ctx, key)
		return 0, err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return 0, err
	}
	off = min(off, maxOffset)
	resp, err := s.blob(key).DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(p))}})
	if bloberror.HasCode(err, bloberror.InvalidRange) {
		return 0, nil // begins at or behind the end
	}
	if err != nil {
		return 0, s.explain(ctx, op, key, err)
	}
	if resp.Body == nil {
		return 0, errs.New(op, errs.Transient, key, "answer has no body")
	}
	defer resp.Body.Close()
	n, err := rangeLength(resp.ContentRange, resp.ContentLength, off, len(p))
	if err != nil {
		return 0, errs.E(op, errs.Transient, key, err)
	}
	got, err := io.ReadFull(resp.Body, p[:n])
	if err == nil {
		return n, nil
	}
	return 0, s.explain(ctx, op, key, fmt.Errorf("body ends after %d bytes of %d: %w", got, n, err))
}

// rangeLength is the number of bytes that an answer to a request for want
// bytes at off holds, provided that it is the answer to that request.
func rangeLength(header *string, length *int64, off int64, want int) (int, error) {
	if header == nil {
		return 0, fmt.Errorf("answer does not say which range it is")
	}
	first, last, size, ok := parseContentRange(*header)
	if !ok {
		return 0, fmt.Errorf("range of the answer is unreadable: %s", shorten(*header))
	}
	if first != off || last != min(off+int64(want), size)-1 { // an emulator calls an empty range 10-9/10
		return 0, fmt.Errorf("answer holds bytes %d-%d of %d; asked for were %d at %d", first, last, size, want, off)
	}
	n := last - first + 1
	if length != nil && *length != n {
		return 0, fmt.Errorf("answer is %d bytes long, its range %d", *length, n)
	}
	return int(n), nil
}

// parseContentRange reads "bytes first-last/size"; false unless
// 0 <= first <= last+1 <= size.
func parseContentRange(s string) (first, last, size int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, total, ok := strings.Cut(s, "/")
	a, b, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, 0, false
	}
	for _, f := range []struct {
		text string
		to   *int64
	}{{a, &first}, {b, &last}, {total, &size}} {
		v, err := strconv.ParseInt(f.text, 10, 64)
		if err != nil || v < -1 || v > 1<<62 {
			return 0, 0, 0, false
		}
		*f.to = v
	}
	return first, last, size, 0 <= first && first <= last+1 && last < size
}
