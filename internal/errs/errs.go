package errs

import (
	"errors"
	"strings"
)

// Kind classes a failure by what may be done about it. The zero value is
// Internal. Values cross the wire and are never renumbered.
type Kind uint8

const (
	Internal    Kind = iota // a broken assumption of ours; report it
	Invalid                 // the caller's input is wrong; do not retry
	NotFound                // the named thing does not exist
	Exists                  // the name is taken
	Conflict                // another actor won a race; reload and decide again
	Fenced                  // a newer epoch owns this history: stop for good
	Transient               // the same call may succeed when repeated
	Unavailable             // a part we depend on is not there now
	Corrupt                 // bytes are not what was written; never repaired silently
	Denied                  // credentials or keys do not allow it
	Full                    // a disk, quota or bounded queue has no room
	Canceled                // the user or the caller asked to stop
	numKinds
)

var kindNames = [numKinds]string{
	"internal", "invalid", "not found", "exists", "conflict", "fenced",
	"transient", "unavailable", "corrupt", "denied", "full", "canceled",
}

// String returns the kind's stable lower-case name.
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return "unknown"
}

// ParseKind returns the kind that has a name; false: none has.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), true
		}
	}
	return Internal, false
}

// Error is a failure with its kind. It is immutable once made.
type Error struct {
	Op     string // what was being done, as "package.Func"
	Kind   Kind
	Object string // the disk, key, file, host… it was done to; may be empty
	Remedy string // what the user can do; may be empty
	Err    error  // the cause; may be nil
}

// Error renders "op object: cause", without the remedy.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Object)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Kind.String())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// E builds an Error. When err already carries a kind and kind is Internal,
// the inner kind is kept, so that a layer may add words without hiding what
// may be done about the failure.
func E(op string, kind Kind, object string, err error) *Error {
	if kind == Internal && err != nil {
		kind = KindOf(err)
	}
	return &Error{Op: op, Kind: kind, Object: object, Err: err}
}

// New builds an Error from words alone.
func New(op string, kind Kind, object, words string) *Error {
	return &Error{Op: op, Kind: kind, Object: object, Err: errors.New(words)}
}

// WithRemedy returns a copy of e that tells the user what to do.
func (e *Error) WithRemedy(remedy string) *Error {
	c := *e
	c.Remedy = remedy
	return &c
}

// KindOf returns the kind of the outermost Error in err's chain, or Internal
// if there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err carries kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// RemedyOf returns the first remedy found from the outside in, or "".
func RemedyOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Remedy != "" {
			return e.Remedy
		}
		err = e.Err
	}
	return ""
}
