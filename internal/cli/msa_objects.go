package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/file"
)

func newGetCommand() *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "List what is configured at a manager",
		Long: `Lists the objects of a kind: ` + strings.Join(kindNames(), ", ") + `.
With -o yaml, they are written as a file that holdfast apply takes back.`,
		Example: `  holdfast get domains
  holdfast get plan erp -o yaml > erp.yaml`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				var objects []api.Object
				if len(args) == 2 {
					o, err := c.GetObject(cmd.Context(), k, api.Name(args[1]))
					if err != nil {
						return err
					}
					objects = append(objects, o)
				} else if objects, err = c.ListObjects(cmd.Context(), k, api.Ref(folder)); err != nil {
					return err
				}
				return printObjects(cmd, objects)
			})
		},
	}
	cmd.Flags().StringVar(&folder, "folder", "", "only what is in this folder and below")
	addManagerFlags(cmd)
	return cmd
}

// printObjects prints objects; as YAML they are a file.
func printObjects(cmd *cobra.Command, objects []api.Object) error {
	if format, _ := cmd.Flags().GetString("output"); format == "yaml" {
		text, err := file.Export(objects)
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		return err
	}
	if objects == nil {
		objects = []api.Object{}
	}
	return print(cmd, objects, func(w io.Writer) {
		if len(objects) > 0 {
			fmt.Fprintln(w, "NAME\tFOLDER\t"+strings.Join(columnsOf(objects[0], true), "\t")+"\tVERSION\tTITLE")
		}
		for _, o := range objects {
			h := o.Head()
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", h.Name, dash(string(h.Folder)), strings.Join(columnsOf(o, false), "\t"), h.Version, h.Title)
		}
	})
}

// columnsOf is what a list shows of an object, or the heads of it.
func columnsOf(o api.Object, heads bool) []string {
	pick := func(head []string, values ...string) []string {
		if heads {
			return head
		}
		for i, v := range values {
			values[i] = dash(v)
		}
		return values
	}
	switch o := o.(type) {
	case *api.Site:
		return pick([]string{"PLATFORM", "MANAGER"}, string(o.Platform), o.Manager)
	case *api.SitePair:
		return pick([]string{"LOCAL", "PEER", "TRUST"}, string(o.Local), string(o.Peer), string(o.Trust))
	case *api.Store:
		return pick([]string{"URL", "SITE", "LOCK"}, o.URL, string(o.Site), o.Lock)
	case *api.Appliance:
		return pick([]string{"ROLE", "SITE", "ADDRESS"}, string(o.Role), string(o.Site), o.Address)
	case *api.Domain:
		return pick([]string{"FROM", "TO", "VMS", "STORES"}, string(o.From), string(o.To), fmt.Sprint(len(o.VMs)), join(o.Stores))
	case *api.Mappings:
		return pick([]string{"FROM", "TO"}, string(o.From), string(o.To))
	case *api.RecoverySettings:
		return pick([]string{"SITE", "VM"}, string(o.Site), string(o.VM))
	case *api.Plan:
		return pick([]string{"FROM", "TO", "DOMAINS"}, string(o.From), string(o.To), join(o.Domains))
	}
	return nil
}

func join(names []api.Name) string {
	words := make([]string, len(names))
	for i, n := range names {
		words[i] = string(n)
	}
	return strings.Join(words, ",")
}

func newDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe KIND NAME",
		Short: "Show everything about one object of a manager",
		Args:  exactArgs("KIND", "NAME"), ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				o, err := c.GetObject(cmd.Context(), k, api.Name(args[1]))
				if err != nil {
					return err
				}
				return print(cmd, o, func(w io.Writer) {
					if text, err := file.Render(o); err == nil {
						w.Write(text) //nolint:errcheck // the flush tells
					}
				})
			})
		},
	}
	addManagerFlags(cmd)
	return cmd
}

func newDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete KIND NAME…",
		Short: "Delete objects of a manager",
		Long: `Deletes objects by name. One that others name is not deleted; one that is gone
already is no error. Deleting a domain does not delete its container.`,
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			if !yes && !confirm(cmd, fmt.Sprintf("Delete %s %s?", k, strings.Join(args[1:], ", "))) {
				return errs.New("delete", errs.Canceled, string(k), "nobody has confirmed it").WithRemedy("give --yes")
			}
			return withManager(cmd, func(c *api.Client) error {
				for _, n := range args[1:] {
					if err := c.DeleteObject(cmd.Context(), k, api.Name(n)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	addManagerFlags(cmd)
	return cmd
}
