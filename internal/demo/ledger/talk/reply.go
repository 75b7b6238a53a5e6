package talk

import (
	"fmt"
	"strings"
)

// Word is what the guest says. The zero value is no word.
type Word string

// The words.
const (
	Verified Word = "VERIFY"
	Ready    Word = "READY"
	Commit   Word = "COMMIT"
	State    Word = "STATUS"
	Synced   Word = "SYNCED"
	Bye      Word = "BYE"
	Err      Word = "ERR"
	Fatal    Word = "FATAL"
)

// Reply is one line from guest to host.
type Reply struct {
	Word  Word
	N     uint64 // Commit: the row; Verified and State: the highest row
	Bad   uint64 // Verified: what is wrong, counted
	Cause uint64 // Verified and State: the highest cause recorded
	Text  string // Err and Fatal: why
}

// String renders the line without its end. Text is cut and made printable, so
// that every Reply is one line of at most MaxLine bytes.
func (r Reply) String() string {
	switch r.Word {
	case Verified:
		return fmt.Sprintf("VERIFY max=%d bad=%d cause=%d", r.N, r.Bad, r.Cause)
	case State:
		return fmt.Sprintf("STATUS max=%d cause=%d", r.N, r.Cause)
	case Commit:
		return fmt.Sprintf("COMMIT %d", r.N)
	case Err, Fatal:
		return string(r.Word) + " " + printable(r.Text)
	}
	return string(r.Word)
}

// printable keeps the part of s that fits a reply, as plain ASCII.
func printable(s string) string {
	if s == "" {
		return "unknown"
	}
	s = s[:min(len(s), MaxLine-len("FATAL "))]
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// ParseReply is the inverse of String; ok is false for anything that is not
// exactly a reply: noise.
func ParseReply(line string) (r Reply, ok bool) {
	word, rest, more := strings.Cut(line, " ")
	r.Word = Word(word)
	switch r.Word {
	case Ready, Synced, Bye:
		ok = !more
	case Commit:
		ok = scan(rest, "", &r.N)
	case State:
		ok = scan(rest, "max=", &r.N, "cause=", &r.Cause)
	case Verified:
		ok = scan(rest, "max=", &r.N, "bad=", &r.Bad, "cause=", &r.Cause)
	case Err, Fatal:
		r.Text, ok = rest, rest != "" && printable(rest) == rest
	}
	if !ok {
		return Reply{}, false
	}
	return r, true
}

// scan reads words of the form prefix+number, given as pairs of prefix and
// *uint64, and nothing else.
func scan(s string, pairs ...any) bool {
	w := strings.Split(s, " ")
	if len(w) != len(pairs)/2 {
		return false
	}
	for i, word := range w {
		digits, ok := strings.CutPrefix(word, pairs[2*i].(string))
		v, err := number(digits)
		if !ok || err != nil {
			return false
		}
		*pairs[2*i+1].(*uint64) = v
	}
	return true
}
