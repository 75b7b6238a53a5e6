package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/errs"
)

func newCertCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make the certificates by which a site's boxes know each other",
	}
	cmd.AddCommand(newCertInit(), newCertIssue())
	return cmd
}

func newCertInit() *cobra.Command {
	var site string
	cmd := &cobra.Command{
		Use:     "init DIR",
		Short:   "Create a site's certificate authority in DIR",
		Example: "  holdfast cert init /etc/holdfast/ca --site berlin",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return control.InitAuthority(args[0], site)
		},
	}
	cmd.Flags().StringVar(&site, "site", "site", "name of the site, for people")
	return cmd
}

func newCertIssue() *cobra.Command {
	var ca, role string
	var names, addrs []string
	cmd := &cobra.Command{
		Use:   "issue OUT",
		Short: "Issue a box's certificate into the directory OUT",
		Long: `Issues a certificate for one box and writes it, its private key (mode 0600)
and the authority's certificate into the directory OUT, which is what the
"tls" setting of the box names.

A host component's name is its host id, a DRVA's the id of the domain it serves;
the other side checks it. A DRVA that serves several domains has a certificate
with the id of each: repeat --name.`,
		Example: `  holdfast cert issue drva-tls --ca ca --role drva --name 8f0c… --addr 10.0.0.5
  holdfast cert issue host1-tls --ca ca --role host --name 17aa…`,
		Args: exactArgs("OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := control.Role(role)
			if r != control.RoleHost && r != control.RoleDRVA {
				return usageError{fmt.Errorf("--role %q: choose host or drva", role)}
			}
			switch {
			case len(names) == 0 || slices.Contains(names, ""):
				return usageError{fmt.Errorf("--name is missing: the host's or the domain's id")}
			case r == control.RoleHost && len(names) > 1:
				return usageError{fmt.Errorf("--name: a host has one id, %d are given", len(names))}
			}
			if r == control.RoleDRVA && len(addrs) == 0 {
				return errs.New("cert issue", errs.Invalid, args[0], "a DRVA is dialled, so its certificate needs an address").
					WithRemedy("give --addr with the name or IP address hosts dial")
			}
			return control.IssueNames(ca, args[0], r, names, addrs)
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "ca", "directory of the authority")
	cmd.Flags().StringVar(&role, "role", "", "host or drva")
	cmd.Flags().StringSliceVar(&names, "name", nil, "the host's id, or the id of a domain the DRVA serves (then repeatable)")
	cmd.Flags().StringSliceVar(&addrs, "addr", nil, "name or IP address the box listens on (repeatable)")
	return cmd
}
