package store

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"holdfast/internal/errs"
)

// schemes are the kinds of store that exist, as URLs name them.
var schemes = []string{"file"}

// URL is a store's address, taken apart.
type URL struct {
	Scheme string // "file"
	Path   string // of "file" a clean absolute path
}

// String is the inverse of ParseURL.
func (u URL) String() string { return (&url.URL{Scheme: u.Scheme, Path: u.Path}).String() }

// ParseURL takes a store's address apart: file:///absolute/path. Kind Invalid
// with a remedy that shows the right form for anything else.
func ParseURL(raw string) (URL, error) {
	bad := func(words, remedy string) (URL, error) {
		return URL{}, errs.New("store.ParseURL", errs.Invalid, fmt.Sprintf("%q", raw), words).WithRemedy(remedy)
	}
	const form = "write the store's address as file:///absolute/path"
	if strings.HasPrefix(raw, "/") {
		return bad("is a path, not a store's address", "write file://"+raw)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return bad("is not a URL", form)
	}
	switch {
	case u.Scheme == "":
		return bad("names no kind of store", form)
	case u.Scheme != "file":
		return bad("no such kind of store: "+u.Scheme, "use one of the stores that exist: "+strings.Join(schemes, ", ")+"; "+form)
	case u.Opaque != "" || u.Host != "" || u.Path == "":
		return bad("path is not absolute", form+", with three slashes")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return bad("has parts a file store does not know", form+`; "?" and "#" inside it as %3F and %23`)
	case strings.ContainsRune(u.Path, 0):
		return bad("path holds a zero byte", form)
	}
	return URL{Scheme: u.Scheme, Path: path.Clean(u.Path)}, nil
}
