package journal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/argon2"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// argon2id: what is written, and the most that is obeyed when read. A hostile
// file can make us use 256 MiB for some seconds, not more.
const (
	argonMemory  = 64 << 10 // KiB
	argonTime    = 3
	argonThreads = 1

	minArgonMemory  = 8 << 10   // KiB
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 16

	saltSize  = 16
	nonceSize = 12
	// wrapPlainSize: domain id, data key id, data key. The ids bind a wrapped
	// key to its container.
	wrapPlainSize = 16 + 16 + 32
)

// wrap is one wrapped data key as stored.
type wrap struct {
	Format  int           `json:"format"`
	Kind    RecipientKind `json:"kind"`
	Domain  dr.DomainID   `json:"domain"`
	DataKey dr.UUID       `json:"data_key"`
	Hint    string        `json:"hint,omitempty"` // public part of a recovery key, or the user's words
	Created time.Time     `json:"created"`

	Argon *argonParams `json:"argon2id,omitempty"` // passphrase
	Age   string       `json:"age,omitempty"`      // x25519: an armored age file
}

type argonParams struct {
	MemoryKiB uint32 `json:"memory_kib"`
	Time      uint32 `json:"time"`
	Threads   uint8  `json:"threads"`
	Salt      []byte `json:"salt"`
	Nonce     []byte `json:"nonce"`
	Sealed    []byte `json:"sealed"` // AES-256-GCM
}

const wrapFormat = 1

var errWrongKey = errors.New("the key does not open it")

func sealWrap(r Recipient, domain dr.DomainID, id dr.UUID, key segment.DataKey, now time.Time) ([]byte, error) {
	w := wrap{Format: wrapFormat, Kind: r.kind, Domain: domain, DataKey: id, Hint: r.hint, Created: now.UTC().Truncate(time.Second)}
	plain := make([]byte, 0, wrapPlainSize)
	plain = append(plain, domain.UUID[:]...)
	plain = append(plain, id[:]...)
	plain = append(plain, key[:]...)
	defer clear(plain)
	var err error
	switch r.kind {
	case Passphrase:
		w.Argon, err = sealPassphrase(r.passphrase, plain)
	case RecoveryKey:
		w.Age, err = sealAge(r.x25519, plain)
	default:
		err = errors.New("unknown kind of recipient")
	}
	if err != nil {
		return nil, errs.E("journal.Create", errs.Invalid, r.String(), err)
	}
	return putDocument(magicWrap, &w)
}

func sealPassphrase(passphrase string, plain []byte) (*argonParams, error) {
	p := &argonParams{MemoryKiB: argonMemory, Time: argonTime, Threads: argonThreads, Salt: make([]byte, saltSize), Nonce: make([]byte, nonceSize)}
	rand.Read(p.Salt)
	rand.Read(p.Nonce)
	gcm, err := p.cipher(passphrase)
	if err != nil {
		return nil, err
	}
	p.Sealed = gcm.Seal(nil, p.Nonce, plain, nil)
	return p, nil
}

func sealAge(r *age.X25519Recipient, plain []byte) (string, error) {
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, r)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(plain); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := a.Close(); err != nil {
		return "", err
	}
	return b.String(), nil
}

func (p *argonParams) validate() error {
	switch {
	case p.MemoryKiB < minArgonMemory || p.MemoryKiB > maxArgonMemory,
		p.Time < 1 || p.Time > maxArgonTime,
		p.Threads < 1 || p.Threads > maxArgonThreads:
		return fmt.Errorf("argon2id parameters (%d KiB, %d passes, %d threads) are out of bounds", p.MemoryKiB, p.Time, p.Threads)
	case len(p.Salt) != saltSize || len(p.Nonce) != nonceSize || len(p.Sealed) != wrapPlainSize+16:
		return errors.New("a field of the wrapped key has a wrong length")
	}
	return nil
}

func (p *argonParams) cipher(passphrase string) (cipher.AEAD, error) {
	k := argon2.IDKey([]byte(passphrase), p.Salt, p.Time, p.MemoryKiB, p.Threads, 32)
	defer clear(k)
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// parseWrap decodes and bounds a stored wrapped key. Kind Corrupt or Invalid.
func parseWrap(body []byte) (*wrap, error) {
	const op = "journal.parseWrap"
	var w wrap
	if err := parseDocument(magicWrap, body, &w); errors.Is(err, errNotDocument) {
		return nil, errs.New(op, errs.Corrupt, "", "this is not a wrapped key")
	} else if err != nil {
		return nil, err
	}
	bad := func(err error) error { return errs.E(op, errs.Invalid, "", err) }
	switch {
	case w.Format != wrapFormat:
		return nil, bad(fmt.Errorf("wrapped key of format %d; this release reads format %d", w.Format, wrapFormat))
	case len(w.Hint) > maxName:
		return nil, bad(errors.New("the hint is too long"))
	case w.Kind == Passphrase && w.Argon != nil:
		if err := w.Argon.validate(); err != nil {
			return nil, bad(err)
		}
	case w.Kind == RecoveryKey && w.Age != "":
	default:
		return nil, bad(fmt.Errorf("unknown kind of recipient %.20q", string(w.Kind)))
	}
	return &w, nil
}

// open unwraps the data key; errWrongKey when the identity is not its
// recipient. It is the caller's matter to compare kinds first.
func (w *wrap) open(id Identity) (segment.DataKey, error) {
	plain, err := w.openPlain(id)
	if err != nil {
		return segment.DataKey{}, err
	}
	defer clear(plain)
	if len(plain) != wrapPlainSize || !bytes.Equal(plain[:16], w.Domain.UUID[:]) || !bytes.Equal(plain[16:32], w.DataKey[:]) {
		return segment.DataKey{}, errs.New("journal.Open", errs.Corrupt, "", "the wrapped key belongs to another container")
	}
	return segment.DataKey(plain[32:]), nil
}

func (w *wrap) openPlain(id Identity) ([]byte, error) {
	switch {
	case w.Kind != id.kind:
		return nil, errWrongKey
	case w.Kind == Passphrase:
		gcm, err := w.Argon.cipher(id.passphrase)
		if err != nil {
			return nil, err
		}
		plain, err := gcm.Open(nil, w.Argon.Nonce, w.Argon.Sealed, nil)
		if err != nil {
			return nil, errWrongKey
		}
		return plain, nil
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(w.Age)), id.x25519)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, errWrongKey
	} else if err != nil {
		return nil, errs.New("journal.Open", errs.Corrupt, "", "the age file inside is damaged")
	}
	plain, err := io.ReadAll(io.LimitReader(r, wrapPlainSize+1))
	if err != nil {
		return nil, errs.New("journal.Open", errs.Corrupt, "", "the age file inside is damaged")
	}
	return plain, nil
}
