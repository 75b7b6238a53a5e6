package store

import (
	"context"
	"time"
)

// Info describes an object.
type Info struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // by the store's clock; for people, never for decisions
}

// Capabilities are what a driver declares about the store it is connected to;
// shown to the operator, checked at start-up.
type Capabilities struct {
	Name       string // "dir", "mem"…
	CreateOnce bool   // refused without it
	Delete     bool   // the credentials may delete
	Lock       bool   // objects can be held against deletion; see AsLocker
}

// Store is an open container or a prefix of one. Implementations are safe for
// concurrent use. Keys are relative, slash-separated, made of
// [a-z0-9._/:-], at most MaxKey bytes, without elements that are empty, begin
// with a dot or are longer than MaxElement; other keys are refused with kind
// Invalid ([CheckKey]). No key may be a directory of another: with "a/b"
// there, Create of "a" may be refused with kind Invalid, and the reverse.
//
// Errors carry an errs.Kind: NotFound, Exists, Denied, Transient (the same
// call may succeed when repeated), Unavailable (the store cannot be reached),
// Full, Corrupt, Invalid, Canceled (ctx ended). Retrying is store/retry's
// business alone.
type Store interface {
	// Create writes body under key if and only if no such key exists, and is
	// durable on return. Kind Exists when the name is taken: by someone else,
	// or by an earlier try of this very call whose answer was lost. body is
	// not kept; more than MaxObject bytes are Invalid. With kind Transient,
	// Unavailable or Canceled the object may exist or may yet appear.
	Create(ctx context.Context, key string, body []byte) error

	// ReadRange fills p from offset off and returns the number of bytes read,
	// short only at the object's end (then err is nil). off beyond the end
	// gives 0. Kind NotFound when there is no such key.
	ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error)

	// Stat describes the object.
	Stat(ctx context.Context, key string) (Info, error)

	// List returns, in ascending byte order, up to limit objects whose key
	// begins with prefix and is greater than after. Fewer than limit means
	// there are no more. limit is 1..MaxList. prefix may end inside an
	// element; both may be empty.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)

	// Delete removes the object and what it takes up; deleting a missing one
	// succeeds. Kind Denied while it is locked ([Locker]).
	Delete(ctx context.Context, key string) error

	// Capabilities describes the store.
	Capabilities() Capabilities
}
