package azblob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Codes the service answers with that the SDK has no name for.
const (
	codeLegalHold bloberror.Code = "BlobImmutableDueToLegalHold"
	codeCRC       bloberror.Code = "Crc64Mismatch"
	codeKeyBased  bloberror.Code = "KeyBasedAuthenticationNotPermitted"
	codeDisabled  bloberror.Code = "AccountIsDisabled"
	codeRehydrate bloberror.Code = "BlobBeingRehydrated"
	codeQuota     bloberror.Code = "AccountQuotaExceeded"
)

const remedyCredentials = "set " + envKey + " or " + envSAS + ", or give this machine a managed identity with the role Storage Blob Data Contributor"

// answerError is what of a refusal is told: no address, which may hold a
// signature, and no body, which may repeat what was signed.
type answerError struct {
	status  int
	code    string
	request string // the service's name for it, for its support
}

func (e *answerError) Error() string {
	words := fmt.Sprintf("answered %d %s", e.status, http.StatusText(e.status))
	if e.code != "" {
		words += " (" + e.code + ")"
	}
	if e.request != "" {
		words += ", request " + e.request
	}
	return words
}

// tokenError marks a failure to get a token.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "no token: " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// NonRetriable tells the SDK not to repeat.
func (*tokenError) NonRetriable() {}

// tokens marks the failures of a credential.
type tokens struct{ inner azcore.TokenCredential }

// GetToken implements azcore.TokenCredential.
func (t tokens) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := t.inner.GetToken(ctx, o)
	if err != nil {
		return azcore.AccessToken{}, &tokenError{err}
	}
	return token, nil
}

// summary is err without addresses and bodies, bounded.
func summary(err error) error {
	var answer *azcore.ResponseError
	if errors.As(err, &answer) {
		e := &answerError{status: answer.StatusCode, code: plain(answer.ErrorCode)}
		if answer.RawResponse != nil {
			e.request = plain(answer.RawResponse.Header.Get("x-ms-request-id"))
		}
		return e
	}
	var addressed *url.Error
	if errors.As(err, &addressed) {
		err = addressed.Err // its words have the whole address
	}
	if token := (*tokenError)(nil); errors.As(err, &token) {
		return errors.New(shorten(strings.Join(strings.Fields(token.Error()), " ")))
	}
	return err
}

// plain is s if it can be shown as it is, which codes and request ids can.
func plain(s string) string {
	const enough = 64
	if len(s) > enough {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return ""
		}
	}
	return s
}

func shorten(s string) string {
	if len(s) > maxWords {
		s = s[:maxWords] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// explain gives a failure of the service, or on the way to it, its kind and
// what can be done about it.
func (s *Store) explain(ctx context.Context, op, key string, err error) error {
	if canceled := store.Canceled(ctx, op, key); canceled != nil {
		return canceled
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return errs.E(op, known.Kind, key, known.Err).WithRemedy(known.Remedy)
	}
	var answer *azcore.ResponseError
	var kind errs.Kind
	var remedy string
	if errors.As(err, &answer) {
		kind, remedy = s.judge(answer)
	} else {
		kind, remedy = s.unreached(err)
	}
	return errs.E(op, kind, key, summary(err)).WithRemedy(remedy)
}

// unreached judges failures without an answer.
func (s *Store) unreached(err error) (kind errs.Kind, remedy string) {
	var (
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		dns     *net.DNSError
		token   *tokenError
	)
	switch {
	case errors.As(err, &token):
		return judgeToken(token.err)
	case errors.As(err, &cert), errors.As(err, &unknown):
		return errs.Denied, "name the file with the certificate of the endpoint's authority in the address: ca=/file"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return errs.Denied, "the endpoint does not speak TLS; correct the endpoint in the address"
	case errors.As(err, &dns):
		return errs.Unavailable, "check the account's name, and this machine's name service"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return errs.Unavailable, "check the network from this machine to the storage account, and the endpoint in the address"
	}
	return errs.Transient, ""
}

// judgeToken tells a refused identity from one that cannot be asked now.
func judgeToken(err error) (errs.Kind, string) {
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) && failed.RawResponse != nil {
		if status := failed.RawResponse.StatusCode; passing(status) {
			return errs.Transient, ""
		}
	}
	if netErr := (net.Error)(nil); errors.As(err, &netErr) {
		return errs.Unavailable, "check the network from this machine to the identity service"
	}
	return errs.Denied, remedyCredentials
}

// passing reports whether the same request may be answered otherwise soon.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// judge gives an answer its kind, by its code where the code says more than
// the status.
func (s *Store) judge(answer *azcore.ResponseError) (errs.Kind, string) {
	switch bloberror.Code(answer.ErrorCode) {
	case bloberror.BlobNotFound:
		return errs.NotFound, ""
	case bloberror.ContainerNotFound:
		return errs.Unavailable, "make the blob container " + s.name + ", or correct the address"
	case bloberror.ContainerBeingDeleted, bloberror.ContainerDisabled:
		return errs.Unavailable, "the blob container " + s.name + " is being deleted or disabled; restore it, or correct the address"
	case bloberror.MD5Mismatch, codeCRC:
		return errs.Transient, "" // damaged on the way
	case bloberror.BlobImmutableDueToPolicy, codeLegalHold:
		return errs.Denied, "wait for the end of its retention policy or legal hold"
	case bloberror.LeaseIDMissing, bloberror.LeaseIDMismatchWithBlobOperation, bloberror.LeaseIDMismatchWithContainerOperation:
		return errs.Denied, "end the lease that somebody holds on it: az storage blob lease break"
	case bloberror.SnapshotsPresent:
		return errs.Denied, "remove its snapshots, which Holdfast does not make: az storage blob delete --delete-snapshots only"
	case bloberror.BlobArchived, codeRehydrate:
		return errs.Unavailable, "move it out of the archive tier: az storage blob set-tier --tier Hot; and exempt the container from such rules"
	case codeQuota:
		return errs.Full, "raise the storage account's quota, or shorten the history kept there"
	}
	return s.judgeStatus(answer)
}

func (s *Store) judgeStatus(answer *azcore.ResponseError) (errs.Kind, string) {
	status := answer.StatusCode
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return errs.Denied, s.remedyDenied(bloberror.Code(answer.ErrorCode))
	case passing(status):
		return errs.Transient, ""
	case status == http.StatusInsufficientStorage:
		return errs.Full, "free space in the storage account, or shorten the history kept there"
	case status == http.StatusNotFound, status < http.StatusBadRequest:
		return errs.Unavailable, "something that is not Azure Blob Storage answers; correct the endpoint in the address, or the proxy on the way"
	case status == http.StatusNotImplemented:
		return errs.Invalid, "the server has no such function: it is an emulator or an old version"
	case status > http.StatusInternalServerError:
		return errs.Transient, ""
	}
	return errs.Invalid, ""
}

// remedyDenied tells what to do about a refusal.
func (s *Store) remedyDenied(code bloberror.Code) string {
	switch code {
	case bloberror.AuthenticationFailed, bloberror.InvalidAuthenticationInfo, bloberror.NoAuthenticationInformation:
		return "check that the credentials are those of " + s.name + " and have not run out, and that this machine's clock is right"
	case codeKeyBased:
		return "the account accepts no keys: unset " + envKey + " and give this machine a managed identity with the role Storage Blob Data Contributor"
	case bloberror.AuthorizationSourceIPMismatch, bloberror.AuthorizationProtocolMismatch:
		return "the signature does not hold for this machine's address or protocol; make one that does"
	case codeDisabled:
		return "the storage account is disabled; enable it in Azure"
	}
	return "give the credentials the right to read, create, list and (for maintenance) delete blobs in " + s.name +
		", and allow this machine in the account's network rules"
}
