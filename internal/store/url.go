package store

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"holdfast/internal/errs"
)

// The schemes of the kinds of store that exist, as addresses name them.
const (
	SchemeFile  = "file"
	SchemeAzure = "azblob"
	SchemeS3    = "s3"
)

// forms shows how an address of each kind is written.
var forms = map[string]string{
	SchemeFile:  "file:///absolute/path",
	SchemeAzure: "azblob://ACCOUNT/CONTAINER[/PREFIX][?endpoint=https://host/account&ca=/file]",
	SchemeS3:    "s3://BUCKET[/PREFIX][?endpoint=https://host:port&region=REGION&path-style=true&ca=/file&insecure=true]",
}

// schemes lists them in the order in which they are told to people.
var schemes = []string{SchemeFile, SchemeAzure, SchemeS3}

// URL is a store's address, taken apart. It never holds a secret:
// credentials come from the environment or from the cloud's own identity. It
// is comparable, and the zero value is no address.
type URL struct {
	Scheme    string // SchemeFile, SchemeAzure or SchemeS3
	Path      string // file: a clean absolute path
	Account   string // azblob: the storage account
	Bucket    string // azblob: the blob container; s3: the bucket
	Prefix    string // azblob and s3: what keys lie under, without slashes at its ends; empty: the whole bucket
	Endpoint  string // azblob and s3: where the service answers, without a slash at its end; empty: the cloud's own
	Region    string // s3; empty: the driver's choice
	PathStyle bool   // s3: the bucket is named in the path and not in the host
	Insecure  bool   // s3: http, unencrypted, to hosts other than this one is wanted
	CA        string // azblob and s3: file with the certificates (PEM) to trust instead of the system's; empty: the system's
}

// String is the inverse of ParseURL.
func (u URL) String() string {
	if u.Scheme == SchemeFile || u.Scheme == "" {
		return (&url.URL{Scheme: u.Scheme, Path: u.Path}).String()
	}
	out := url.URL{Scheme: u.Scheme, Host: u.Bucket}
	if u.Scheme == SchemeAzure {
		out.Host, out.Path = u.Account, "/"+u.Bucket
	}
	if u.Prefix != "" {
		out.Path += "/" + u.Prefix
	}
	q := url.Values{}
	for name, value := range map[string]string{"endpoint": u.Endpoint, "region": u.Region, "ca": u.CA} {
		if value != "" {
			q.Set(name, value)
		}
	}
	for name, set := range map[string]bool{"path-style": u.PathStyle, "insecure": u.Insecure} {
		if set {
			q.Set(name, "true")
		}
	}
	out.RawQuery = q.Encode()
	return out.String()
}

// addressError says what is wrong with an address, without what may be a
// secret in it.
func addressError(raw, words, remedy string) error {
	shown, _, cut := strings.Cut(raw, "?")
	if cut {
		shown += "?…"
	}
	if scheme, rest, ok := strings.Cut(shown, "://"); ok {
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			shown = scheme + "://…" + rest[at:]
		}
	}
	return errs.New("store.ParseURL", errs.Invalid, fmt.Sprintf("%q", shown), words).WithRemedy(remedy)
}

// ParseURL takes a store's address apart; the forms are file:///absolute/path,
// azblob://ACCOUNT/CONTAINER/PREFIX and s3://BUCKET/PREFIX, the latter two
// with options behind a question mark (see [URL]). Kind Invalid with a remedy
// that shows the right form for anything else.
func ParseURL(raw string) (URL, error) {
	if strings.HasPrefix(raw, "/") {
		return URL{}, addressError(raw, "is a path, not a store's address", "write file://"+raw)
	}
	const write = "write the store's address as "
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return URL{}, addressError(raw, "is not a URL", write+forms[SchemeFile])
	case u.Scheme == "":
		return URL{}, addressError(raw, "names no kind of store", write+forms[SchemeFile])
	case forms[u.Scheme] == "":
		return URL{}, addressError(raw, "no such kind of store: "+u.Scheme,
			"use one of the stores that exist: "+strings.Join(schemes, ", ")+"; "+write+forms[SchemeFile])
	}
	form := write + forms[u.Scheme]
	if u.Scheme == SchemeFile {
		return parseFile(raw, u, form)
	}
	return parseCloud(raw, u, form)
}

func parseFile(raw string, u *url.URL, form string) (URL, error) {
	switch {
	case u.Opaque != "" || u.Host != "" || u.Path == "":
		return URL{}, addressError(raw, "path is not absolute", form+", with three slashes")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return URL{}, addressError(raw, "has parts a file store does not know", form+`; "?" and "#" inside it as %3F and %23`)
	case strings.ContainsRune(u.Path, 0):
		return URL{}, addressError(raw, "path holds a zero byte", form)
	}
	return URL{Scheme: u.Scheme, Path: path.Clean(u.Path)}, nil
}

func parseCloud(raw string, u *url.URL, form string) (URL, error) {
	const secrets = "; credentials are never part of it, they come from the environment or the machine's own identity"
	if u.User != nil {
		return URL{}, addressError(raw, "holds a user or a password", form+secrets)
	}
	if u.Opaque != "" || u.Fragment != "" {
		return URL{}, addressError(raw, "has parts a store does not know", form)
	}
	out := URL{Scheme: u.Scheme, Bucket: u.Host}
	rest := strings.TrimPrefix(u.Path, "/")
	if u.Scheme == SchemeAzure {
		out.Account = u.Host
		out.Bucket, rest, _ = strings.Cut(rest, "/")
		if !nameOf(out.Account, 3, 24, "") {
			return URL{}, addressError(raw, "names no storage account: 3 to 24 of a-z and 0-9", form)
		}
	}
	out.Prefix = strings.TrimSuffix(rest, "/")
	if !nameOf(out.Bucket, 3, 63, "-.") || u.Scheme == SchemeAzure && strings.Contains(out.Bucket, ".") {
		return URL{}, addressError(raw, "names no bucket or container: 3 to 63 of a-z, 0-9, - and .", form)
	}
	// The longest key under the longest prefix has the 1024 bytes that the
	// clouds allow. Capital letters are harmless in what all keys share.
	if out.Prefix != "" && (len(out.Prefix) >= MaxKey || keyFault(strings.ToLower(out.Prefix)) != "") {
		return URL{}, addressError(raw, "prefix is too long, has empty elements or ones that begin with a dot, or other bytes than letters, digits and . _ : -", form)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return URL{}, addressError(raw, "options cannot be read", form)
	}
	for name, values := range query {
		words := "is given twice"
		if len(values) == 1 {
			words = out.option(name, values[0])
		}
		if words != "" {
			return URL{}, addressError(raw, fmt.Sprintf("option %q %s", name, words), form+secrets)
		}
	}
	return out, nil
}

// option sets one option from an address; what is wrong with it otherwise.
func (u *URL) option(name, value string) string {
	known := []string{"endpoint", "ca"}
	if u.Scheme == SchemeS3 {
		known = append(known, "region", "path-style", "insecure")
	}
	switch {
	case !slices.Contains(known, name):
		return "is not one of " + strings.Join(known, ", ")
	case name == "ca":
		if !strings.HasPrefix(value, "/") || strings.ContainsRune(value, 0) {
			return "is not an absolute path"
		}
		u.CA = path.Clean(value)
	case name == "region":
		if !nameOf(value, 1, 63, "-") {
			return "is not made of a-z, 0-9 and -"
		}
		u.Region = value
	case name == "path-style" || name == "insecure":
		if value != "true" && value != "false" {
			return "is neither true nor false"
		}
		if name == "insecure" {
			u.Insecure = value == "true"
		} else {
			u.PathStyle = value == "true"
		}
	default:
		e, err := url.Parse(value)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || e.Opaque != "" {
			return "is not written as http://… or https://…"
		}
		if e.User != nil || e.RawQuery != "" || e.ForceQuery || e.Fragment != "" {
			return "has more than a host, a port and a path"
		}
		e.Path, e.RawPath = strings.TrimRight(e.Path, "/"), ""
		u.Endpoint = e.String()
	}
	return ""
}

// nameOf reports whether s is least to most of a-z, 0-9 and more.
func nameOf(s string, least, most int, more string) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte(more, c) >= 0) {
			return false
		}
	}
	return true
}

// Child is the address of the place name below u; name is one element of a path.
func (u URL) Child(name string) URL {
	if u.Scheme == SchemeFile {
		u.Path = path.Join(u.Path, name)
	} else {
		u.Prefix = path.Join(u.Prefix, name)
	}
	return u
}
