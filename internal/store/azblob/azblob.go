package azblob

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Options are what an address does not say. The zero value is right outside
// of tests.
type Options struct {
	// Getenv reads the variables that hold credentials; nil: os.Getenv.
	Getenv func(name string) string
	// Credential is used instead of everything the environment offers.
	Credential azcore.TokenCredential
	// Transport is used instead of connections of our own; the address's
	// option ca then has no effect.
	Transport http.RoundTripper
}

// Store is a container in a blob container. Safe for concurrent use, also by
// several processes.
type Store struct {
	container *container.Client
	name      string       // of the blob container, as people know it
	prefix    string       // of all keys; empty or ending in a slash
	crc       *crc64.Table // immutable
	locks     atomic.Bool  // the blob container has version-level immutability
	scans     atomic.Bool  // the server ignores startFrom
}

var _ store.Store = (*Store)(nil)

// crcPolynomial is the one Azure Storage checks bodies with.
const crcPolynomial = 0x9A6C9329AC4BC9B5

// New returns the container at an address without asking whether it is there.
// Kinds: Invalid (the address, the key's form, the certificates), Denied (no
// credentials).
func New(u store.URL, opts Options) (*Store, error) {
	const op = "azblob.New"
	if u.Scheme != store.SchemeAzure || u.Account == "" || u.Bucket == "" {
		return nil, errs.New(op, errs.Invalid, u.String(), "is no address of Azure Blob Storage")
	}
	rt := opts.Transport
	if rt == nil {
		transport, err := newTransport(u.CA)
		if err != nil {
			return nil, err
		}
		rt = transport
	}
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	endpoint := u.Endpoint
	if endpoint == "" {
		endpoint = "https://" + u.Account + ".blob.core.windows.net"
	}
	shared := azcore.ClientOptions{
		Transport: newClient(rt),
		Retry:     policy.RetryOptions{MaxRetries: -1}, // store/retry repeats
		Telemetry: policy.TelemetryOptions{ApplicationID: "holdfast"},
	}
	client, err := newContainer(endpoint, u, opts, shared)
	if err != nil {
		return nil, err
	}
	s := &Store{container: client, name: u.Account + "/" + u.Bucket, crc: crc64.MakeTable(crcPolynomial)}
	if u.Prefix != "" {
		s.prefix = u.Prefix + "/"
	}
	return s, nil
}

// Open is New followed by Check.
func Open(ctx context.Context, u store.URL, opts Options) (*Store, error) {
	s, err := New(u, opts)
	if err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Check asks whether the blob container is there and may be read, and whether
// it can lock objects, which Capabilities then declares. Kinds: NotFound (no
// such blob container), Denied, Unavailable, Transient, Canceled. Credentials
// that may list but not read the blob container's properties (a service
// signature) pass; locks are then not declared.
func (s *Store) Check(ctx context.Context) error {
	const op = "azblob.Open"
	props, err := s.container.GetProperties(ctx, nil)
	if err == nil {
		s.locks.Store(props.IsImmutableStorageWithVersioningEnabled != nil && *props.IsImmutableStorageWithVersioningEnabled)
		return nil
	}
	failure := s.explain(ctx, op, s.name, err)
	if errs.Is(failure, errs.Denied) {
		if _, err := s.List(ctx, "", "", 1); err == nil {
			return nil
		}
	}
	if bloberror.HasCode(err, bloberror.ContainerNotFound) {
		// Making it is the operator's decision: at start a wrong name is more
		// likely than an outage, and is not worth repeating.
		return errs.E(op, errs.NotFound, s.name, errors.Unwrap(failure)).WithRemedy(errs.RemedyOf(failure))
	}
	return failure
}

func (s *Store) blob(key string) *blockblob.Client {
	return s.container.NewBlockBlobClient(s.prefix + key)
}

// Create implements store.Store with one request, and one more after a refusal
// of the credentials.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	return s.create(ctx, "azblob.Create", key, body, blockblob.UploadOptions{})
}

func (s *Store) create(ctx context.Context, op, key string, body []byte, opts blockblob.UploadOptions) error {
	if err := store.CheckCreate(op, key, body); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	every := azcore.ETagAny
	opts.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &every}}
	opts.TransactionalValidation = blob.TransferValidationTypeCRC64(crc64.Checksum(body, s.crc))
	send := &sendBody{body: body}
	_, err := s.blob(key).Upload(ctx, send, &opts)
	send.release()
	if err == nil {
		return nil
	}
	if taken(err) {
		return errs.E(op, errs.Exists, key, summary(err))
	}
	failure := s.explain(ctx, op, key, err)
	if errs.Is(failure, errs.Denied) {
		// Credentials that may create but not overwrite are not always told
		// apart from ones that may do nothing.
		if _, err := s.blob(key).GetProperties(ctx, nil); err == nil {
			return errs.E(op, errs.Exists, key, errors.Unwrap(failure))
		}
	}
	return failure
}

// taken reports whether the service refused a Create because there is a blob
// of that name. It says so in several ways, depending on what it checks first:
// the condition, the right to overwrite, a lock or a lease on what is there.
func taken(err error) bool {
	return bloberror.HasCode(err, bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.UnauthorizedBlobOverwrite,
		bloberror.BlobImmutableDueToPolicy, codeLegalHold, bloberror.LeaseIDMissing)
}

// Stat implements store.Store with one request.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	const op = "azblob.Stat"
	if err := store.CheckKey(op, key); err != nil {
		return store.Info{}, err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return store.Info{}, err
	}
	props, err := s.blob(key).GetProperties(ctx, nil)
	if err != nil {
		return store.Info{}, s.explain(ctx, op, key, err)
	}
	if props.ContentLength == nil || *props.ContentLength < 0 {
		return store.Info{}, errs.New(op, errs.Transient, key, "answer does not say the size")
	}
	return store.Info{Key: key, Size: *props.ContentLength, Modified: moment(props.LastModified)}, nil
}

func moment(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// Delete implements store.Store. Denied while the blob is locked, held, leased
// or has snapshots, which Holdfast never makes.
func (s *Store) Delete(ctx context.Context, key string) error {
	const op = "azblob.Delete"
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	if s.locks.Load() {
		return s.deleteVersion(ctx, op, key)
	}
	_, err := s.blob(key).Delete(ctx, nil)
	if err == nil || bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil
	}
	return s.explain(ctx, op, key, err)
}

// DeleteBatch implements store.BatchDeleter. Containers that lock, and
// credentials or servers that do not take batches, go key by key.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	const op = "azblob.DeleteBatch"
	for _, key := range keys {
		if s.locks.Load() || store.CheckKey(op, key) != nil {
			return store.DeleteEach(ctx, s, keys)
		}
	}
	out := make([]error, len(keys))
	err := s.submit(ctx, op, keys, out)
	if errs.Is(err, errs.Invalid) || errs.Is(err, errs.Denied) || errs.Is(err, errs.NotFound) {
		return store.DeleteEach(ctx, s, keys)
	}
	for i := range out {
		if err != nil {
			out[i] = err
		}
	}
	return out
}

// submit sends a batch and notes in out what came of each key. The failure is
// of the batch as a whole.
func (s *Store) submit(ctx context.Context, op string, keys []string, out []error) error {
	if err := store.Canceled(ctx, op, keys[0]); err != nil {
		return err
	}
	batch, err := s.container.NewBatchBuilder()
	for i := 0; i < len(keys) && err == nil; i++ {
		err = batch.Delete(s.prefix+keys[i], nil)
	}
	if err != nil {
		return errs.E(op, errs.Invalid, keys[0], err)
	}
	answer, err := s.container.SubmitBatch(ctx, batch, nil)
	if err != nil {
		return s.explain(ctx, op, keys[0], err)
	}
	said := 0
	for _, item := range answer.Responses {
		if item.ContentID == nil || *item.ContentID < 0 || *item.ContentID >= len(keys) {
			return errs.New(op, errs.Transient, keys[0], "the service answers for no key of the batch")
		}
		i := *item.ContentID
		said++
		if item.Error != nil && !bloberror.HasCode(item.Error, bloberror.BlobNotFound) {
			out[i] = s.explain(ctx, op, keys[i], item.Error)
		}
	}
	if said != len(keys) {
		return errs.E(op, errs.Transient, keys[0], fmt.Errorf("the service says something of %d of %d keys", said, len(keys)))
	}
	return nil
}

// Capabilities implements store.Store. Lock is what Check found.
func (s *Store) Capabilities() store.Capabilities {
	return store.Capabilities{Name: "azblob", CreateOnce: true, Delete: true, Lock: s.locks.Load()}
}

// key is the key of a blob's name; false for blobs that are not ours.
func (s *Store) key(name string) (string, bool) {
	key, ok := strings.CutPrefix(name, s.prefix)
	return key, ok && store.CheckKey("", key) == nil
}
