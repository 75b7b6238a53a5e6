package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/control"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/pair"
)

// identity is who a manager is.
type identity struct {
	Site        string `json:"site"`
	Fingerprint string `json:"fingerprint"`
	Words       string `json:"words"`
	Address     string `json:"address,omitempty"`
	Authority   string `json:"authority"`
}

func newPairCommand() *cobra.Command {
	return group("pair", "Have the managers of two sites know each other", newPairList(), newPairInvite(), newPairAccept(), newPairConfirm(),
		managed("remove", "Un-pair; the other manager is told, if it answers", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodDelete, "/pairing/"+url.PathEscape(args[0]), nil, nil, nil)
		}),
		managed("identity", "Show this site's fingerprint, to be compared at the other one", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
			var id identity
			if err := c.Call(cmd.Context(), http.MethodGet, "/identity", nil, nil, &id); err != nil {
				return err
			}
			return print(cmd, id, func(w io.Writer) {
				fmt.Fprintf(w, "site\t%s\nfingerprint\t%s\nwords\t%s\naddress\t%s\n", id.Site, id.Fingerprint, id.Words, id.Address)
			})
		}))
}

func newPairList() *cobra.Command {
	return managed("list", "List the paired sites, with the status of both directions", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		all, err := listAll[pair.Pair](cmd, c, "/pairing", nil)
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "NAME\tSITE\tSTATUS\tTOOK OURS\tSENT ITS\tRELEASE\tADDRESS\tTO BE COMPARED")
			for _, p := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, orDash(string(p.PeerSite)), p.Status, at(p.OutOKAt), at(p.InAt), orDash(p.Release), orDash(p.Address), orDash(p.PresentedWords))
				if p.OutError != "" {
					fmt.Fprintf(w, "\t%s (%s)\n", p.OutError, p.OutRemedy)
				}
			}
		})
	})
}

func printToken(cmd *cobra.Command, c *api.Client, path string, in map[string]any) error {
	var t struct {
		Token string `json:"token"`
	}
	for name, v := range in {
		if v == "" { // not said: the manager's own
			delete(in, name)
		}
	}
	if err := c.Call(cmd.Context(), http.MethodPost, path, nil, in, &t); err != nil {
		return err
	}
	return print(cmd, t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
}

func newPairInvite() *cobra.Command {
	var address, good string
	cmd := managed("invite", "Make a token for the other site's admin", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		return printToken(cmd, c, "/pairing/invitations", map[string]any{"name": args[0], "address": address, "good": good})
	})
	cmd.Long = "Makes a token, good once, by which the manager of another site pairs with this one, or pairs again\nafter its authority has changed. NAME is what the pair is called here."
	cmd.Flags().StringVar(&address, "address", "", "where the other site reaches this manager (default: its own)")
	cmd.Flags().StringVar(&good, "good", "", "how long it is good (default 1h)")
	return cmd
}

func newPairAccept() *cobra.Command {
	var file, address string
	cmd := managed("accept", "Use the other site's token; then have its admin confirm", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		token, err := askOn(cmd).passphrase(file, "token", false)
		if err != nil {
			return err
		}
		in := map[string]any{"name": args[0], "token": token}
		if address != "" {
			in["address"] = address
		}
		var p pair.Pair
		if err := c.Call(cmd.Context(), http.MethodPost, "/pairing/accept", nil, in, &p); err != nil {
			return err
		}
		var id identity
		if err := c.Call(cmd.Context(), http.MethodGet, "/identity", nil, nil, &id); err != nil {
			return err
		}
		return print(cmd, p, func(w io.Writer) {
			fmt.Fprintf(w, "site %s is trusted here. Have its admin compare, and confirm:\n  %s\n  %s\n", p.PeerSite, id.Fingerprint, id.Words)
		})
	})
	cmd.Flags().StringVar(&file, "token-from", askHere, "file of mode 0600 with the other site's token; - asks")
	cmd.Flags().StringVar(&address, "address", "", "where the other site reaches this manager (default: its own)")
	return cmd
}

func newPairConfirm() *cobra.Command {
	var fingerprint string
	cmd := managed("confirm", "Trust the site that has used the token", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		if control.Words(fingerprint) == "" {
			return usageError{fmt.Errorf("--fingerprint: give the 64 digits that the other site's manager shows")}
		}
		var p pair.Pair
		if err := c.Call(cmd.Context(), http.MethodPost, "/pairing/"+url.PathEscape(args[0])+"/confirm", nil, map[string]any{"fingerprint": fingerprint}, &p); err != nil {
			return err
		}
		return print(cmd, p, func(w io.Writer) { fmt.Fprintf(w, "site %s is trusted\n", p.PeerSite) })
	})
	cmd.Long = "Trusts the site that has used the token of this pair, if it is the one whose fingerprint you give: the\none that its own manager shows (holdfast pair identity), and not one that this manager shows you."
	cmd.Flags().StringVar(&fingerprint, "fingerprint-of-peer", "", "what the other site's manager shows")
	return cmd
}

func newApplianceCommand() *cobra.Command {
	return group("appliance", "Enrol and look after boxes: DRVAs, host components, recovery appliances; run one", newApplianceJoin(), newApplianceRun(), newApplianceStatus(), newApplianceSeeds(), newBoxList(), newBoxInvite(),
		managed("revoke", "Have a box's certificate count no more at the manager", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodPost, "/enrolments/"+url.PathEscape(args[0])+"/revoke", nil, nil, nil)
		}),
		managed("remove", "Forget a box", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
			return c.Call(cmd.Context(), http.MethodDelete, "/enrolments/"+url.PathEscape(args[0]), nil, nil, nil)
		}), newBoxShow(), newBoxDrain())
}

func newBoxList() *cobra.Command {
	return managed("list", "List boxes, with their health", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		all, err := listAll[enrol.Box](cmd, c, "/enrolments", nil)
		if err != nil {
			return err
		}
		return print(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "NAME\tROLE\tSTATE\tHEALTH\tSEEN\tFROM\tRELEASE\tCLOCK\tCERTIFICATE UNTIL")
			for _, b := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%+d ms\t%s\n", b.Name, b.Role, b.State, b.Health, at(b.SeenAt), orDash(b.Remote), orDash(b.Release), b.SkewMS, at(b.CertUntil))
			}
		})
	})
}

func newBoxInvite() *cobra.Command {
	var role, manager, good string
	var addrs []string
	var replace bool
	cmd := managed("invite", "Make a token by which a box enrols", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		if addrs == nil {
			addrs = []string{}
		}
		return printToken(cmd, c, "/enrolments/invitations", map[string]any{"name": args[0], "role": role, "addresses": addrs, "manager": manager, "good": good, "replace": replace})
	})
	cmd.Example = "  holdfast appliance invite drva-1 --role drva --addr 10.0.0.5 > token\n  holdfast enrol join /etc/holdfast/tls --token-from token     # on the box"
	f := cmd.Flags()
	f.StringVar(&role, "role", "", "drva, iofilter or rocva")
	f.StringSliceVar(&addrs, "addr", nil, "host name or address others dial it by (repeatable; default: the one it comes from)")
	f.StringVar(&manager, "manager-address", "", "where the box reaches the manager (default: its own)")
	f.StringVar(&good, "good", "", "how long it is good (default 1h)")
	f.BoolVar(&replace, "replace", false, "the box that has the name is out when the new one joins")
	return cmd
}

func newEnrolCommand() *cobra.Command {
	return group("enrol", "On a box: become known to its site's manager, and stay so", newEnrolJoin(), newEnrolRun())
}

func newEnrolJoin() *cobra.Command {
	var file, id string
	cmd := &cobra.Command{
		Use:   "join DIR",
		Short: "Enrol this box with a token, and make DIR its certificate directory",
		Long: `Dials the manager that made the token, which the fingerprint in the token proves,
and gets a certificate for a key made here. DIR is what the "tls" setting of the
box names. The token is good once.`,
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := askOn(cmd).passphrase(file, "token", false)
			if err != nil {
				return err
			}
			name, err := enrol.Join(cmd.Context(), token, args[0], id, Version)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "enrolled as %s; certificate in %s\n", name, args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "token-from", askHere, "file of mode 0600 with the token; - asks")
	cmd.Flags().StringVar(&id, "host-id", "", "of a host component: its id")
	return cmd
}

func newEnrolRun() *cobra.Command {
	return &cobra.Command{
		Use:   "run DIR",
		Short: "Tell the manager that this box lives, and renew its certificate, until stopped",
		Args:  exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			return (&enrol.Agent{Dir: args[0], Release: Version, Logger: log}).Run(cmd.Context())
		},
	}
}
