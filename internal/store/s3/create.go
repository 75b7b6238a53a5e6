package s3

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"sync"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// crcHeader carries the checksum that the store checks and keeps.
const crcHeader = "x-amz-checksum-crc32c"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crcOf is a body's checksum as the header has it.
func crcOf(body []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)))
}

// Create implements store.Store with one request.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	return s.put(ctx, "s3.Create", key, body, "", minio.PutObjectOptions{})
}

// put sends the one PUT that makes an object.
func (s *Store) put(ctx context.Context, op, key string, body []byte, md5Sum string, opts minio.PutObjectOptions) error {
	if err := store.CheckCreate(op, key, body); err != nil {
		return err
	}
	c, done, err := s.begin(ctx, op, key, len(body))
	if err != nil {
		return err
	}
	defer done()
	opts.SetMatchETagExcept("*")
	opts.DisableContentSha256 = true // of the stream, chunk by chunk: the whole body's is given below
	opts.UserMetadata = map[string]string{crcHeader: crcOf(body)}
	sum := sha256.Sum256(body)
	sent := &sendBody{body: body}
	_, err = s.core.PutObject(c, s.bucket, s.prefix+key, sent, int64(len(body)), md5Sum, hex.EncodeToString(sum[:]), opts)
	sent.release()
	if err != nil && statusOf(err) == 0 && ctx.Err() == nil && s.taken(ctx, key) {
		return errs.New(op, errs.Exists, key, "the name is taken")
	}
	switch failure := s.fail(ctx, op, key, err); {
	case saysNested(err) && !s.nested(ctx, key):
		// The directory that was in the way was being removed.
		return errs.E(op, errs.Transient, key, failure)
	default:
		return failure
	}
}

// nested reports whether key is a directory of an existing key or has one for
// its directory. A store over a file system says so too while a deletion
// beside it takes an empty directory away.
func (s *Store) nested(ctx context.Context, key string) bool {
	if below, err := s.List(ctx, key+"/", "", 1); err != nil || len(below) > 0 {
		return true // or not known: the store's word stands
	}
	for i := range key {
		if key[i] != '/' {
			continue
		}
		if _, err := s.Stat(ctx, key[:i]); !errs.Is(err, errs.NotFound) {
			return true
		}
	}
	return false
}

// taken reports whether an object is there, after a PUT without an answer. A
// store may refuse a large body before it has read it and close the
// connection, and the refusal is then lost more often than not: without this
// look every repetition would fail in the same way.
func (s *Store) taken(ctx context.Context, key string) bool {
	_, err := s.stat(ctx, "s3.Create", key)
	return err == nil
}

// md5Of is a body's MD5 as its header has it. S3 wants that header on
// requests that lock, for what MD5 is still good for: damage, not malice.
func md5Of(body []byte) string {
	sum := md5.Sum(body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

var errReleased = errors.New("the call has ended")

// sendBody reads a caller's slice until the call ends: net/http may go on
// reading a request's body after the answer, when the slice is the caller's
// again. It cannot seek, so nothing can send it twice.
type sendBody struct {
	mu   sync.Mutex
	body []byte // what is left; guarded by mu
	gone bool   // guarded by mu
}

// Read implements io.Reader.
func (b *sendBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.gone:
		return 0, errReleased
	case len(b.body) == 0:
		return 0, io.EOF
	}
	n := copy(p, b.body)
	b.body = b.body[n:]
	return n, nil
}

func (b *sendBody) release() {
	b.mu.Lock()
	b.gone, b.body = true, nil
	b.mu.Unlock()
}
