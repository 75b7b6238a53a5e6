package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
)

// What users are told to do.
const (
	bucketRemedy = "make the bucket or correct its name, endpoint and region"
	lockRemedy   = "use a bucket made with Object Lock enabled, or a policy without locks"
	keysRemedy   = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the shared credentials file), and that they belong to this store"
	rightsRemedy = "grant the credentials the rights this use needs"
	clockRemedy  = "set this machine's clock"
	caRemedy     = "name the file with the store's certificate authority as ca=/file in its address"
	probeRemedy  = "probe the store: it lacks what Holdfast needs"
)

const nestedWords = "one key would be a directory of another"

// verdict is what an answer means.
type verdict struct {
	kind   errs.Kind
	words  string // instead of the store's own; may be empty
	remedy string
}

// byCode are the answers whose code says more than their status.
var byCode = map[string]verdict{
	"PreconditionFailed":           {kind: errs.Exists, words: "the name is taken"},
	"ConditionalRequestConflict":   {kind: errs.Transient},
	"OperationAborted":             {kind: errs.Transient},
	"NoSuchKey":                    {kind: errs.NotFound, words: "no such object"},
	"NoSuchVersion":                {kind: errs.NotFound, words: "no such object"},
	"NoSuchBucket":                 {kind: errs.Unavailable, words: "no such bucket", remedy: bucketRemedy},
	"AccessDenied":                 {kind: errs.Denied, remedy: rightsRemedy},
	"AllAccessDisabled":            {kind: errs.Denied, remedy: rightsRemedy},
	"InvalidAccessKeyId":           {kind: errs.Denied, remedy: keysRemedy},
	"SignatureDoesNotMatch":        {kind: errs.Denied, remedy: keysRemedy},
	"ExpiredToken":                 {kind: errs.Denied, remedy: keysRemedy},
	"InvalidToken":                 {kind: errs.Denied, remedy: keysRemedy},
	"XAdminUserNotFound":           {kind: errs.Denied, remedy: keysRemedy},
	"RequestTimeTooSkewed":         {kind: errs.Denied, remedy: clockRemedy},
	"AuthorizationHeaderMalformed": {kind: errs.Invalid, remedy: bucketRemedy},
	"BadDigest":                    {kind: errs.Transient},
	"XAmzContentSHA256Mismatch":    {kind: errs.Transient},
	"XAmzContentChecksumMismatch":  {kind: errs.Transient},
	"InvalidDigest":                {kind: errs.Transient},
	// No code of Amazon's: requests run into each other on one connection.
	"BadRequest":                     {kind: errs.Transient},
	"IncompleteBody":                 {kind: errs.Transient},
	"RequestTimeout":                 {kind: errs.Transient},
	"SlowDown":                       {kind: errs.Transient},
	"SlowDownRead":                   {kind: errs.Transient},
	"SlowDownWrite":                  {kind: errs.Transient},
	"Throttling":                     {kind: errs.Transient},
	"InternalError":                  {kind: errs.Transient},
	"QuotaExceeded":                  {kind: errs.Full, remedy: "raise the bucket's quota or keep less"},
	"XMinioAdminBucketQuotaExceeded": {kind: errs.Full, remedy: "raise the bucket's quota or keep less"},
	"XMinioStorageFull":              {kind: errs.Full, remedy: "give the store more room or keep less"},
	"NotImplemented":                 {kind: errs.Invalid, remedy: probeRemedy},
	// A store over a file system cannot have a key that is a directory of
	// another.
	"ExistingObjectIsDirectory":     {kind: errs.Invalid, words: nestedWords},
	"ObjectParentIsFile":            {kind: errs.Invalid, words: nestedWords},
	"XMinioParentIsObject":          {kind: errs.Invalid, words: nestedWords},
	"XMinioObjectExistsAsDirectory": {kind: errs.Invalid, words: nestedWords},
}

// byStatus are the rest.
func byStatus(status int) verdict {
	switch {
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return verdict{kind: errs.Denied, remedy: rightsRemedy}
	case status == http.StatusNotFound:
		return verdict{kind: errs.NotFound}
	case status == http.StatusPreconditionFailed:
		return byCode["PreconditionFailed"]
	case status == http.StatusConflict || status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status == http.StatusInternalServerError:
		return verdict{kind: errs.Transient}
	case status == http.StatusInsufficientStorage:
		return byCode["XMinioStorageFull"]
	case status == http.StatusNotImplemented:
		return byCode["NotImplemented"]
	case status >= 500:
		return verdict{kind: errs.Unavailable}
	case status >= 300 && status < 400:
		return verdict{kind: errs.Invalid, words: "the store redirects elsewhere", remedy: bucketRemedy}
	default:
		return verdict{kind: errs.Invalid}
	}
}

// fail gives a failure its kind; nil stays nil. ctx is the caller's: when it
// has ended that is the reason, and when only ours has, the store was slow.
func (s *Store) fail(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, key, context.Cause(ctx))
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		kind, remedy := onTheWay(err)
		return errs.E(op, kind, key, err).WithRemedy(remedy)
	}
	v, ok := byCode[answer.Code]
	if !ok {
		v = byStatus(answer.StatusCode)
	}
	if answer.Region != "" && v.remedy == bucketRemedy {
		v.remedy = "add region=" + answer.Region + " to the store's address"
	}
	words := v.words
	if words == "" {
		words = fmt.Sprintf("%s (%s, %d)", strings.TrimSuffix(shorten(answer.Message), "."), shorten(answer.Code), answer.StatusCode)
	}
	return errs.New(op, v.kind, key, words).WithRemedy(v.remedy)
}

// shorten keeps a store's words from filling a log.
func shorten(words string) string {
	const enough = 200
	if len(words) > enough {
		return strings.ToValidUTF8(words[:enough], "") + "…"
	}
	return words
}

// onTheWay is the kind of a failure in which no answer arrived, or not whole.
func onTheWay(err error) (errs.Kind, string) {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		lookup    *net.DNSError
		dial      *net.OpError
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return errs.Denied, caRemedy
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return errs.Invalid, "the endpoint speaks http: correct it"
	case errors.As(err, &lookup), errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &dial) && dial.Op == "dial":
		return errs.Unavailable, "check the store's address and the way to it"
	default:
		return errs.Transient, ""
	}
}

// statusOf is the status of an answer that is a failure; 0 of anything else.
func statusOf(err error) int {
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// codeOf is its code.
func codeOf(err error) string {
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// noLock reports whether a failure says that there is no lock, on the object
// or in the bucket.
func noLock(err error) bool {
	switch codeOf(err) {
	case "NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError":
		return true
	}
	return false
}

// unknownRequest reports whether the store does not know what it was asked:
// it has no such feature.
func unknownRequest(err error) bool {
	switch statusOf(err) {
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return true
	}
	// Who ignores the question lists the bucket instead.
	return codeOf(err) == "NotImplemented" || err != nil && strings.Contains(err.Error(), "<ListBucketResult>")
}

// saysNested reports whether the store refuses a key for being a directory of
// another, or below one.
func saysNested(err error) bool {
	v, ok := byCode[codeOf(err)]
	return ok && v.words == nestedWords
}
