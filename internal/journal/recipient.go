package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"filippo.io/age"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
)

// RecipientKind says how a wrapped data key is opened.
type RecipientKind string

const (
	// Passphrase: argon2id of a passphrase.
	Passphrase RecipientKind = "passphrase"
	// RecoveryKey: the holder of an X25519 identity (age).
	RecoveryKey RecipientKind = "x25519"
	// KeyService: whoever a key service lets unwrap with its key.
	KeyService RecipientKind = "kms"
)

// minPassphrase is the shortest passphrase taken, in bytes.
const minPassphrase = 8

// maxIdentityFile bounds an identity file in bytes.
const maxIdentityFile = 64 << 10

const redacted = "redacted"

// Recipient is someone who may open a container. The zero value is none. It
// prints without its secret.
type Recipient struct {
	kind       RecipientKind
	hint       string
	x25519     *age.X25519Recipient
	passphrase string
	salt       [saltSize]byte // of the passphrase's argon2id
	kms        kms.Client
}

// Kind returns how the recipient opens the container.
func (r Recipient) Kind() RecipientKind { return r.kind }

// String tells the recipient's kind and, of a recovery key, its public part.
func (r Recipient) String() string {
	switch r.kind {
	case RecoveryKey:
		return r.x25519.String()
	case KeyService:
		return r.kms.URI()
	}
	return string(r.kind)
}

// KeyServiceRecipient lets whoever the service behind c lets open the
// container. The key's address is stored in the clear, credentials are not.
// Kind Invalid for an address that is none.
func KeyServiceRecipient(c kms.Client, hint string) (Recipient, error) {
	const op = "journal.KeyServiceRecipient"
	if _, err := kms.ParseURI(c.URI()); err != nil {
		return Recipient{}, errs.E(op, errs.Invalid, "", err)
	}
	if len(hint) > maxName {
		return Recipient{}, errs.New(op, errs.Invalid, "", "the hint is longer than 255 bytes")
	}
	return Recipient{kind: KeyService, kms: c, hint: hint}, nil
}

// Format keeps secrets out of every verb of fmt.
func (r Recipient) Format(s fmt.State, _ rune) { fmt.Fprint(s, r.String()) }

// LogValue keeps secrets out of logs.
func (r Recipient) LogValue() slog.Value { return slog.StringValue(r.String()) }

// ParseRecipient reads the public part of a recovery key, "age1…". Kind
// Invalid for anything else; a secret given by mistake is not repeated.
func ParseRecipient(s string) (Recipient, error) {
	const op = "journal.ParseRecipient"
	s = strings.TrimSpace(s)
	if strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-") {
		return Recipient{}, errs.New(op, errs.Invalid, "", "this is the secret part of a recovery key").
			WithRemedy("give the public part, which begins with age1; consider the secret part exposed if it was typed where others may read it")
	}
	x, err := age.ParseX25519Recipient(s)
	if err != nil {
		return Recipient{}, errs.New(op, errs.Invalid, "", "not the public part of a recovery key (age1…)").
			WithRemedy("copy the line that begins with age1 from the recovery key file")
	}
	return Recipient{kind: RecoveryKey, x25519: x, hint: x.String()}, nil
}

// PassphraseRecipient lets whoever knows the passphrase open the container.
// hint is stored in the clear beside it and may say where to find it; it may
// be empty. Kind Invalid when the passphrase is shorter than 8 bytes.
func PassphraseRecipient(passphrase, hint string) (Recipient, error) {
	const op = "journal.PassphraseRecipient"
	if len(passphrase) < minPassphrase {
		return Recipient{}, errs.New(op, errs.Invalid, "", "the passphrase is shorter than 8 characters").
			WithRemedy("choose a longer passphrase; several unrelated words are good")
	}
	if len(hint) > maxName {
		return Recipient{}, errs.New(op, errs.Invalid, "", "the hint is longer than 255 bytes")
	}
	if hint != "" && strings.Contains(hint, passphrase) {
		return Recipient{}, errs.New(op, errs.Invalid, "", "the hint contains the passphrase").
			WithRemedy("choose a hint that does not give the passphrase away; the hint is stored in the clear")
	}
	r := Recipient{kind: Passphrase, passphrase: passphrase, hint: hint}
	rand.Read(r.salt[:])
	return r, nil
}

// Identity opens a container: a passphrase, a recovery key's secret part, or
// access to a key service.
// The zero value opens nothing. It prints without its secret.
type Identity struct {
	kind       RecipientKind
	x25519     *age.X25519Identity
	passphrase string
	kms        kms.Client
}

// Kind returns how the identity opens a container.
func (i Identity) Kind() RecipientKind { return i.kind }

// String tells the kind and nothing else.
func (i Identity) String() string { return string(i.kind) + " (" + redacted + ")" }

// Format keeps the secret out of every verb of fmt.
func (i Identity) Format(s fmt.State, _ rune) { fmt.Fprint(s, i.String()) }

// LogValue keeps the secret out of logs.
func (i Identity) LogValue() slog.Value { return slog.StringValue(i.String()) }

// MarshalText keeps the secret out of encoders.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// KeyServiceIdentity opens what was wrapped by the service's key that c stands
// for. Wraps of other keys are not sent to it.
func KeyServiceIdentity(c kms.Client) Identity { return Identity{kind: KeyService, kms: c} }

// PassphraseIdentity opens what a passphrase was made a recipient of.
func PassphraseIdentity(passphrase string) Identity {
	return Identity{kind: Passphrase, passphrase: passphrase}
}

// ParseIdentity reads the secret part of a recovery key, alone or inside the
// text of its file: comment and empty lines are skipped, exactly one key is
// taken. Kind Invalid otherwise; the text is never repeated in the error.
func ParseIdentity(text string) (Identity, error) {
	const op = "journal.ParseIdentity"
	var found *age.X25519Identity
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		x, err := age.ParseX25519Identity(line)
		if err != nil {
			return Identity{}, errs.New(op, errs.Invalid, "", "a line is not a recovery key (AGE-SECRET-KEY-1…)").
				WithRemedy("use the file that was written when the recovery key was made")
		}
		if found != nil {
			return Identity{}, errs.New(op, errs.Invalid, "", "there is more than one recovery key").
				WithRemedy("keep each recovery key in a file of its own")
		}
		found = x
	}
	if found == nil {
		return Identity{}, errs.New(op, errs.Invalid, "", "there is no recovery key in it").
			WithRemedy("a recovery key is one line that begins with AGE-SECRET-KEY-1")
	}
	return Identity{kind: RecoveryKey, x25519: found}, nil
}

// ParseIdentityFile reads a recovery key file. Kind Denied when others than
// its owner may read or write it; NotFound, Denied or Invalid as for any file.
func ParseIdentityFile(path string) (Identity, error) {
	const op = "journal.ParseIdentityFile"
	f, err := os.Open(path)
	if err != nil {
		return Identity{}, fileError(op, path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Identity{}, fileError(op, path, err)
	}
	switch {
	case !st.Mode().IsRegular():
		return Identity{}, errs.New(op, errs.Invalid, path, "not a regular file")
	case st.Mode().Perm()&0o077 != 0:
		return Identity{}, errs.New(op, errs.Denied, path,
			fmt.Sprintf("others may use this recovery key: its mode is %04o", st.Mode().Perm())).
			WithRemedy("chmod 600 " + path)
	case st.Size() > maxIdentityFile:
		return Identity{}, errs.New(op, errs.Invalid, path, "too large to be a recovery key file")
	}
	b := make([]byte, st.Size())
	n, err := readFull(f, b)
	if err != nil {
		return Identity{}, fileError(op, path, err)
	}
	id, err := ParseIdentity(string(b[:n]))
	if err != nil {
		return Identity{}, errs.E(op, errs.Internal, path, err)
	}
	return id, nil
}

func readFull(f *os.File, b []byte) (int, error) {
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return n, err
}

func fileError(op, path string, err error) error {
	kind := errs.Unavailable
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = errs.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = errs.Denied
	}
	return errs.E(op, kind, path, err)
}

// RecoveryKeyPair is a fresh recovery key. The secret part is to be kept away
// from the site and from the store; Holdfast stores only the public part.
type RecoveryKeyPair struct{ id *age.X25519Identity }

// NewRecoveryKey makes a recovery key.
func NewRecoveryKey() (RecoveryKeyPair, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return RecoveryKeyPair{}, errs.E("journal.NewRecoveryKey", errs.Internal, "", err)
	}
	return RecoveryKeyPair{id: id}, nil
}

// Recipient is the public part, for CreateOptions.
func (k RecoveryKeyPair) Recipient() Recipient {
	x := k.id.Recipient()
	return Recipient{kind: RecoveryKey, x25519: x, hint: x.String()}
}

// Identity is the secret part, for Open.
func (k RecoveryKeyPair) Identity() Identity { return Identity{kind: RecoveryKey, x25519: k.id} }

// FileText is the recovery key file: the public part as a comment and the
// secret part. It is the one place where the secret is rendered; write it with
// mode 0600.
func (k RecoveryKeyPair) FileText() []byte {
	return []byte("# Holdfast recovery key. Whoever has this file can read the containers made for it.\n" +
		"# public key: " + k.id.Recipient().String() + "\n" + k.id.String() + "\n")
}

// String tells the public part.
func (k RecoveryKeyPair) String() string { return k.id.Recipient().String() }

// Format keeps the secret out of every verb of fmt.
func (k RecoveryKeyPair) Format(s fmt.State, _ rune) { fmt.Fprint(s, k.String()) }

// Recipient is the public part of a recovery key's secret part, as ParseRecipient reads
// it; "" of other kinds of identity.
func (i Identity) Recipient() string {
	if i.x25519 == nil {
		return ""
	}
	return i.x25519.Recipient().String()
}
