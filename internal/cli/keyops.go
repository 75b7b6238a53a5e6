package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

// recipientFlags are how a command is told who shall open a container.
type recipientFlags struct {
	public, passphrase, service, hint string

	asker *asker
}

func (f *recipientFlags) add(cmd *cobra.Command) {
	f.asker = askOn(cmd)
	cmd.Flags().StringVar(&f.public, "recipient", "", "public part of a recovery key, age1…")
	cmd.Flags().StringVar(&f.passphrase, "recipient-passphrase-file", "", "file whose first line is the recipient's passphrase; -: ask for it")
	cmd.Flags().StringVar(&f.service, "recipient-kms", "", "address of the recipient's key in a key service")
	cmd.Flags().StringVar(&f.hint, "hint", "", "words stored in the clear beside a passphrase or a key service's key")
}

func (f *recipientFlags) load() (journal.Recipient, error) {
	given := 0
	for _, v := range []string{f.public, f.passphrase, f.service} {
		if v != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return journal.Recipient{}, usageError{fmt.Errorf("give one of --recipient, --recipient-passphrase-file and --recipient-kms")}
	case f.public != "":
		return journal.ParseRecipient(f.public)
	case f.service != "":
		return serviceRecipient(f.service, f.hint)
	}
	p, err := f.asker.passphrase(f.passphrase, "the recipient's passphrase", true)
	if err != nil {
		return journal.Recipient{}, err
	}
	return journal.PassphraseRecipient(p, f.hint)
}

func serviceRecipient(address, hint string) (journal.Recipient, error) {
	c, err := openKeyService(address)
	if err != nil {
		return journal.Recipient{}, err
	}
	return journal.KeyServiceRecipient(c, hint)
}

func newKeyListCommand() *cobra.Command {
	var id identityFlags
	cmd := &cobra.Command{
		Use:     "list URL",
		Short:   "List a container's data keys and who can open them",
		Example: "  holdfast key list file:///srv/dr/erp --key recovery.key",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			return printKeys(cmd, c)
		},
	}
	addOutputFlag(cmd)
	id.add(cmd)
	return cmd
}

func printKeys(cmd *cobra.Command, c *journal.Container) error {
	gens := c.Generations()
	return print(cmd, gens, func(w io.Writer) {
		fmt.Fprintln(w, "GENERATION\tSTATE\tCREATED\tRECIPIENT\tWHO")
		for _, g := range gens {
			state := "old"
			switch {
			case g.Current:
				state = "current"
			case !g.Open:
				state = "not open: " + g.Why
			case !g.Complete:
				state = "unfinished, unused"
			}
			for _, r := range g.Recipients {
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", g.Number, state, timeOf(g.Created), r.ID, r)
			}
			if len(g.Recipients) == 0 {
				fmt.Fprintf(w, "%d\t%s\t%s\t-\tnobody\n", g.Number, state, timeOf(g.Created))
			}
		}
	})
}

func newKeyAddCommand() *cobra.Command {
	var id identityFlags
	var to recipientFlags
	cmd := &cobra.Command{
		Use:     "add URL",
		Short:   "Let one more recovery key, passphrase or key service open a container",
		Example: "  holdfast key add file:///srv/dr/erp --key recovery.key --recipient age1…",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := id.load(); err != nil { // asks first, if it asks
				return err
			}
			r, err := to.load()
			if err != nil {
				return err
			}
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			added, err := c.AddRecipient(cmd.Context(), r)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), added)
			return err
		},
	}
	id.add(cmd)
	to.add(cmd)
	return cmd
}

// copied is what nobody can take back, said whenever a recipient goes.
const copied = `A copy of the wrapped key, made before, still opens what was sealed until now.
To shut it out of what comes, rotate the data key: holdfast key rotate-data`

func newKeyRemoveCommand() *cobra.Command {
	var id identityFlags
	cmd := &cobra.Command{
		Use:   "remove URL RECIPIENT",
		Short: "Delete a recipient's wrapped keys",
		Long: `Deletes the wrapped keys of a recipient, as key list shows it. It needs the
right to delete below keys/.

` + copied,
		Example: "  holdfast key remove file:///srv/dr/erp 2f6e… --key recovery.key",
		Args:    exactArgs("URL", "RECIPIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := recipientID(args[1])
			if err != nil {
				return err
			}
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			if err := c.RemoveRecipient(cmd.Context(), who); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "removed\n"+copied)
			return err
		},
	}
	id.add(cmd)
	return cmd
}

func recipientID(s string) (dr.UUID, error) {
	id, err := dr.ParseUUID(s)
	if err != nil {
		return id, usageError{fmt.Errorf("%q is no recipient's id: see key list", s)}
	}
	return id, nil
}

func newKeyReplaceCommand() *cobra.Command {
	var id identityFlags
	var to recipientFlags
	cmd := &cobra.Command{
		Use:   "replace URL RECIPIENT",
		Short: "Wrap the data keys anew: another passphrase, recovery key or service's key",
		Long: `Wraps every data key for the new recipient, then deletes the wrapped keys of
the old one. It needs the right to delete below keys/.

` + copied,
		Example: "  holdfast key replace file:///srv/dr/erp 2f6e… --key recovery.key --recipient-passphrase-file new.txt",
		Args:    exactArgs("URL", "RECIPIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := recipientID(args[1])
			if err != nil {
				return err
			}
			if _, err := id.load(); err != nil { // asks first, if it asks
				return err
			}
			r, err := to.load()
			if err != nil {
				return err
			}
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			now, err := c.RotateRecipient(cmd.Context(), who, r)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", now, copied)
			return err
		},
	}
	id.add(cmd)
	to.add(cmd)
	return cmd
}

func newKeyRotateCommand() *cobra.Command {
	var id identityFlags
	var phrases, confirmed, services []string
	cmd := &cobra.Command{
		Use:   "rotate-data URL",
		Short: "Make a new data key for everything written from now on",
		Long: `Makes a new data key and wraps it for everybody who can open the current one.
What was written before stays under the old data keys, which all recipients
keep. Appliances seal under the new one from their next start on: restart them.

Recovery keys and key services need nothing. The passphrase of every recipient
that has one is needed: give its file.`,
		Example: "  holdfast key rotate-data file:///srv/dr/erp --key recovery.key --recipient-passphrase-file phrase.txt",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := journal.RotateOptions{KeyService: openKeyService}
			own, err := id.load()
			if err != nil {
				return err
			}
			if own.Kind() == journal.Passphrase {
				opts.Passphrases = append(opts.Passphrases, own)
			}
			for _, path := range phrases {
				p, err := askOn(cmd).passphrase(path, "a recipient's passphrase", false)
				if err != nil {
					return err
				}
				opts.Passphrases = append(opts.Passphrases, journal.PassphraseIdentity(p))
			}
			for _, s := range confirmed {
				r, err := journal.ParseRecipient(s)
				if err != nil {
					return err
				}
				opts.Confirmed = append(opts.Confirmed, r)
			}
			for _, s := range services {
				r, err := serviceRecipient(s, "")
				if err != nil {
					return err
				}
				opts.Confirmed = append(opts.Confirmed, r)
			}
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			if c, err = c.RotateDataKey(cmd.Context(), opts); err != nil {
				return err
			}
			if err := printKeys(cmd, c); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "Restart the appliances that write to this container: they go on under the old data key until then.")
			return nil
		},
	}
	addOutputFlag(cmd)
	id.add(cmd)
	cmd.Flags().StringArrayVar(&phrases, "recipient-passphrase-file", nil, "file with a recipient's passphrase; -: ask for it (repeatable)")
	cmd.Flags().StringArrayVar(&confirmed, "recipient", nil, "confirm a recipient of an old container, age1… (repeatable)")
	cmd.Flags().StringArrayVar(&services, "recipient-kms", nil, "confirm a key service's key of an old container (repeatable)")
	return cmd
}
