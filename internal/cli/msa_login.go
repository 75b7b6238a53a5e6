package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/errs"
)

// loginFlags say who logs in, and how.
type loginFlags struct {
	fingerprint, tokenFile    string
	user, passwordFile, setup string
}

func newLoginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login ADDRESS",
		Short: "Log in at a manager, and remember it",
		Long: `Asks the manager for the fingerprint of its authority, which you compare with what
it printed when it started, and logs in: with a name and a password (--user), or with
an API token. What is kept is in a file of your own, of mode 0600; commands are about
the manager you logged in at last, unless --manager names another one. A session ends
when nobody has used it for 30 minutes; an API token is good until it expires.

The first time, --setup-token makes an administrator of --user: it names the file of
the token that the manager printed, or - to be asked for it.

Without a terminal, give --fingerprint, and --token-file or --password-file.`,
		Example: `  holdfast login https://msa-a:8443 --user root --setup-token -
  holdfast login https://msa-a.example.com:8443 --user alice
  holdfast login https://msa-a:8443 --fingerprint 5f0c… --token-file /run/secrets/holdfast`,
		Args: exactArgs("ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.login(cmd, strings.TrimSuffix(args[0], "/"))
		},
	}
	cmd.Flags().StringVar(&f.fingerprint, "fingerprint", "", "fingerprint of the manager's authority, as it printed it")
	cmd.Flags().StringVar(&f.user, "user", "", "log in with this name, and a password")
	cmd.Flags().StringVar(&f.passwordFile, "password-file", askHere, "file of mode 0600 with the password; - asks")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", askHere, "file of mode 0600 with an API token; - asks")
	cmd.Flags().StringVar(&f.setup, "setup-token", "", "file of mode 0600 with the set-up token; - asks")
	return cmd
}

func (f *loginFlags) login(cmd *cobra.Command, address string) error {
	if f.setup != "" && f.user == "" {
		return usageError{fmt.Errorf("--setup-token makes an administrator: give their name with --user")}
	}
	l, err := readLogins()
	if err != nil {
		return err
	}
	fingerprint := f.fingerprint
	if fingerprint == "" {
		if fingerprint, err = confirmed(cmd, address, l.Managers[address].Fingerprint); err != nil {
			return err
		}
	}
	o := api.Options{Address: address, Fingerprint: fingerprint, Agent: "holdfast/" + Version}
	if o.Token, err = f.token(cmd, o); err != nil {
		return err
	}
	c, err := api.Dial(o)
	if err != nil {
		return err
	}
	defer c.Close()
	v, err := c.Version(cmd.Context())
	if err != nil {
		return err
	}
	l.Current, l.Managers[address] = address, login{Fingerprint: fingerprint, Token: o.Token, Session: f.user != ""}
	if err := l.write(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "logged in at %s, release %s\n", address, v.Release)
	return nil
}

// token is an API token, or that of a new session.
func (f *loginFlags) token(cmd *cobra.Command, o api.Options) (string, error) {
	if f.user == "" {
		token, err := askOn(cmd).passphrase(f.tokenFile, "API token", false)
		return strings.TrimSpace(token), err
	}
	c, err := api.Dial(o)
	if err != nil {
		return "", err
	}
	defer c.Close()
	setup := ""
	if f.setup != "" {
		if setup, err = askOn(cmd).passphrase(f.setup, "set-up token", false); err != nil {
			return "", err
		}
	}
	password, err := askOn(cmd).passphrase(f.passwordFile, "password of "+f.user, setup != "")
	if err != nil {
		return "", err
	}
	if setup != "" {
		if err := c.Setup(cmd.Context(), strings.TrimSpace(setup), f.user, password); err != nil {
			return "", err
		}
	}
	return c.Login(cmd.Context(), f.user, password)
}

// confirmed asks a person whether a manager's fingerprint is the right one; known is
// the one that was confirmed before.
func confirmed(cmd *cobra.Command, address, known string) (string, error) {
	fp, err := api.Fingerprint(cmd.Context(), address)
	if err != nil || fp == known {
		return fp, err
	}
	w := cmd.ErrOrStderr()
	if known != "" {
		fmt.Fprintf(w, "THE AUTHORITY OF %s HAS CHANGED. It was\n  %s\n", address, known)
	}
	fmt.Fprintf(w, "The manager at %s shows the fingerprint\n  %s\n  %s\n", address, fp, api.Words(fp))
	if !confirm(cmd, "Is that what the manager printed when it started?") {
		return "", errs.New("login", errs.Denied, address, "its fingerprint was not confirmed").WithRemedy("compare it with what the manager printed, and give it with --fingerprint")
	}
	return fp, nil
}

func newLogoutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logout [ADDRESS]",
		Short: "Forget a manager and its token",
		Long: `Forgets the manager you logged in at last, or ADDRESS, on this machine, and ends the
session there. An API token stays good: revoke it at the manager if it may be in
other hands.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := readLogins()
			if err != nil {
				return err
			}
			address := l.Current
			if len(args) == 1 {
				address = strings.TrimSuffix(args[0], "/")
			}
			known, ok := l.Managers[address]
			if !ok {
				return errs.New("logout", errs.NotFound, address, "nobody is logged in there").WithRemedy("see holdfast logins")
			}
			endSession(cmd, address, known)
			delete(l.Managers, address)
			if l.Current == address {
				l.Current = ""
			}
			return l.write()
		},
	}
	return cmd
}

// endSession ends a session at its manager. If that does not answer, the session ends
// by itself soon.
func endSession(cmd *cobra.Command, address string, l login) {
	if !l.Session {
		return
	}
	c, err := api.Dial(api.Options{Address: address, Fingerprint: l.Fingerprint, Token: l.Token, Agent: "holdfast/" + Version, Tries: 1})
	if err == nil {
		defer c.Close()
		err = c.Logout(cmd.Context())
	}
	if err != nil && !errs.Is(err, errs.Denied) {
		fmt.Fprintf(cmd.ErrOrStderr(), "the session could not be ended at the manager, and ends by itself: %v\n", err)
	}
}

func newLoginsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logins",
		Short: "List the managers you are logged in at",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := readLogins()
			if err != nil {
				return err
			}
			type line struct {
				Address     string `json:"address"`
				Fingerprint string `json:"fingerprint"`
				Current     bool   `json:"current"`
			}
			list := []line{}
			for a, m := range l.Managers {
				list = append(list, line{a, m.Fingerprint, a == l.Current})
			}
			slices.SortFunc(list, func(a, b line) int { return strings.Compare(a.Address, b.Address) })
			return print(cmd, list, func(w io.Writer) {
				fmt.Fprintln(w, "MANAGER\tFINGERPRINT\tCURRENT")
				for _, m := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\n", m.Address, m.Fingerprint, mark(m.Current))
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func mark(yes bool) string {
	if yes {
		return "*"
	}
	return ""
}
