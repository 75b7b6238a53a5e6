package store

import (
	"context"
	"fmt"
	"strings"

	"holdfast/internal/errs"
)

// CheckKey returns nil for a valid key, kind Invalid otherwise. op is the
// caller's "package.Func".
func CheckKey(op, key string) error {
	if words := keyFault(key); words != "" {
		return errs.New(op, errs.Invalid, shorten(key), "key "+words)
	}
	return nil
}

// CheckCreate checks the arguments of Create.
func CheckCreate(op, key string, body []byte) error {
	if err := CheckKey(op, key); err != nil {
		return err
	}
	if len(body) > MaxObject {
		return errs.E(op, errs.Invalid, key, fmt.Errorf("object of %d bytes is larger than %d", len(body), MaxObject))
	}
	return nil
}

// CheckRead checks the arguments of ReadRange.
func CheckRead(op, key string, off int64) error {
	if err := CheckKey(op, key); err != nil {
		return err
	}
	if off < 0 {
		return errs.E(op, errs.Invalid, key, fmt.Errorf("offset %d is negative", off))
	}
	return nil
}

// CheckList checks the arguments of List.
func CheckList(op, prefix string, limit int) error {
	if limit < 1 || limit > MaxList {
		return errs.E(op, errs.Invalid, shorten(prefix), fmt.Errorf("limit %d is not within 1..%d", limit, MaxList))
	}
	if prefix == "" {
		return nil
	}
	// A prefix is one when something can be put behind it.
	whole := prefix
	if strings.HasSuffix(prefix, "/") {
		whole += "x"
	}
	if words := keyFault(whole); words != "" {
		return errs.New(op, errs.Invalid, shorten(prefix), "prefix "+words)
	}
	return nil
}

// Canceled returns nil while ctx lives and kind Canceled after.
func Canceled(ctx context.Context, op, key string) error {
	if ctx.Err() == nil {
		return nil
	}
	return errs.E(op, errs.Canceled, key, context.Cause(ctx))
}

func keyFault(key string) string {
	switch {
	case key == "":
		return "is empty"
	case len(key) > MaxKey:
		return fmt.Sprintf("has %d bytes; %d are allowed", len(key), MaxKey)
	}
	for element := range strings.SplitSeq(key, "/") {
		switch {
		case element == "":
			return "has an empty element"
		case element[0] == '.':
			return "has an element that begins with a dot"
		case len(element) > MaxElement:
			return fmt.Sprintf("has an element of %d bytes; %d are allowed", len(element), MaxElement)
		}
	}
	for i := range len(key) {
		if c := key[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._/:-", c) >= 0) {
			return fmt.Sprintf("has a byte %q; allowed are a-z, 0-9 and . _ / : -", c)
		}
	}
	return ""
}

// shorten keeps an invalid key printable in an error.
func shorten(key string) string {
	const enough = 64
	if len(key) > enough {
		return fmt.Sprintf("%q…", key[:enough])
	}
	return fmt.Sprintf("%q", key)
}
