package talk

import (
	"fmt"
	"strconv"
	"strings"

	"holdfast/internal/errs"
)

// Verb is what the host asks for. The zero value is no verb.
type Verb string

// The verbs.
const (
	Put      Verb = "PUT"
	Status   Verb = "STATUS"
	Sync     Verb = "SYNC"
	PowerOff Verb = "POWEROFF"
)

// DefaultBytes in Request.Bytes leaves the payload's size to the guest.
const DefaultBytes = -1

// Request is one line from host to guest.
type Request struct {
	Verb  Verb
	N     uint64 // Put: the row
	Cause uint64 // Put: row of the other guest that came before; 0: none
	Bytes int    // Put: payload bytes, or DefaultBytes
}

// String renders the line without its end.
func (r Request) String() string {
	switch {
	case r.Verb != Put:
		return string(r.Verb)
	case r.Bytes < 0:
		return fmt.Sprintf("PUT %d %d", r.N, r.Cause)
	}
	return fmt.Sprintf("PUT %d %d %d", r.N, r.Cause, r.Bytes)
}

// ParseRequest is the inverse of String. Errors are Invalid.
func ParseRequest(line string) (Request, error) {
	w := strings.Split(line, " ")
	switch v := Verb(w[0]); {
	case (v == Status || v == Sync || v == PowerOff) && len(w) == 1:
		return Request{Verb: v}, nil
	case v == Put && (len(w) == 3 || len(w) == 4):
		return parsePut(w[1:])
	}
	return Request{}, invalid(line)
}

// parsePut reads "n cause [bytes]".
func parsePut(w []string) (r Request, err error) {
	r = Request{Verb: Put, Bytes: DefaultBytes}
	if r.N, err = number(w[0]); err != nil {
		return Request{}, err
	}
	if r.Cause, err = number(w[1]); err != nil {
		return Request{}, err
	}
	if len(w) == 3 {
		b, err := number(w[2])
		if err != nil || b > 1<<30 {
			return Request{}, invalid(w[2])
		}
		r.Bytes = int(b)
	}
	return r, nil
}

// number reads a decimal in the one form that number printing makes.
func number(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(v, 10) != s {
		return 0, invalid(s)
	}
	return v, nil
}

func invalid(s string) error {
	return errs.New("talk.Parse", errs.Invalid, "", fmt.Sprintf("%.60q is not of the protocol", s))
}
