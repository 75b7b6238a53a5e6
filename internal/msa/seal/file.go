package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// key is one sealing key.
type key struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

// newKey draws one.
func newKey() key {
	id, k := make([]byte, 8), make([]byte, chacha20poly1305.KeySize)
	rand.Read(id) // never fails
	rand.Read(k)
	return key{hex.EncodeToString(id), k}
}

func (k key) valid() bool {
	_, err := hex.DecodeString(k.ID)
	return err == nil && len(k.ID) == 16 && len(k.Key) == chacha20poly1305.KeySize
}

// kdf is how a passphrase became a key.
type kdf struct {
	Salt    []byte `json:"salt"`
	Memory  uint32 `json:"memory"` // KiB
	Passes  uint32 `json:"passes"`
	Threads uint8  `json:"threads"`
}

// fileForm is the key file.
type fileForm struct {
	Version int    `json:"version"`
	Keys    []key  `json:"keys,omitempty"`
	KDF     *kdf   `json:"kdf,omitempty"`
	Sealed  []byte `json:"sealed,omitempty"`
}

const passphraseAAD = "holdfast seal file 1"

// encodeFile renders the key file; an empty passphrase leaves the keys as they are.
func encodeFile(keys []key, passphrase []byte, cost kdf) ([]byte, error) {
	f := fileForm{Version: 1, Keys: keys}
	if len(passphrase) > 0 {
		plain, err := json.Marshal(keys)
		if err != nil {
			return nil, err
		}
		cost.Salt = make([]byte, 16)
		rand.Read(cost.Salt) // never fails
		sealed, err := sealBytes(cost.key(passphrase), plain, passphraseAAD)
		if err != nil {
			return nil, err
		}
		f = fileForm{Version: 1, KDF: &cost, Sealed: sealed}
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

func (k *kdf) key(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, k.Salt, k.Passes, k.Memory, k.Threads, chacha20poly1305.KeySize)
}

// decodeFile reads the key file.
func decodeFile(path string, b, passphrase []byte) ([]key, error) {
	const op = "seal.Open"
	bad := func(kind errs.Kind, why, remedy string) ([]key, error) {
		return nil, errs.New(op, kind, path, why).WithRemedy(remedy)
	}
	const restore = "restore the file from your backup of it"
	var f fileForm
	if err := decodeStrict(b, &f); err != nil {
		return bad(errs.Corrupt, "it is no file of sealing keys", restore)
	}
	if f.Version != 1 {
		return bad(errs.Conflict, fmt.Sprintf("it has version %d, this release knows 1", f.Version), "use the release of Holdfast that wrote it")
	}
	keys := f.Keys
	switch k := f.KDF; {
	case k == nil && len(passphrase) > 0:
		return bad(errs.Invalid, "its keys are under no passphrase, and one was given", "start without the passphrase")
	case k != nil && len(passphrase) == 0:
		return bad(errs.Denied, "its keys are under a passphrase", "give the manager the passphrase")
	case k != nil:
		if len(k.Salt) < 8 || len(k.Salt) > 64 || k.Memory == 0 || k.Memory > mostMemory || k.Passes == 0 || k.Passes > mostPasses || k.Threads == 0 || k.Threads > mostThreads {
			return bad(errs.Corrupt, "the cost of its passphrase is out of bounds", restore)
		}
		plain, err := openBytes(k.key(passphrase), f.Sealed, passphraseAAD)
		if err != nil {
			return bad(errs.Denied, "the passphrase is wrong, or the file is damaged", "give the passphrase that it was made with, or restore the file")
		}
		if err := decodeStrict(plain, &keys); err != nil {
			return bad(errs.Corrupt, "what its passphrase opens is no list of keys", restore)
		}
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return bad(errs.Corrupt, fmt.Sprintf("it holds %d keys", len(keys)), restore)
	}
	seen := map[string]bool{}
	for _, k := range keys {
		if !k.valid() || seen[k.ID] {
			return bad(errs.Corrupt, "one of its keys is damaged", restore)
		}
		seen[k.ID] = true
	}
	return keys, nil
}

func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows")
	}
	return nil
}

// readFile reads the keys, from a file that only its owner may read.
func readFile(fs durable.FS, path string, passphrase []byte) ([]key, error) {
	if _, real := fs.(durable.OS); real {
		fi, err := os.Stat(path)
		if err == nil && (!fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0) {
			return nil, errs.New("seal.Open", errs.Denied, path, fmt.Sprintf("the file has mode %04o: others than its owner may use it", fi.Mode().Perm())).
				WithRemedy("chmod 600 " + path + ", rotate the keys, and change the secrets that may have been read")
		}
	}
	b, err := durable.ReadFile(fs, path, maxFile)
	if err != nil {
		return nil, errs.E("seal.Open", errs.Internal, path, err).
			WithRemedy("without the file of sealing keys no secret opens: restore it from your backup, or from another replica")
	}
	return decodeFile(path, b, passphrase)
}

func sealBytes(k, plain []byte, aad string) ([]byte, error) {
	c, err := chacha20poly1305.NewX(k)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, c.NonceSize(), c.NonceSize()+len(plain)+c.Overhead())
	rand.Read(nonce) // never fails; 192 random bits do not meet again
	return c.Seal(nonce, nonce, plain, []byte(aad)), nil
}

func openBytes(k, sealed []byte, aad string) ([]byte, error) {
	c, err := chacha20poly1305.NewX(k)
	if err != nil {
		return nil, err
	}
	if len(sealed) < c.NonceSize() {
		return nil, errors.New("too short")
	}
	return c.Open(nil, sealed[:c.NonceSize()], sealed[c.NonceSize():], []byte(aad))
}
