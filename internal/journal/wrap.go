package journal

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
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
	"holdfast/internal/kms"
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
	KMS   *kmsWrap     `json:"kms,omitempty"`      // kms

	Endorsed *endorsement `json:"endorsed,omitempty"` // of a data key made by a rotation
	MAC      []byte       `json:"mac,omitempty"`      // under the data key; absent in the oldest containers
}

type argonParams struct {
	MemoryKiB uint32 `json:"memory_kib"`
	Time      uint32 `json:"time"`
	Threads   uint8  `json:"threads"`
	Salt      []byte `json:"salt"`
	Nonce     []byte `json:"nonce"`
	Sealed    []byte `json:"sealed"` // AES-256-GCM
}

// kmsWrap is what a key service made of the data key.
type kmsWrap struct {
	URI     string `json:"uri"`     // the key's address; no credentials
	Version string `json:"version"` // of the service's key
	Wrapped []byte `json:"wrapped"`
}

const wrapFormat = 1

var errWrongKey = errors.New("the key does not open it")

// sealWrap wraps the data key of g for r, whose id is recipient.
func sealWrap(ctx context.Context, r Recipient, domain dr.DomainID, g *generation, recipient dr.UUID, now time.Time) ([]byte, error) {
	w := wrap{Format: wrapFormat, Kind: r.kind, Domain: domain, DataKey: g.id, Hint: r.hint, Created: now.UTC().Truncate(time.Second)}
	if b := g.previous; b != nil {
		w.Endorsed = &endorsement{Generation: g.number, By: b.id, MAC: endorse(b.key, domain, b.id, g.id, g.number, g.key)}
	}
	plain := make([]byte, 0, wrapPlainSize)
	plain = append(plain, domain.UUID[:]...)
	plain = append(plain, g.id[:]...)
	plain = append(plain, g.key[:]...)
	defer clear(plain)
	if err := w.seal(ctx, r, plain); err != nil {
		kind := errs.KindOf(err)
		if kind == errs.Internal {
			kind = errs.Invalid
		}
		return nil, errs.E("journal.sealWrap", kind, r.String(), err)
	}
	w.MAC = w.mac(g.key, recipient)
	return putDocument(magicWrap, &w)
}

func (w *wrap) seal(ctx context.Context, r Recipient, plain []byte) (err error) {
	switch r.kind {
	case Passphrase:
		w.Argon, err = sealPassphrase(r, plain)
	case RecoveryKey:
		w.Age, err = sealAge(r.x25519, plain)
	case KeyService:
		var k kms.Wrapped
		k, err = r.kms.Wrap(ctx, plain, w.context())
		w.KMS = &kmsWrap{URI: r.kms.URI(), Version: k.Version, Wrapped: k.Data}
	default:
		err = errors.New("unknown kind of recipient")
	}
	return err
}

// context binds what a key service wraps to the container and its data key.
func (w *wrap) context() []byte {
	return []byte("holdfast data key v1 " + w.Domain.String() + " " + w.DataKey.String())
}

// mac authenticates who a wrap is for: a rotation wraps the next data key for
// whom the wraps of the last one name, and the store must not choose them.
func (w *wrap) mac(key segment.DataKey, recipient dr.UUID) []byte {
	m := hmac.New(sha256.New, deriveKey(key, nil, infoWrapMAC))
	m.Write(w.Domain.UUID[:])
	m.Write(w.DataKey[:])
	m.Write(recipient[:])
	uri := ""
	if w.KMS != nil {
		uri = w.KMS.URI
	}
	for _, s := range []string{string(w.Kind), w.Hint, uri} {
		m.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s))))
		m.Write([]byte(s))
	}
	return m.Sum(nil)
}

// genuine reports whether somebody who had the data key made this wrap for
// whom it names.
func (w *storedWrap) genuine(key segment.DataKey) bool {
	return w.err == nil && hmac.Equal(w.wrap.MAC, w.wrap.mac(key, w.recipient))
}

// sealPassphrase seals under the recipient's salt, so that its wraps of
// several data keys cost their reader one run of argon2id.
func sealPassphrase(r Recipient, plain []byte) (*argonParams, error) {
	p := &argonParams{MemoryKiB: argonMemory, Time: argonTime, Threads: argonThreads, Salt: r.salt[:], Nonce: make([]byte, nonceSize)}
	rand.Read(p.Nonce)
	k := p.derive(r.passphrase)
	defer clear(k)
	gcm, err := newGCM(k)
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

func (p *argonParams) derive(passphrase string) []byte {
	return argon2.IDKey([]byte(passphrase), p.Salt, p.Time, p.MemoryKiB, p.Threads, 32)
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
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
	case len(w.MAC) != 0 && len(w.MAC) != macSize:
		return nil, bad(errors.New("its MAC has a wrong length"))
	case w.Endorsed != nil && (len(w.Endorsed.MAC) != macSize || w.Endorsed.Generation <= firstGeneration):
		return nil, bad(errors.New("its endorsement is malformed"))
	case w.Kind == Passphrase && w.Argon != nil:
		if err := w.Argon.validate(); err != nil {
			return nil, bad(err)
		}
	case w.Kind == RecoveryKey && w.Age != "":
	case w.Kind == KeyService && w.KMS != nil:
		if _, err := kms.ParseURI(w.KMS.URI); err != nil {
			return nil, bad(err)
		}
		if err := kms.CheckWrapped(kms.Wrapped{Version: w.KMS.Version, Data: w.KMS.Wrapped}, nil); err != nil {
			return nil, bad(err)
		}
	default:
		return nil, bad(fmt.Errorf("unknown kind of recipient %.20q", string(w.Kind)))
	}
	return &w, nil
}

// unwrapper opens wraps with one identity. It runs argon2id once for each
// salt, and not without end. It is for one goroutine.
type unwrapper struct {
	id      Identity
	derived []derivedKey
}

type derivedKey struct {
	params argonParams // without what is sealed
	key    []byte
}

// open unwraps the data key; errWrongKey when the identity is not its
// recipient.
func (u *unwrapper) open(ctx context.Context, w *storedWrap) (segment.DataKey, error) {
	plain, err := u.openPlain(ctx, w.wrap)
	if err != nil {
		return segment.DataKey{}, err
	}
	defer clear(plain)
	if len(plain) != wrapPlainSize || !bytes.Equal(plain[:16], w.wrap.Domain.UUID[:]) || !bytes.Equal(plain[16:32], w.wrap.DataKey[:]) {
		return segment.DataKey{}, errs.New("journal.Open", errs.Corrupt, "", "the wrapped key belongs to another container")
	}
	return segment.DataKey(plain[32:]), nil
}

func (u *unwrapper) openPlain(ctx context.Context, w *wrap) ([]byte, error) {
	switch {
	case w.Kind != u.id.kind:
		return nil, errWrongKey
	case w.Kind == Passphrase:
		return u.openPassphrase(w.Argon)
	case w.Kind == KeyService:
		if w.KMS.URI != u.id.kms.URI() {
			return nil, errWrongKey
		}
		return u.id.kms.Unwrap(ctx, kms.Wrapped{Version: w.KMS.Version, Data: w.KMS.Wrapped}, w.context())
	}
	return openAge(w.Age, u.id.x25519)
}

func (u *unwrapper) openPassphrase(p *argonParams) ([]byte, error) {
	key, err := u.derive(p)
	if err != nil {
		return nil, err
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, p.Nonce, p.Sealed, nil)
	if err != nil {
		return nil, errWrongKey
	}
	return plain, nil
}

func (u *unwrapper) derive(p *argonParams) ([]byte, error) {
	for _, d := range u.derived {
		q := &d.params
		if q.MemoryKiB == p.MemoryKiB && q.Time == p.Time && q.Threads == p.Threads && bytes.Equal(q.Salt, p.Salt) {
			return d.key, nil
		}
	}
	if len(u.derived) >= maxPassphraseRuns {
		return nil, errs.New("journal.Open", errs.Full, "", "too many wrapped keys of passphrases")
	}
	key := p.derive(u.id.passphrase)
	u.derived = append(u.derived, derivedKey{params: argonParams{MemoryKiB: p.MemoryKiB, Time: p.Time, Threads: p.Threads, Salt: p.Salt}, key: key})
	return key, nil
}

func openAge(text string, id *age.X25519Identity) ([]byte, error) {
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(text)), id)
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
