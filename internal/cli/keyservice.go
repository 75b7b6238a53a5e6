package cli

import (
	"os"

	"holdfast/internal/kms"
	"holdfast/internal/kms/azurekv"
	"holdfast/internal/kms/vault"
)

// openKeyService returns a client of the key at an address, with credentials
// from the environment: the one table of key services.
func openKeyService(address string) (kms.Client, error) {
	u, err := kms.ParseURI(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "azurekv" {
		o, err := azurekv.FromEnv()
		if err != nil {
			return nil, err
		}
		return azurekv.Open(u, o)
	}
	o, err := vault.FromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	return vault.Open(u, o)
}
