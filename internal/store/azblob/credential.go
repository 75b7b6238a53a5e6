package azblob

import (
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// The variables that hold credentials, besides those of Azure's own chain.
const (
	envKey = "AZURE_STORAGE_KEY"
	envSAS = "AZURE_STORAGE_SAS_TOKEN"
)

// newContainer connects the address with the credentials there are.
func newContainer(endpoint string, u store.URL, opts Options, shared azcore.ClientOptions) (*container.Client, error) {
	const op = "azblob.New"
	where := endpoint + "/" + u.Bucket
	key, sas := strings.TrimSpace(opts.Getenv(envKey)), strings.TrimSpace(opts.Getenv(envSAS))
	if opts.Credential != nil {
		key, sas = "", ""
	}
	if key != "" {
		// Decoded here so that a bad key is in no error of somebody else.
		if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) == 0 {
			return nil, errs.New(op, errs.Invalid, u.Account, "the key in "+envKey+" is not in base64").
				WithRemedy("copy one of the two keys of storage account " + u.Account + " into " + envKey)
		}
		cred, err := container.NewSharedKeyCredential(u.Account, key)
		if err != nil {
			return nil, errs.New(op, errs.Invalid, u.Account, "the key in "+envKey+" cannot be used")
		}
		return made(container.NewClientWithSharedKeyCredential(where, cred, &container.ClientOptions{ClientOptions: shared}))
	}
	if !private(endpoint) {
		return nil, errs.New(op, errs.Invalid, endpoint, "a signature or token would be sent without encryption").
			WithRemedy("use an endpoint that begins with https://, or the account's key in " + envKey)
	}
	if sas != "" {
		sign, err := newSigner(sas)
		if err != nil {
			return nil, err
		}
		shared.PerRetryPolicies = append(shared.PerRetryPolicies, sign)
		return made(container.NewClientWithNoCredential(where, &container.ClientOptions{ClientOptions: shared}))
	}
	cred := opts.Credential
	if cred == nil {
		chain, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return nil, errs.E(op, errs.Denied, u.Account, summary(err)).WithRemedy(remedyCredentials)
		}
		cred = chain
	}
	return made(container.NewClient(where, tokens{cred}, &container.ClientOptions{
		ClientOptions: withHTTP(shared, endpoint),
	}))
}

func made(c *container.Client, err error) (*container.Client, error) {
	if err != nil {
		return nil, errs.E("azblob.New", errs.Invalid, "", summary(err))
	}
	return c, nil
}

// withHTTP lets a token go to this machine itself without TLS.
func withHTTP(shared azcore.ClientOptions, endpoint string) azcore.ClientOptions {
	shared.InsecureAllowCredentialWithHTTP = strings.HasPrefix(endpoint, "http://")
	return shared
}

// private reports whether what is sent to endpoint stays between us and it.
func private(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// signer adds a shared access signature to each request, late enough that it
// is in no client's address.
type signer struct{ query string }

func newSigner(sas string) (signer, error) {
	sas = strings.TrimPrefix(sas, "?")
	q, err := url.ParseQuery(sas)
	if err != nil || q.Get("sig") == "" {
		return signer{}, errs.New("azblob.New", errs.Invalid, "", envSAS+" holds no shared access signature").
			WithRemedy("set " + envSAS + " to the token itself, which begins like sv=… and has a part sig=…, not to a whole URL")
	}
	return signer{sas}, nil
}

// Do implements policy.Policy.
func (s signer) Do(req *policy.Request) (*http.Response, error) {
	u := req.Raw().URL
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += s.query
	return req.Next()
}
