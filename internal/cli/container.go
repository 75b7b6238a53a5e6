package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// identityFlags are how a command is told who opens the container.
type identityFlags struct {
	key, passphrase, service string
}

// maxPassphraseFile bounds a passphrase file in bytes.
const maxPassphraseFile = 4096

func (f *identityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.key, "key", "k", "", "file with the recovery key")
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "file whose first line is the passphrase")
	cmd.Flags().StringVar(&f.service, "kms", "", "address of a key service's key: vault://HOST/MOUNT/KEY or azurekv://NAME.vault.azure.net/KEY")
}

// load reads the identity the flags name. Secrets come from files, never from
// the command line, where every user of the machine could read them.
func (f *identityFlags) load() (journal.Identity, error) {
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
		p, err := readPassphrase(f.passphrase)
		if err != nil {
			return journal.Identity{}, err
		}
		return journal.PassphraseIdentity(p), nil
	}
	return journal.Identity{}, usageError{fmt.Errorf("the container is encrypted: give --key FILE, --passphrase-file FILE or --kms ADDRESS")}
}

func readPassphrase(path string) (string, error) {
	const op = "cli.readPassphrase"
	st, err := os.Stat(path)
	if err != nil {
		return "", errs.E(op, errs.NotFound, path, err)
	}
	if st.Size() > maxPassphraseFile {
		return "", errs.New(op, errs.Invalid, path, "a passphrase file holds one line of at most 4096 bytes")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", errs.E(op, errs.Denied, path, err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errs.New(op, errs.Invalid, path, "the first line, which is the passphrase, is empty")
	}
	return line, nil
}

// openContainer opens the container at a URL with the identity the flags name.
func openContainer(ctx context.Context, rawURL string, id *identityFlags) (*journal.Container, error) {
	identity, err := id.load()
	if err != nil {
		return nil, err
	}
	st, err := openStore(ctx, rawURL, false)
	if err != nil {
		return nil, err
	}
	return journal.Open(ctx, st, identity)
}
