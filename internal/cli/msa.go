package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/journal"
	"holdfast/internal/msa/api"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// dataDefault is where a manager keeps what is its own.
const dataDefault = "/var/lib/holdfast/msa"

func newMSACommand() *cobra.Command {
	var o replica.Options
	var name, passphrase, dbFile, containerKey, appliances string
	var phrases, services []string
	cmd := &cobra.Command{
		Use:   "msa",
		Short: "Run a site's manager",
		Long: `Runs the manager of a site: what is configured, recovery plans, users, and the
API for all of it, over TLS. It never touches replication data.

The first start makes a database (SQLite in --data, unless --db names another one),
the key that seals secrets (DIR/seal.key) and the site's own certificate authority.
It prints the authority's fingerprint, by which clients know the manager, and a
token that makes the first administrator; the token is in DIR/setup-token too.

Several managers of one site share the work when --db names one PostgreSQL
database, and take over from one that is dead. Each needs a copy of seal.key.`,
		Example: `  holdfast msa --site site-a
  holdfast msa --site site-a --listen 10.0.0.5:8443 --name msa-a.example.com
  holdfast msa --site site-a --db-file /etc/holdfast/msa-db
  holdfast msa --site site-a --appliances /var/lib/holdfast/boxes`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if passphrase != "" {
				word, err := readPassphrase(passphrase)
				if err != nil {
					return err
				}
				o.Passphrase = []byte(word)
			}
			if dbFile != "" {
				if o.DB != "" {
					return usageError{fmt.Errorf("--db and --db-file both name a database: give one")}
				}
				if o.DB, err = readPassphrase(dbFile); err != nil {
					return err
				}
			}
			o.Site, o.Release, o.Logger = site.Name(name), Version, log
			if o.ContainerKey, err = readKeyText(containerKey); err != nil {
				return err
			}
			if o.Openers, err = openers(phrases, services); err != nil {
				return err
			}
			o.OpenStore = openManagedStore
			o.Platform = func(s *site.Site) (inventory.Provider, error) { return openInventory(s, log) }
			trials := &storeTrials{}
			o.Kinds = runs.Kinds{{Name: api.TryStore, Version: 1}: trials}
			if appliances != "" {
				if err := withAppliances(&o, appliances, log); err != nil {
					return err
				}
			}
			return runMSA(cmd, o, trials)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", dataDefault, "directory of the manager's own")
	f.StringVar(&o.DB, "db", "", "URL of the database, postgres://… or sqlite://… (default: SQLite in --data)")
	f.StringVar(&dbFile, "db-file", "", "file of mode 0600 with the URL of the database: one with a password must not stand in the list of processes")
	f.StringVar(&o.Listen, "listen", ":8443", "address of the API")
	f.StringVar(&name, "site", "", "name of the manager's own site")
	f.StringSliceVar(&o.Names, "name", nil, "host name or address by which the manager is reached (repeatable; default: the host's name)")
	f.StringVar(&o.Authority, "ca", "", "directory of an authority made by holdfast cert init, to become the site's")
	f.StringVar(&containerKey, "container-key", "", "file with a recovery key that opens containers which the site's own key does not yet: those of a lost site, say")
	f.StringArrayVar(&phrases, "container-passphrase-file", nil, "file of mode 0600 whose first line is a passphrase that opens containers: the site's own key is added to them (repeatable)")
	f.StringArrayVar(&services, "container-kms", nil, "address of a key service's key that opens containers, as holdfast init --kms takes it: the site's own key is added to them (repeatable)")
	f.StringVar(&appliances, "appliances", "", "directory of boxes that it runs on this machine by itself, once the site is configured: a DRVA, a host component, a recovery appliance")
	f.StringVar(&passphrase, "passphrase", "", "file of mode 0600 with the passphrase of seal.key")
	return cmd
}

// openers are what opens containers besides age keys.
func openers(phrases, services []string) (list []journal.Identity, err error) {
	for _, path := range phrases {
		word, err := readPassphrase(path)
		if err != nil {
			return nil, err
		}
		list = append(list, journal.PassphraseIdentity(word))
	}
	for _, address := range services {
		c, err := openKeyService(address)
		if err != nil {
			return nil, err
		}
		list = append(list, journal.KeyServiceIdentity(c))
	}
	return list, nil
}

func runMSA(cmd *cobra.Command, o replica.Options, trials *storeTrials) error {
	ctx := cmd.Context()
	r, err := replica.Open(ctx, o)
	if err != nil {
		return err
	}
	trials.secret = r.Secret
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "manager of %s at %s\nfingerprint %s\n      words %s\n   site key %s\n", o.Site, r.Address(), r.Fingerprint(), control.Words(r.Fingerprint()), r.SiteKey())
	file := filepath.Join(o.Data, "setup-token")
	if token := r.SetupToken(); token != "" {
		if err := durable.WriteFile(durable.OS{}, file, []byte(token+"\n")); err != nil {
			r.Close()
			return err
		}
		fmt.Fprintf(out, "nobody can administer yet; this token makes the first administrator:\n%s\n", token)
	} else if err := durable.Remove(durable.OS{}, file); err != nil {
		// It is spent, and makes nobody anything any more.
		o.Logger.Debug("the spent set-up token could not be removed", "err", err)
	}
	o.Logger.Info("the manager is ready", "site", o.Site, "address", r.Address(), "database", r.DB.Name())
	return r.Run(ctx)
}
