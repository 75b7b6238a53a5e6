package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/journal"
	"holdfast/internal/store/access"
)

// identityFlags are how a command is told who opens the container.
type identityFlags struct {
	key, passphrase, service string
	credentials              string // file with those of the container's store; empty: the process's

	asker  *asker            // nil: nobody is there to be asked
	loaded *journal.Identity // nothing is asked for twice
}

func (f *identityFlags) add(cmd *cobra.Command) {
	f.asker = askOn(cmd)
	cmd.Flags().StringVarP(&f.key, "key", "k", "", "file with the recovery key")
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "file whose first line is the passphrase; -: ask for it")
	cmd.Flags().StringVar(&f.credentials, "store-credentials", "", "file of mode 0600 with the store's credentials, as lines NAME=VALUE (default: the environment)")
	cmd.Flags().StringVar(&f.service, "kms", "", "address of a key service's key: vault://HOST/MOUNT/KEY or azurekv://NAME.vault.azure.net/KEY")
}

// load reads the identity the flags name. Secrets come from files, never from
// the command line, where every user of the machine could read them.
func (f *identityFlags) load() (journal.Identity, error) {
	if f.loaded != nil {
		return *f.loaded, nil
	}
	id, err := f.read()
	if err == nil {
		f.loaded = &id
	}
	return id, err
}

// given reports whether the flags name an identity.
func (f *identityFlags) given() bool { return f.key != "" || f.passphrase != "" || f.service != "" }

func (f *identityFlags) read() (journal.Identity, error) {
	given := 0
	for _, v := range []string{f.key, f.passphrase, f.service} {
		if v != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return journal.Identity{}, usageError{fmt.Errorf("give one of --key, --passphrase-file and --kms")}
	case f.service != "":
		c, err := openKeyService(f.service)
		if err != nil {
			return journal.Identity{}, err
		}
		return journal.KeyServiceIdentity(c), nil
	case f.key != "":
		return journal.ParseIdentityFile(f.key)
	case f.passphrase != "":
		p, err := f.asker.passphrase(f.passphrase, "the container's passphrase", false)
		if err != nil {
			return journal.Identity{}, err
		}
		return journal.PassphraseIdentity(p), nil
	}
	return journal.Identity{}, usageError{fmt.Errorf("the container is encrypted: give --key FILE, --passphrase-file FILE or --kms ADDRESS")}
}

// openContainer opens the container at a URL with the identity the flags name.
func openContainer(ctx context.Context, rawURL string, id *identityFlags) (*journal.Container, error) {
	identity, err := id.load()
	if err != nil {
		return nil, err
	}
	a, err := access.ReadFile(id.credentials)
	if err != nil {
		return nil, err
	}
	st, err := openStack(ctx, rawURL, stackOptions{access: a})
	if err != nil {
		return nil, err
	}
	return journal.Open(ctx, st.store, identity)
}
