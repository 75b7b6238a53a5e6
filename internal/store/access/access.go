package access

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"holdfast/internal/errs"
)

const (
	// maxText bounds a text, bytes: a session token of Amazon's has up to 4 KiB.
	maxText = 16 << 10
	// maxLines bounds its lines: there are fewer names than that.
	maxLines = 64
)

// names are what a text may set. None of them is a path, or says what is asked for
// credentials.
var names = []string{
	"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
	"AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN",
}

// Access is the credentials of one store. The zero value has none: then those of the
// process count. It prints without them, never changes, and is safe to share.
type Access struct{ values map[string]string }

// Parse reads a text; one with nothing in it is the zero value. Kind Invalid, with the
// number of the line; its content is never repeated.
func Parse(text string) (Access, error) {
	bad := func(n int, words, remedy string) (Access, error) {
		return Access{}, errs.New("access.Parse", errs.Invalid, fmt.Sprintf("credentials, line %d", n), words).WithRemedy(remedy)
	}
	if len(text) > maxText {
		return bad(1, fmt.Sprintf("the text has more than %d bytes", maxText), "give the lines of one store")
	}
	a, n := Access{}, 0
	for line := range strings.Lines(text) {
		if n++; n > maxLines {
			return bad(n, "there are too many lines", "give the lines of one store")
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch _, twice := a.values[name]; {
		case !ok || !slices.Contains(names, name):
			return bad(n, "it sets no credential of a store", "write NAME=VALUE, with one of "+strings.Join(names, ", "))
		case twice:
			return bad(n, name+" is set twice", "keep one of them")
		case value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return bad(n, name+" has no value, or one with control characters", "copy it again")
		}
		if a.values == nil {
			a.values = map[string]string{}
		}
		a.values[name] = value
	}
	return a, nil
}

// ReadFile reads a file that its owner alone may read; "" is the zero value. Kinds:
// NotFound, Denied (its mode), Invalid.
func ReadFile(path string) (Access, error) {
	const op = "access.ReadFile"
	if path == "" {
		return Access{}, nil
	}
	st, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return Access{}, errs.E(op, errs.NotFound, path, err).WithRemedy("write the store's credentials there, with mode 0600")
	case err != nil:
		return Access{}, errs.E(op, errs.Denied, path, err)
	case !st.Mode().IsRegular() || st.Size() > maxText:
		return Access{}, errs.New(op, errs.Invalid, path, "it is no file of credentials")
	case st.Mode().Perm()&0o077 != 0:
		return Access{}, errs.New(op, errs.Denied, path, fmt.Sprintf("others may read these credentials: its mode is %04o", st.Mode().Perm())).
			WithRemedy("chmod 600 " + path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Access{}, errs.E(op, errs.Denied, path, err)
	}
	a, err := Parse(string(b))
	if err != nil {
		return Access{}, errs.E(op, errs.Invalid, path, err)
	}
	return a, nil
}

// IsZero reports whether there are none.
func (a Access) IsZero() bool { return len(a.values) == 0 }

// Getenv is for the drivers' options: it reads the credentials in place of the
// environment; of the zero value it is the environment.
func (a Access) Getenv(name string) string {
	if a.IsZero() {
		return os.Getenv(name)
	}
	return a.values[name]
}

// Text renders the lines, in order: what Parse reads. It is the one place where they
// are shown; write it with mode 0600.
func (a Access) Text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.values)) {
		b.WriteString(name + "=" + a.values[name] + "\n")
	}
	return b.String()
}

// String tells the names and no value.
func (a Access) String() string {
	return "credentials " + strings.Join(slices.Sorted(maps.Keys(a.values)), " ")
}

// Format keeps secrets out of every verb of fmt.
func (a Access) Format(s fmt.State, _ rune) { fmt.Fprint(s, a.String()) }

// LogValue keeps secrets out of logs.
func (a Access) LogValue() slog.Value { return slog.StringValue(a.String()) }

// MarshalText keeps secrets out of encoders.
func (a Access) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
