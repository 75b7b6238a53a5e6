package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// items is the answer of a list.
type items[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// listAll reads all pages of a list.
func listAll[T any](cmd *cobra.Command, c *api.Client, path string, query url.Values) (all []T, err error) {
	if query == nil {
		query = url.Values{}
	}
	all = []T{} // a list of nothing is a list
	for {
		var page items[T]
		if err := c.Call(cmd.Context(), http.MethodGet, path, query, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("cursor", page.Next)
	}
}

// group is a command that only has others.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(cmds...)
	return cmd
}

// managed is a command about a manager.
func managed(use, short string, args []string, run func(cmd *cobra.Command, args []string, c *api.Client) error) *cobra.Command {
	for _, a := range args {
		use += " " + a
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: exactArgs(args...),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withManager(cmd, func(c *api.Client) error { return run(cmd, args, c) })
		},
	}
	addManagerFlags(cmd)
	return cmd
}

// at renders a time of the manager's for people.
func at(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return timeOf(db.Time(ms))
}

// grants are a flag: ROLE, or ROLE:FOLDER.
func grants(words []string) (list []auth.Grant, err error) {
	for _, w := range words {
		role, folder, _ := strings.Cut(w, ":")
		if role == "" {
			return nil, usageError{fmt.Errorf("--role %q: write ROLE, or ROLE:FOLDER", w)}
		}
		list = append(list, auth.Grant{Role: auth.Role(role), Folder: site.Ref(folder)})
	}
	return list, nil
}

func grantWords(list []auth.Grant) string {
	var words []string
	for _, g := range list {
		w := string(g.Role)
		if g.Folder != "" {
			w += ":" + string(g.Folder)
		}
		words = append(words, w)
	}
	if words == nil {
		return "-"
	}
	return strings.Join(words, " ")
}

func newUserCommand() *cobra.Command {
	return group("user", "Say who may log in at a manager, and what they may do",
		newUserList(), newUserCreate(), newUserSet(), newUserPassword(),
		managed("delete", "Delete a user, with sessions and tokens", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodDelete, "/users/"+url.PathEscape(args[0]), nil, nil, nil)
		}),
		managed("end-sessions", "End all sessions of a user", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodDelete, "/users/"+url.PathEscape(args[0])+"/sessions", nil, nil, nil)
		}),
		newUserRoles(), newWhoAmI())
}

func newUserList() *cobra.Command {
	return managed("list", "List users", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		users, err := listAll[auth.User](cmd, c, "/users", nil)
		if err != nil {
			return err
		}
		return print(cmd, users, func(w io.Writer) {
			fmt.Fprintln(w, "NAME\tTITLE\tROLES\tDISABLED\tBY\tLAST LOG-IN")
			for _, u := range users {
				by := u.Provider
				if by == "" {
					by = "password"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.Name, u.Title, grantWords(u.Grants), mark(u.Disabled), by, at(u.LoginAt))
			}
		})
	})
}

// printUser shows a user that was made or changed.
func printUser(cmd *cobra.Command, u *auth.User) error {
	return print(cmd, u, func(w io.Writer) { fmt.Fprintf(w, "user %s\t%s\n", u.Name, grantWords(u.Grants)) })
}

func newUserCreate() *cobra.Command {
	var title, file string
	var roles []string
	cmd := managed("create", "Make a user who logs in with a password", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		list, err := grants(roles)
		if err != nil {
			return err
		}
		word, err := askOn(cmd).passphrase(file, "password of "+args[0], true)
		if err != nil {
			return err
		}
		var u auth.User
		if err := c.Call(cmd.Context(), http.MethodPost, "/users", nil, map[string]any{"name": args[0], "title": title, "password": word, "grants": list}, &u); err != nil {
			return err
		}
		return printUser(cmd, &u)
	})
	cmd.Example = "  holdfast user create alice --role recovery-admin:erp --role viewer"
	cmd.Flags().StringVar(&title, "title", "", "for people")
	cmd.Flags().StringArrayVar(&roles, "role", nil, "ROLE, or ROLE:FOLDER (repeatable); see holdfast user roles")
	cmd.Flags().StringVar(&file, "password-file", askHere, "file of mode 0600 with the password; - asks")
	return cmd
}

func newUserSet() *cobra.Command {
	var title string
	var roles []string
	var disable, enable, none bool
	cmd := managed("set", "Change a user's roles or title, or whether they are disabled", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		path := "/users/" + url.PathEscape(args[0])
		var u auth.User
		if err := c.Call(cmd.Context(), http.MethodGet, path, nil, nil, &u); err != nil {
			return err
		}
		if roles != nil || none {
			list, err := grants(roles)
			if err != nil {
				return err
			}
			u.Grants = list
		}
		if cmd.Flags().Changed("title") {
			u.Title = title
		}
		u.Disabled = (u.Disabled || disable) && !enable
		if u.Grants == nil {
			u.Grants = []auth.Grant{}
		}
		in := map[string]any{"title": u.Title, "disabled": u.Disabled, "grants": u.Grants, "version": u.Version}
		if err := c.Call(cmd.Context(), http.MethodPut, path, nil, in, &u); err != nil {
			return err
		}
		return printUser(cmd, &u)
	})
	cmd.Flags().StringVar(&title, "title", "", "for people")
	cmd.Flags().StringArrayVar(&roles, "role", nil, "ROLE, or ROLE:FOLDER (repeatable), in place of all there are")
	cmd.Flags().BoolVar(&none, "no-roles", false, "take all roles away")
	cmd.Flags().BoolVar(&disable, "disable", false, "have them no way in; their sessions end")
	cmd.Flags().BoolVar(&enable, "enable", false, "let them in again")
	cmd.MarkFlagsMutuallyExclusive("disable", "enable")
	cmd.MarkFlagsMutuallyExclusive("role", "no-roles")
	return cmd
}

func newUserPassword() *cobra.Command {
	var file, old string
	var own bool
	cmd := managed("password", "Give a user another password; their sessions end", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		in, path := map[string]any{}, "/users/"+url.PathEscape(args[0])+"/password"
		if own {
			word, err := askOn(cmd).passphrase(old, "present password", false)
			if err != nil {
				return err
			}
			in["old"], path = word, "/session/password"
		}
		word, err := askOn(cmd).passphrase(file, "new password of "+args[0], true)
		if err != nil {
			return err
		}
		if own {
			in["new"] = word
		} else {
			in["password"] = word
		}
		return c.Call(cmd.Context(), http.MethodPut, path, nil, in, nil)
	})
	cmd.Flags().StringVar(&file, "password-file", askHere, "file of mode 0600 with the new password; - asks")
	cmd.Flags().BoolVar(&own, "own", false, "it is your own, and takes no administrator")
	cmd.Flags().StringVar(&old, "old-password-file", askHere, "with --own: file of mode 0600 with the present password; - asks")
	return cmd
}

func newUserRoles() *cobra.Command {
	type role struct {
		Role auth.Role `json:"role"`
		May  []string  `json:"may"`
	}
	return managed("roles", "List the roles there are, and what each may", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		all, err := listAll[role](cmd, c, "/roles", nil)
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			for _, r := range all {
				fmt.Fprintf(w, "%s\t%s\n", r.Role, strings.Join(r.May, " "))
			}
		})
	})
}

// whoami is who asks, as the manager sees it.
type whoami struct {
	Name    string       `json:"name"`
	User    string       `json:"user"`
	Token   string       `json:"token,omitempty"`
	Session bool         `json:"session"`
	Grants  []auth.Grant `json:"grants"`
	Scope   []auth.Grant `json:"scope,omitempty"`
	May     []string     `json:"may"`
}

func newWhoAmI() *cobra.Command {
	return managed("me", "Tell who you are to the manager, and what you may do", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		var who whoami
		if err := c.Call(cmd.Context(), http.MethodGet, "/session", nil, nil, &who); err != nil {
			return err
		}
		return print(cmd, who, func(w io.Writer) {
			fmt.Fprintf(w, "user\t%s\nroles\t%s\n", who.Name, grantWords(who.Grants))
			if who.Token != "" {
				fmt.Fprintf(w, "scope\t%s\n", grantWords(who.Scope))
			}
			fmt.Fprintf(w, "may\t%s\n", strings.Join(who.May, " "))
		})
	})
}

func newTokenCommand() *cobra.Command {
	return group("token", "Make and revoke your API tokens at a manager", newTokenList(), newTokenCreate(),
		managed("revoke", "Make one of your tokens useless", []string{"ID"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodDelete, "/tokens/"+url.PathEscape(args[0]), nil, nil, nil)
		}))
}

func newTokenList() *cobra.Command {
	var user string
	cmd := managed("list", "List your tokens", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		path := "/tokens"
		if user != "" {
			path = "/users/" + url.PathEscape(user) + "/tokens"
		}
		all, err := listAll[auth.Token](cmd, c, path, nil)
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tTITLE\tSCOPE\tEXPIRES\tUSED")
			for _, t := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.ID, t.Title, grantWords(t.Scope), at(t.ExpiresAt), at(t.UsedAt))
			}
		})
	})
	cmd.Flags().StringVar(&user, "user", "", "another user's")
	return cmd
}

func newTokenCreate() *cobra.Command {
	var roles []string
	var expire string
	cmd := managed("create", "Make a token; its secret is printed this once", []string{"TITLE"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		scope, err := grants(roles)
		if err != nil {
			return err
		}
		var t struct {
			auth.Token
			Secret string `json:"secret"`
		}
		if err := c.Call(cmd.Context(), http.MethodPost, "/tokens", nil, map[string]any{"title": args[0], "scope": scope, "expire": expire}, &t); err != nil {
			return err
		}
		return print(cmd, t, func(w io.Writer) { fmt.Fprintln(w, t.Secret) })
	})
	cmd.Example = "  holdfast token create \"nightly tests\" --role test-operator:erp --expire 90d > token && chmod 600 token"
	cmd.Flags().StringArrayVar(&roles, "role", nil, "what it may at most: ROLE, or ROLE:FOLDER (repeatable)")
	cmd.Flags().StringVar(&expire, "expire", "90d", "how long it is good")
	return cmd
}

func newApprovalCommand() *cobra.Command {
	decide := func(use, short string, v auth.Verdict) *cobra.Command {
		return managed(use, short, []string{"ID"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			var a auth.Approval
			if err := c.Call(cmd.Context(), http.MethodPost, "/approvals/"+url.PathEscape(args[0])+"/verdict", nil, map[string]any{"verdict": v}, &a); err != nil {
				return err
			}
			return print(cmd, a, func(w io.Writer) { fmt.Fprintf(w, "%s of %s %s\n", a.Operation, a.Subject, a.Verdict) })
		})
	}
	list := managed("list", "List what a second person was asked for", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		all, err := listAll[auth.Approval](cmd, c, "/approvals", nil)
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "ID\tSUBJECT\tOPERATION\tASKED BY\tUNTIL\tVERDICT\tBY")
			for _, a := range all {
				verdict := string(a.Verdict)
				if a.UsedAt > 0 {
					verdict = "used"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, a.Subject, a.Operation, a.AskedBy, at(a.ExpiresAt), orDash(verdict), orDash(a.DecidedBy))
			}
		})
	})
	return group("approval", "Be the second person of a real run", list,
		decide("approve", "Approve", auth.Approved), decide("refuse", "Refuse", auth.Refused))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newSecretCommand() *cobra.Command {
	var file string
	put := managed("put", "Store a credential under a name, in place of what was there", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		word, err := "", error(nil)
		if file == askHere {
			word, err = askOn(cmd).passphrase(file, "secret "+args[0], true)
		} else {
			word, err = readSecret(file)
		}
		if err != nil {
			return err
		}
		return c.Call(cmd.Context(), http.MethodPut, "/secrets/"+url.PathEscape(args[0]), nil, map[string]any{"value": word}, nil)
	})
	put.Flags().StringVar(&file, "file", askHere, "file of mode 0600 with the credential, as AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…, a line each; - asks for one of one line")
	list := managed("list", "List which credentials are stored: nothing shows what they are", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		type secret struct {
			Name      string `json:"name"`
			Version   int64  `json:"version"`
			ChangedBy string `json:"changed_by"`
			ChangedAt int64  `json:"changed_at"`
		}
		all, err := listAll[secret](cmd, c, "/secrets", nil)
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "NAME\tVERSION\tCHANGED\tBY")
			for _, s := range all {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", s.Name, s.Version, at(s.ChangedAt), s.ChangedBy)
			}
		})
	})
	return group("secret", "Store credentials at a manager, sealed", list, put,
		managed("delete", "Delete a credential", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodDelete, "/secrets/"+url.PathEscape(args[0]), nil, nil, nil)
		}),
		managed("rotate", "Seal everything under a new key; back the manager's key file up afterwards", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodPost, "/secret-keys/rotate", nil, nil, nil)
		}))
}
