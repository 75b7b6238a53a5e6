package cli

import (
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/retry"
)

// openStore opens the store a URL names: the one table of drivers. create
// makes the place first, where the store has places to make.
func openStore(rawURL string, create bool) (store.Store, error) {
	u, err := store.ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "file":
		if create {
			if err := durable.MkdirAll(durable.OS{}, u.Path); err != nil {
				return nil, err
			}
		}
		st, err := dir.Open(u.Path)
		if err != nil {
			return nil, err
		}
		return retry.New(st, retry.Options{}), nil
	}
	return nil, errs.New("cli.openStore", errs.Invalid, rawURL, "no driver for this kind of store")
}
