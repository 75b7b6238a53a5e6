package seal

import (
	"context"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Rotate seals everything under a new key and removes the old ones from the file:
// durable on return. After a crash or an error it is called again; meanwhile all
// secrets can be used. Kinds: Full (too many rotations broke off), and those of the
// file and of db.Tx.
func (b *Box) Rotate(ctx context.Context, d *db.DB) error {
	return b.rotate(ctx, d, func(string) error { return nil })
}

// rotate calls between before each step that outlives a crash.
func (b *Box) rotate(ctx context.Context, d *db.DB, between func(step string) error) error {
	lock, err := b.fs.Lock(b.path + ".lock")
	if err != nil {
		return errs.E("seal.Rotate", errs.Internal, b.path, err).WithRemedy("another process rotates the keys: wait until it is done")
	}
	defer lock.Close()
	k, err := b.add()
	if err != nil {
		return err
	}
	if err := between("row"); err != nil {
		return err
	}
	// From here nobody seals under an old key.
	if err := d.Tx(ctx, func(tx *db.Tx) error {
		text, err := k.seal(marker, []byte(markerText))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE secrets SET key_id = $2, sealed = $3, changed_at = $4, version = version + 1 WHERE name = $1`, marker, k.ID, text, tx.Now())
		return err
	}); err != nil {
		return err
	}
	for more := true; more; {
		if err := between("rows"); err != nil {
			return err
		}
		if more, err = b.reseal(ctx, d, k); err != nil {
			return err
		}
	}
	if err := between("file"); err != nil {
		return err
	}
	return b.write([]key{k})
}

// add puts a new key in front of the file's.
func (b *Box) add() (key, error) {
	if err := b.reload(); err != nil {
		return key{}, err
	}
	b.mu.Lock()
	keys := append([]key{newKey()}, b.keys...)
	b.mu.Unlock()
	if len(keys) > maxKeys {
		return key{}, errs.New("seal.Rotate", errs.Full, b.path, "too many rotations have broken off: the file is full of keys").
			WithRemedy("see in the manager's log why, and restore the file from your backup of it")
	}
	return keys[0], b.write(keys)
}

func (b *Box) write(keys []key) error {
	text, err := encodeFile(keys, b.passphrase, b.cost)
	if err != nil {
		return errs.E("seal.Rotate", errs.Internal, b.path, err)
	}
	if err := durable.WriteFile(b.fs, b.path, text); err != nil {
		return err
	}
	return b.reload()
}

// reseal seals a batch of rows under k and reports whether there may be more.
func (b *Box) reseal(ctx context.Context, d *db.DB, k key) (more bool, err error) {
	err = d.Tx(ctx, func(tx *db.Tx) error {
		var names []string
		if err := tx.Rows(ctx, `SELECT name FROM secrets WHERE key_id <> $1 AND name <> '' ORDER BY name LIMIT $2`, []any{k.ID, batch}, func(scan func(...any) error) error {
			var n string
			err := scan(&n)
			names = append(names, n)
			return err
		}); err != nil {
			return err
		}
		more = len(names) == batch
		for _, name := range names {
			if err := b.resealOne(ctx, tx, k, name); err != nil {
				return err
			}
		}
		return nil
	})
	return more, err
}

func (b *Box) resealOne(ctx context.Context, tx *db.Tx, k key, name string) error {
	// The row is taken before it is read: a Put at the same time waits, or is seen.
	if n, err := tx.Exec(ctx, `UPDATE secrets SET name = name WHERE name = $1`, name); err != nil || n == 0 {
		return err
	}
	return b.open(ctx, tx, name, func(secret []byte) error {
		text, err := k.seal(name, secret)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE secrets SET key_id = $2, sealed = $3 WHERE name = $1`, name, k.ID, text)
		return err
	})
}
