package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"holdfast/internal/errs"
)

// cost is what a password's hash costs to compute.
type cost struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

var fullCost = cost{hashMemory, hashPasses, hashThreads}

// hashed is a password's hash in PHC form, taken apart:
//
//	$argon2id$v=19$m=65536,t=3,p=4$<salt>$<hash>     both in base64 without padding
type hashed struct {
	cost
	salt, sum []byte
}

func (h hashed) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.threads,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.sum))
}

// parseHash reads the PHC form, within bounds of cost.
func parseHash(s string) (hashed, error) {
	bad := func(why string) (hashed, error) {
		return hashed{}, errs.New("auth.parseHash", errs.Corrupt, "password hash", why).WithRemedy("set the user's password anew")
	}
	parts := strings.Split(s, "$")
	if len(s) > 512 || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return bad("it is not of a form this release knows")
	}
	var n [3]uint64
	fields := strings.Split(parts[3], ",")
	for i, prefix := range []string{"m=", "t=", "p="} {
		if len(fields) != 3 || !strings.HasPrefix(fields[i], prefix) {
			return bad("its cost is not readable")
		}
		v, err := strconv.ParseUint(fields[i][2:], 10, 32)
		if err != nil || v == 0 {
			return bad("its cost is not readable")
		}
		n[i] = v
	}
	if n[0] > mostMemory || n[1] > mostPasses || n[2] > mostThreads {
		return bad("its cost is out of bounds")
	}
	h := hashed{cost: cost{uint32(n[0]), uint32(n[1]), uint8(n[2])}}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return bad("its salt is not readable")
	}
	if h.sum, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return bad("its sum is not readable")
	}
	return h, nil
}

// hasher computes hashes of passwords, a bounded number at once.
type hasher struct {
	cost
	slots   chan struct{}
	waiting atomic.Int64
	dummy   hashed // what the password of nobody is compared with
}

func newHasher(c cost) *hasher {
	h := &hasher{cost: c, slots: make(chan struct{}, hashAtOnce)}
	h.dummy = hashed{c, make([]byte, hashSalt), make([]byte, hashSize)}
	return h
}

func (h *hasher) sum(ctx context.Context, c cost, password string, salt []byte, size int) ([]byte, error) {
	const op = "auth.hash"
	if h.waiting.Add(1) > hashWaiting {
		h.waiting.Add(-1)
		return nil, errs.New(op, errs.Unavailable, "log-in", "too many log in at once").WithRemedy("try again in a minute")
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errs.E(op, errs.Canceled, "log-in", context.Cause(ctx))
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(password), salt, c.passes, c.memory, c.threads, uint32(size)), nil
}

// make hashes a new password.
func (h *hasher) make(ctx context.Context, password string) (string, error) {
	salt := make([]byte, hashSalt)
	rand.Read(salt) // never fails
	sum, err := h.sum(ctx, h.cost, password, salt, hashSize)
	if err != nil {
		return "", err
	}
	return hashed{h.cost, salt, sum}.String(), nil
}

// verify reports whether a password is the one a hash was made of, and whether the
// hash should be made anew because the cost has changed. An empty hash is nobody's,
// and is compared all the same, so that time does not tell who exists.
func (h *hasher) verify(ctx context.Context, password, stored string) (ok, stale bool, err error) {
	want := h.dummy
	if stored != "" {
		if want, err = parseHash(stored); err != nil {
			return false, false, err
		}
	}
	got, err := h.sum(ctx, want.cost, password, want.salt, len(want.sum))
	if err != nil {
		return false, false, err
	}
	return subtle.ConstantTimeCompare(got, want.sum) == 1 && stored != "", want.cost != h.cost, nil
}

// checkPassword refuses passwords that are guessed early. There is no rule about
// kinds of characters, and no change every so many days: both make passwords worse
// (NIST SP 800-63B).
func checkPassword(user, password string) error {
	refuse := func(why string) error {
		return errs.New("auth.checkPassword", errs.Invalid, "password", why).
			WithRemedy(fmt.Sprintf("use %d or more characters that nobody guesses: four words at random do", minPassword))
	}
	switch {
	case len(password) > maxPassword:
		return refuse(fmt.Sprintf("it has more than %d bytes", maxPassword))
	case !utf8.ValidString(password) || strings.ContainsFunc(password, unicode.IsControl):
		return refuse("it holds characters that cannot be typed")
	case utf8.RuneCountInString(password) < minPassword:
		return refuse(fmt.Sprintf("it has fewer than %d characters", minPassword))
	}
	low := strings.ToLower(password)
	distinct := map[rune]bool{}
	for _, r := range low {
		distinct[r] = true
	}
	if len(distinct) < 5 || repeats(low) {
		return refuse("it repeats itself")
	}
	for _, word := range append([]string{strings.ToLower(user)}, guessable...) {
		// What is left without the word must still be something.
		if rest := strings.ReplaceAll(low, word, ""); len(word) > 2 && rest != low && utf8.RuneCountInString(rest) < 8 {
			return refuse("it is little more than a name or a word that everybody tries")
		}
	}
	return nil
}

// repeats reports whether s is one part over and over.
func repeats(s string) bool {
	for n := 1; n <= len(s)/2; n++ {
		if strings.Repeat(s[:n], len(s)/n+1)[:len(s)] == s {
			return true
		}
	}
	return false
}

// guessable are what passwords of twelve characters and more are made of, in lists
// of those that leaked, and what is near at hand here.
var guessable = []string{
	"holdfast", "four words at random", "password", "passw0rd", "p@ssw0rd", "passwort", "123456", "1234567890", "0987654321", "qwerty", "qwertyuiop", "qwertz", "azerty", "asdfgh",
	"zxcvbn", "1q2w3e4r", "1qaz2wsx", "q1w2e3r4", "iloveyou", "letmein", "welcome", "admin", "administrator", "changeme", "secret", "abcdef", "abcdefghij",
	"football", "baseball", "dragon", "monkey", "superman", "batman", "trustno1", "sunshine", "princess", "starwars", "recovery", "disaster", "vmware",
	"computer", "internet", "default", "summer", "winter", "spring", "autumn", "2024", "2025", "2026", "2027",
}
