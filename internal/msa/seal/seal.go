package seal

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Box seals and opens secrets.
type Box struct {
	fs         durable.FS
	path       string
	passphrase []byte
	cost       kdf

	mu   sync.Mutex
	keys []key // newest first
}

// marker is the name of the row that says which key is the one.
const marker = ""

// markerText is sealed in that row: a file that opens it is this database's.
const markerText = "holdfast"

// Create makes the key file, once. An empty passphrase leaves the keys readable to
// the file's owner. Durable on return. Kinds: Exists, Invalid (a short passphrase).
func Create(fs durable.FS, path string, passphrase []byte) error {
	return create(fs, path, passphrase, kdf{Memory: kdfMemory, Passes: kdfPasses, Threads: kdfThreads})
}

func create(fs durable.FS, path string, passphrase []byte, cost kdf) error {
	const op = "seal.Create"
	if n := len(passphrase); n > 0 && n < minPassphrase {
		return errs.New(op, errs.Invalid, path, fmt.Sprintf("the passphrase has fewer than %d characters", minPassphrase)).
			WithRemedy("use six words at random")
	}
	b, err := encodeFile([]key{newKey()}, passphrase, cost)
	if err != nil {
		return errs.E(op, errs.Internal, path, err)
	}
	return durable.CreateOnce(fs, path, b)
}

// Open reads the key file and checks that it is the database's; a database that has
// no secret yet takes it. Kinds: NotFound, Denied (the file's mode, the passphrase, a
// file of another database), Corrupt, Conflict, and those of db.Tx.
func Open(ctx context.Context, d *db.DB, fs durable.FS, path string, passphrase []byte) (*Box, error) {
	b := &Box{fs: fs, path: path, passphrase: slices.Clone(passphrase), cost: kdf{Memory: kdfMemory, Passes: kdfPasses, Threads: kdfThreads}}
	if err := b.reload(); err != nil {
		return nil, err
	}
	return b, d.Tx(ctx, func(tx *db.Tx) error {
		k := b.newest()
		text, err := k.seal(marker, []byte(markerText))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO secrets (name, key_id, sealed, version, changed_by, changed_at) VALUES ($1, $2, $3, 1, '', $4) ON CONFLICT DO NOTHING`,
			marker, k.ID, text, tx.Now()); err != nil {
			return err
		}
		return b.open(ctx, tx, marker, func([]byte) error { return nil })
	})
}

// reload reads the file again.
func (b *Box) reload() error {
	keys, err := readFile(b.fs, b.path, b.passphrase)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys = keys
	return nil
}

func (b *Box) newest() key {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keys[0]
}

// key finds a key, in the file if it is not known yet: another process may have put
// it there.
func (b *Box) key(id string) (key, error) {
	for again := range 2 {
		b.mu.Lock()
		i := slices.IndexFunc(b.keys, func(k key) bool { return k.ID == id })
		if i >= 0 {
			defer b.mu.Unlock()
			return b.keys[i], nil
		}
		b.mu.Unlock()
		if again == 0 {
			if err := b.reload(); err != nil {
				return key{}, err
			}
		}
	}
	return key{}, errs.New("seal.Use", errs.Denied, b.path, "the file has not got the key "+db.Text(id, 32)+", under which this database's secrets are sealed").
		WithRemedy("copy the file from the replica that rotated the keys, or restore the one that belongs to this database")
}

func (k key) aad(name string) string { return "holdfast seal 1\x00" + k.ID + "\x00" + name }

func (k key) seal(name string, secret []byte) (string, error) {
	sealed, err := sealBytes(k.Key, secret, k.aad(name))
	return base64.RawStdEncoding.EncodeToString(sealed), err
}

// unseal opens a row's text. Kind Corrupt for one that was changed, or is another's.
func (k key) unseal(name, text string) ([]byte, error) {
	sealed, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err == nil {
		sealed, err = openBytes(k.Key, sealed, k.aad(name))
	}
	if err != nil {
		return nil, errs.New("seal.Use", errs.Corrupt, "secret "+name, "it does not open: the row was changed, or moved from another name").
			WithRemedy("store the secret again")
	}
	return sealed, nil
}

// ValidName reports whether a secret can have a name: paths of a-z, 0-9, "-", "."
// and "_".
func ValidName(name string) bool {
	return len(name) > 0 && len(name) <= MaxName && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-._/") == "" &&
		!strings.Contains(name, "//") && name[0] != '/' && name[len(name)-1] != '/'
}

// Put stores a secret under a name, in place of what was there. Kinds: Invalid, Full,
// Denied (the key file is not the database's).
func (b *Box) Put(ctx context.Context, tx *db.Tx, name string, secret []byte, by string) error {
	const op = "seal.Put"
	if !ValidName(name) {
		return errs.New(op, errs.Invalid, db.Text(name, MaxName), "not a name of a secret").WithRemedy("use a-z, 0-9, '-', '.', '_' and '/'")
	}
	if len(secret) == 0 || len(secret) > MaxSecret {
		return errs.New(op, errs.Invalid, "secret "+name, fmt.Sprintf("a secret has 1 to %d bytes, not %d", MaxSecret, len(secret))).WithRemedy("store a shorter one")
	}
	// The row that says which key is the one is ours until the end: see Rotate.
	var id string
	if _, err := tx.Row(ctx, `UPDATE secrets SET key_id = key_id WHERE name = $1 RETURNING key_id`, []any{marker}, &id); err != nil {
		return err
	}
	var n int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM secrets`, nil, &n); err != nil {
		return err
	}
	if n > maxSecrets {
		return errs.New(op, errs.Full, "secret "+name, fmt.Sprintf("there are %d secrets", n)).WithRemedy("delete those that nothing uses")
	}
	k, err := b.key(id)
	if err != nil {
		return err
	}
	text, err := k.seal(name, secret)
	if err != nil {
		return errs.E(op, errs.Internal, "secret "+name, err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO secrets (name, key_id, sealed, version, changed_by, changed_at) VALUES ($1, $2, $3, 1, $4, $5)
		ON CONFLICT (name) DO UPDATE SET key_id = $2, sealed = $3, version = secrets.version + 1, changed_by = $4, changed_at = $5`,
		name, k.ID, text, db.Text(by, MaxName), tx.Now())
	return err
}

// Use opens a secret for f, which keeps nothing of it: the bytes are zeroed when it
// returns. Kinds: NotFound, Corrupt, Denied (no key), and those of f.
func (b *Box) Use(ctx context.Context, tx *db.Tx, name string, f func(secret []byte) error) error {
	if !ValidName(name) {
		return noSecret("seal.Use", name)
	}
	return b.open(ctx, tx, name, f)
}

func (b *Box) open(ctx context.Context, tx *db.Tx, name string, f func(secret []byte) error) error {
	var id, text string
	found, err := tx.Row(ctx, `SELECT key_id, sealed FROM secrets WHERE name = $1`, []any{name}, &id, &text)
	if err != nil {
		return err
	}
	if !found {
		return noSecret("seal.Use", name)
	}
	k, err := b.key(id)
	if err != nil {
		return err
	}
	secret, err := k.unseal(name, text)
	if err != nil {
		return err
	}
	defer clear(secret)
	return f(secret)
}

func noSecret(op, name string) error {
	return errs.New(op, errs.NotFound, "secret "+db.Text(name, MaxName), "there is no such secret").WithRemedy("store it first")
}

// Delete removes a secret. Kind NotFound.
func Delete(ctx context.Context, tx *db.Tx, name string) error {
	n, err := tx.Exec(ctx, `DELETE FROM secrets WHERE name = $1 AND name <> ''`, name)
	if err == nil && n == 0 {
		err = noSecret("seal.Delete", name)
	}
	return err
}

// Secret is what may be told of a secret.
type Secret struct {
	Name      string `json:"name"`
	Version   int64  `json:"version"` // rises with each Put
	ChangedBy string `json:"changed_by"`
	ChangedAt int64  `json:"changed_at"` // UTC milliseconds
}

// List tells which secrets there are, by name, those after a name, at most a page.
func List(ctx context.Context, tx *db.Tx, after string, limit int) (list []Secret, err error) {
	err = tx.Rows(ctx, `SELECT name, version, changed_by, changed_at FROM secrets WHERE name > $1 AND name <> '' ORDER BY name LIMIT $2`,
		[]any{after, min(max(limit, 1), page)}, func(scan func(...any) error) error {
			var s Secret
			err := scan(&s.Name, &s.Version, &s.ChangedBy, &s.ChangedAt)
			list = append(list, s)
			return err
		})
	return list, err
}
