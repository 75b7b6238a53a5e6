package cli

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/api"
)

func newSiteKeyCommand() *cobra.Command {
	return managed("site-key", "Show the public half of the key that opens the site's containers", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		k, err := c.SiteKey(cmd.Context())
		if err != nil {
			return err
		}
		return print(cmd, k, func(w io.Writer) { fmt.Fprintln(w, k.Recipient) })
	})
}

func newDomainList() *cobra.Command {
	return managed("list", "List the manager's domains, with how their protection stands", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		var all struct {
			Items []api.DomainStatus `json:"items"`
		}
		if err := c.Call(cmd.Context(), http.MethodGet, "/domain-statuses", nil, nil, &all); err != nil {
			return err
		}
		return print(cmd, all.Items, func(w io.Writer) {
			fmt.Fprintln(w, "DOMAIN\tAT\tSTATE\tRPO\tTARGET\tAPPLIANCE\tRECOVERY\tCAUSE")
			for i := range all.Items {
				d := &all.Items[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Domain, orDash(string(d.At)), d.State, rpoOf(d), orDash(zeroless(d.Target.String())), orDash(string(d.Box)), d.Failover, orDash(d.Cause))
			}
		})
	})
}

func newDomainStatus() *cobra.Command {
	return managed("status", "Show how the protection of a manager's domain stands, with its VMs", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		d, err := c.DomainStatus(cmd.Context(), api.Name(args[0]))
		if err != nil {
			return err
		}
		return print(cmd, d, func(w io.Writer) { printDomainStatus(w, &d) })
	})
}

// rpoOf is the age of the newest recovery point.
func rpoOf(d *api.DomainStatus) string {
	if d.Newest == nil {
		return "-"
	}
	return d.RPO.String()
}

func zeroless(text string) string {
	if text == "0s" {
		return ""
	}
	return text
}

func printDomainStatus(w io.Writer, d *api.DomainStatus) {
	fmt.Fprintf(w, "domain\t%s\nstate\t%s%s\n", d.Domain, d.State, suffix(d.Cause))
	if d.Remedy != "" {
		fmt.Fprintf(w, "what to do\t%s\n", d.Remedy)
	}
	fmt.Fprintf(w, "at\t%s\nappliance\t%s\nrecovery\t%s\n", orDash(string(d.At)), orDash(string(d.Box)), d.Failover)
	fmt.Fprintf(w, "container\t%s\nnewest point\t%s\n", orDash(d.URL), rpoOf(d))
	if d.Target != 0 {
		fmt.Fprintf(w, "promised\t%s\n", d.Target)
	}
	if len(d.Stores) > 1 {
		fmt.Fprintln(w, "\nSTORE\tSTATE\tNEWEST\tLAG\tCAUSE")
		for i := range d.Stores {
			s := &d.Stores[i]
			newest := "-"
			if s.Newest != nil {
				newest = timeOf(*s.Newest)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Store, orDash(s.State), newest, orDash(zeroless(s.Lag.String())), orDash(s.Cause))
		}
	}
	fmt.Fprintln(w, "\nVM\tHOST\tSTATE\tCAUSE")
	for i := range d.VMs {
		vm := &d.VMs[i]
		cause := vm.Cause
		if len(vm.Bare) > 0 {
			cause = strings.TrimSpace(cause + " not protected: " + strings.Join(vm.Bare, ", "))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", vm.Name, orDash(string(vm.Host)), orDash(vm.State), orDash(cause))
	}
}

func newBoxShow() *cobra.Command {
	return managed("show", "Show what an appliance is to be, and what of that it is not", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		b, err := c.BoxStatus(cmd.Context(), api.Name(args[0]))
		if err != nil {
			return err
		}
		return print(cmd, b, func(w io.Writer) { printStanding(w, &b) })
	})
}

func printStanding(w io.Writer, b *api.BoxStatus) {
	ready := "no"
	if b.Ready {
		ready = "yes"
	}
	fmt.Fprintf(w, "appliance\t%s\nrole\t%s\nhealth\t%s\nas it should be\t%s\ntold\t%s\ndomains\t%s\n", b.Name, b.Role, orDash(b.Health), ready, timeIf(b.Told), namesOf(b.Domains))
	if b.Draining {
		fmt.Fprintf(w, "draining\tyes; to be let go of: %s\n", namesOf(b.Leaving))
	}
	if len(b.Lives) > 0 {
		fmt.Fprintf(w, "recovered here\t%s\n", namesOf(b.Lives))
	}
	for _, p := range b.Problems {
		fmt.Fprintf(w, "problem\t%s: %s%s\n", p.Object, p.Words, suffix(p.Remedy))
	}
}

func timeIf(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return timeOf(*t)
}

func namesOf(list []api.Name) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = string(n)
	}
	return orDash(strings.Join(words, ", "))
}

func newBoxDrain() *cobra.Command {
	var off bool
	cmd := managed("drain", "Have the domains of a DRVA leave for others, and give it none", []string{"NAME"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		a, err := c.Appliances().Get(cmd.Context(), api.Name(args[0]))
		if err != nil {
			return err
		}
		a.Draining = !off
		_, err = c.Appliances().Put(cmd.Context(), a)
		return err
	})
	cmd.Long = "Has the domains of a DRVA leave for other DRVAs of the site, as long as these have room, and gives it\nnone: see holdfast appliance show. With --off it takes domains again."
	cmd.Flags().BoolVar(&off, "off", false, "it is not drained any more")
	return cmd
}
