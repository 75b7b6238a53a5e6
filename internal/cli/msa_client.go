package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

// logins are the managers somebody is logged in at, in a file of their own.
type logins struct {
	Current  string           `json:"current"` // an address; "": none
	Managers map[string]login `json:"managers"`
}

// login is how one manager is known, and who asks it.
type login struct {
	Fingerprint string `json:"fingerprint,omitempty"`
	Token       string `json:"token,omitempty"`
	Session     bool   `json:"session,omitempty"` // the token is a session's
}

// maxLogins bounds the file, bytes.
const maxLogins = 1 << 20

func loginsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", errs.E("cli.login", errs.Invalid, "the configuration's directory", err).WithRemedy("set HOME or XDG_CONFIG_HOME")
	}
	return filepath.Join(dir, "holdfast", "managers.json"), nil
}

func readLogins() (l logins, err error) {
	l.Managers = map[string]login{}
	path, err := loginsFile()
	if err != nil {
		return l, err
	}
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil && fi.Mode().Perm()&0o077 != 0 {
		return l, errs.New("cli.login", errs.Denied, path, fmt.Sprintf("the file has mode %04o: others may read your tokens", fi.Mode().Perm())).
			WithRemedy("chmod 600 " + path + ", and revoke the tokens in it")
	}
	b, err := durable.ReadFile(durable.OS{}, path, maxLogins)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, errs.E("cli.login", errs.Corrupt, path, err).WithRemedy("remove the file, and log in again")
	}
	if l.Managers == nil {
		l.Managers = map[string]login{}
	}
	return l, nil
}

func (l *logins) write() error {
	path, err := loginsFile()
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(durable.OS{}, filepath.Dir(path)); err != nil {
		return err
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(durable.OS{}, path, append(b, '\n'))
}

// addManagerFlags gives a command what says which manager it is about, and -o.
func addManagerFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("manager", "", "address of the manager, as https://msa-a:8443 (default: the one you logged in at last)")
	f.String("fingerprint", "", "fingerprint of the manager's authority (default: as confirmed when you logged in)")
	f.String("token-file", "", "file of mode 0600 with an API token (default: that of your log-in)")
	addOutputFlag(cmd)
}

// manager returns the client of the manager that a command is about. The caller
// closes it. Kinds: Denied (nobody is logged in), Invalid.
func manager(cmd *cobra.Command) (*api.Client, error) {
	f := cmd.Flags()
	address, _ := f.GetString("manager")
	fingerprint, _ := f.GetString("fingerprint")
	tokenFile, _ := f.GetString("token-file")
	l, err := readLogins()
	if err != nil {
		return nil, err
	}
	if address == "" {
		address = l.Current
	}
	address = strings.TrimSuffix(address, "/")
	if address == "" {
		return nil, errs.New("cli", errs.Denied, "manager", "it is not said which manager this is about").WithRemedy("holdfast login https://HOST:PORT; or give --manager, --fingerprint and --token-file")
	}
	known := l.Managers[address]
	if fingerprint == "" {
		fingerprint = known.Fingerprint
	}
	token := known.Token
	if tokenFile != "" {
		if token, err = readPassphrase(tokenFile); err != nil {
			return nil, err
		}
	}
	if token == "" {
		return nil, errs.New("cli", errs.Denied, address, "nobody is logged in at this manager").WithRemedy("holdfast login " + address)
	}
	return api.Dial(api.Options{Address: address, Token: token, Fingerprint: fingerprint, Agent: "holdfast/" + Version})
}

// withManager runs f with the client of the manager that a command is about.
func withManager(cmd *cobra.Command, f func(c *api.Client) error) error {
	c, err := manager(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	return explainFaults(cmd, f(c))
}

// explainFaults prints everything that is wrong with what was sent; the error itself
// names the first.
func explainFaults(cmd *cobra.Command, err error) error {
	p, ok := api.AsProblem(err)
	if !ok || len(p.Faults) == 0 {
		return err
	}
	printFaults(cmd.ErrOrStderr(), p.Faults)
	blockers := 0
	for _, f := range p.Faults {
		if f.Severity == 0 {
			blockers++
		}
	}
	if blockers > 1 {
		return errs.New("manager", errs.KindOf(err), p.Object, fmt.Sprintf("%d things are wrong, as listed above", blockers)).WithRemedy("correct them, and try again")
	}
	return err
}

func printFaults(w io.Writer, faults []api.Fault) {
	for _, f := range faults {
		fmt.Fprintf(w, "%s: %s\n", f.Severity, f)
	}
}

// kindNames are the kinds, for help and completion.
func kindNames() (names []string) {
	for _, k := range site.Kinds() {
		names = append(names, string(k))
	}
	return names
}

// kindOf reads a kind, in the singular or the plural.
func kindOf(word string) (api.Kind, error) {
	for _, k := range site.Kinds() {
		if word == string(k) || word == string(k)+"s" || word == api.PathOf(k) {
			return k, nil
		}
	}
	return "", usageError{fmt.Errorf("%q is no kind of objects: choose one of %s", word, strings.Join(kindNames(), ", "))}
}

// completeKinds completes the first argument as a kind.
func completeKinds(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return kindNames(), cobra.ShellCompDirectiveNoFileComp
}

// confirm asks a person; without one, the answer is no.
func confirm(cmd *cobra.Command, question string) bool {
	a := askOn(cmd)
	if !a.terminal() {
		return false
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [yes/no] ", question)
	var word string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &word); err != nil {
		return false
	}
	return word == "yes" || word == "y"
}
