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

func newLoginCommand() *cobra.Command {
	var fingerprint, tokenFile string
	cmd := &cobra.Command{
		Use:   "login ADDRESS",
		Short: "Log in at a manager, and remember it",
		Long: `Asks the manager for the fingerprint of its authority, which you compare with what
it printed when it started, and for an API token. Both are kept in a file of your
own, of mode 0600; commands are about the manager you logged in at last, unless
--manager names another one.

Without a terminal, give --fingerprint and --token-file.`,
		Example: `  holdfast login https://msa-a.example.com:8443
  holdfast login https://msa-a:8443 --fingerprint 5f0c… --token-file /run/secrets/holdfast`,
		Args: exactArgs("ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			address := strings.TrimSuffix(args[0], "/")
			l, err := readLogins()
			if err != nil {
				return err
			}
			if fingerprint == "" {
				if fingerprint, err = confirmed(cmd, address, l.Managers[address].Fingerprint); err != nil {
					return err
				}
			}
			if tokenFile == "" {
				tokenFile = askHere
			}
			token, err := askOn(cmd).passphrase(tokenFile, "API token", false)
			if err != nil {
				return err
			}
			c, err := api.Dial(api.Options{Address: address, Token: strings.TrimSpace(token), Fingerprint: fingerprint, Agent: "holdfast/" + Version})
			if err != nil {
				return err
			}
			defer c.Close()
			v, err := c.Version(cmd.Context())
			if err != nil {
				return err
			}
			l.Current, l.Managers[address] = address, login{Fingerprint: fingerprint, Token: strings.TrimSpace(token)}
			if err := l.write(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "logged in at %s, release %s\n", address, v.Release)
			return nil
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "fingerprint of the manager's authority, as it printed it")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file of mode 0600 with an API token; - asks (default: ask)")
	return cmd
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
		Long: `Forgets the manager you logged in at last, or ADDRESS, on this machine. The token
itself stays good: revoke it at the manager if it may be in other hands.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := readLogins()
			if err != nil {
				return err
			}
			address := l.Current
			if len(args) == 1 {
				address = strings.TrimSuffix(args[0], "/")
			}
			if _, ok := l.Managers[address]; !ok {
				return errs.New("logout", errs.NotFound, address, "nobody is logged in there").WithRemedy("see holdfast logins")
			}
			delete(l.Managers, address)
			if l.Current == address {
				l.Current = ""
			}
			return l.write()
		},
	}
	return cmd
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
