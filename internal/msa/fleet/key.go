package fleet

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/db"
	"holdfast/internal/store/access"
)

// keyName is the site's key among the sealed secrets.
const keyName = "site-key"

// siteKey is the key that opens the containers of the site's domains.
type siteKey struct {
	text     string // of its file
	identity journal.Identity
}

// MakeKey makes the site's key, unless there is one. Durable with the transaction.
func (f *Fleet) MakeKey(ctx context.Context, tx *db.Tx) error {
	if err := turn(ctx, tx); err != nil { // of two replicas, one makes it
		return err
	}
	err := f.Box.Use(ctx, tx, keyName, func([]byte) error { return nil })
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	key, err := journal.NewRecoveryKey()
	if err != nil {
		return err
	}
	return f.Box.Put(ctx, tx, keyName, key.FileText(), "")
}

// key opens the site's key.
func (f *Fleet) key(ctx context.Context, tx *db.Tx) (k siteKey, err error) {
	err = f.Box.Use(ctx, tx, keyName, func(secret []byte) error {
		k.text = string(secret)
		k.identity, err = journal.ParseIdentity(k.text)
		return err
	})
	return k, err
}

// Recipient is the public half of the site's key, as age1…: whoever makes a container
// for it adds that to the container's recipients.
func (f *Fleet) Recipient(ctx context.Context, tx *db.Tx) (string, error) {
	k, err := f.key(ctx, tx)
	if err != nil {
		return "", err
	}
	return k.identity.Recipient(), nil
}

// credentials opens those of a store; the zero value: it needs none.
func (f *Fleet) credentials(ctx context.Context, tx *db.Tx, name string) (a access.Access, err error) {
	if name == "" {
		return a, nil
	}
	err = f.Box.Use(ctx, tx, CredentialPrefix+name, func(secret []byte) error {
		a, err = access.Parse(string(secret))
		return err
	})
	if err != nil {
		return a, errs.E("fleet.credentials", errs.KindOf(err), "credential "+name, err)
	}
	return a, nil
}
