package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

func newDomainCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "domain", Short: "Make the containers of protected domains; see how a manager's domains stand"}
	cmd.AddCommand(newDomainCreate(), newDomainList(), newDomainStatus())
	return cmd
}

func newDomainCreate() *cobra.Command {
	var name, passphraseFile string
	var recipients, services []string
	var quick bool
	cmd := &cobra.Command{
		Use:   "create URL",
		Short: "Create the container of a new protected domain",
		Long: `Creates the container of a protected domain in an empty place of an object
store, and prints the domain's id. The store is tried first, as by "holdfast store
verify": one that a publisher could not rely on is refused, by the name of the
property it lacks. --quick makes the trial shorter; it cannot be left out.

Every recipient can open the container alone: give one for the DRVA and one
recovery key whose secret part is kept away from the protected site. --kms names a
key of a key service; its credentials come from the environment, and the
container is made only if the service wraps with it now.`,
		Example: `  holdfast key new recovery.key
  holdfast domain create file:///srv/dr/erp --name erp --recipient age1… --recipient age1…`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := journal.CreateOptions{Name: name}
			for _, s := range recipients {
				r, err := journal.ParseRecipient(s)
				if err != nil {
					return err
				}
				opts.Recipients = append(opts.Recipients, r)
			}
			for _, s := range services {
				r, err := serviceRecipient(s, "")
				if err != nil {
					return err
				}
				opts.Recipients = append(opts.Recipients, r)
			}
			if passphraseFile != "" {
				p, err := askOn(cmd).passphrase(passphraseFile, "passphrase", true)
				if err != nil {
					return err
				}
				r, err := journal.PassphraseRecipient(p, "")
				if err != nil {
					return err
				}
				opts.Recipients = append(opts.Recipients, r)
			}
			st, err := openStore(cmd.Context(), args[0], true)
			if err != nil {
				return err
			}
			// Where there is a container, nothing needs to be tried to refuse.
			if _, err := journal.ReadDomain(cmd.Context(), st); errs.Is(err, errs.NotFound) {
				if err := trustStore(cmd, args[0], quick); err != nil {
					return err
				}
			}
			c, err := journal.Create(cmd.Context(), st, opts)
			if err != nil {
				return err
			}
			d := c.Domain()
			return print(cmd, map[string]any{"domain": d.ID, "name": d.Name}, func(w io.Writer) {
				fmt.Fprintln(w, d.ID)
			})
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&name, "name", "", "name of the domain, for people")
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "public part of a recovery key, age1… (repeatable)")
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "also let the passphrase in this file open the container; -: ask for it")
	cmd.Flags().StringArrayVar(&services, "kms", nil, "also let whoever may unwrap with this key of a key service open it: vault://HOST/MOUNT/KEY or azurekv://NAME.vault.azure.net/KEY (repeatable)")
	cmd.Flags().BoolVar(&quick, "quick", false, "try the store with fewer rounds and smaller objects")
	return cmd
}
