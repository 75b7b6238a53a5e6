package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/msa/scan"
)

// managerCommand is a command that asks a manager.
func managerCommand(use, short string, args []string, f func(cmd *cobra.Command, c *api.Client, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs(args...), RunE: func(cmd *cobra.Command, got []string) error {
		return withManager(cmd, func(c *api.Client) error { return f(cmd, c, got) })
	}}
	addManagerFlags(cmd)
	return cmd
}

func newInventoryCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "inventory", Short: "See what sites have: VMs, networks, folders, pools, datastores"}
	vms := managerCommand("vms SITE", "List a site's VMs, by name", []string{"SITE"}, listVMs)
	vms.Flags().String("folder", "", "filed there or below, at the platform")
	vms.Flags().String("name", "", "whose name contains this")
	vms.Flags().String("running", "", "yes or no")
	vms.Flags().Int("limit", 0, "at most so many (default: all)")
	places := managerCommand("placeholders", "List placeholders", nil, listPlaceholders)
	places.Flags().String("site", "", "at this site")
	places.Flags().String("domain", "", "of this domain")
	repair := managerCommand("repair SITE", "Have placeholders that failed tried again at once", []string{"SITE"}, func(cmd *cobra.Command, c *api.Client, args []string) error {
		domain, _ := cmd.Flags().GetString("domain")
		r, err := c.RepairPlaceholders(cmd.Context(), api.Repair{Site: api.Name(args[0]), Domain: api.Name(domain)})
		if err != nil {
			return err
		}
		return print(cmd, r, func(w io.Writer) { fmt.Fprintf(w, "%d placeholders are looked at\n", r.Placeholders) })
	})
	repair.Flags().String("domain", "", "of this domain alone")
	cmd.AddCommand(
		managerCommand("sites", "List sites, and how far their inventories can be believed", nil, listInventories),
		managerCommand("show SITE", "Show a site's hosts, networks, folders, pools and datastores", []string{"SITE"}, showInventory),
		vms,
		managerCommand("vm SITE VM", "Show a VM, by name or id", []string{"SITE", "VM"}, showVM),
		places, repair,
	)
	return cmd
}

func listInventories(cmd *cobra.Command, c *api.Client, _ []string) error {
	list, err := c.Inventories(cmd.Context())
	if err != nil {
		return err
	}
	return print(cmd, list, func(w io.Writer) {
		fmt.Fprintln(w, "SITE\tVMS\tRUNNING\tPLACEHOLDERS\tSEEN\tSTATE")
		for _, s := range list {
			seen, state := "-", "reached"
			if s.Seen != nil {
				seen = timeOf(*s.Seen)
			}
			switch {
			case s.Away != nil:
				state = "away since " + timeOf(*s.Away) + ": " + s.Words
			case s.Words != "":
				state = s.Words
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", s.Site, s.VMs, s.Running, s.Placeholders, seen, state)
		}
	})
}

func showInventory(cmd *cobra.Command, c *api.Client, args []string) error {
	inv, err := c.Inventory(cmd.Context(), api.Name(args[0]))
	if err != nil {
		return err
	}
	return print(cmd, inv, func(w io.Writer) {
		fmt.Fprintln(w, "WHAT\tNAME\tDETAIL")
		for _, h := range inv.Hosts {
			fmt.Fprintf(w, "host\t%s\t%d processors, %d MiB\n", h.Ref, h.CPUs, h.MemoryMiB)
		}
		for _, n := range inv.Networks {
			detail := fmt.Sprint(n.Subnets)
			if n.Isolated {
				detail += " isolated"
			}
			fmt.Fprintf(w, "network\t%s\t%s\n", n.Ref, detail)
		}
		for _, f := range inv.Folders {
			fmt.Fprintf(w, "folder\t%s\t\n", f.Ref)
		}
		for _, p := range inv.Pools {
			fmt.Fprintf(w, "pool\t%s\t%d processors, %d MiB\n", p.Ref, p.CPUs, p.MemoryMiB)
		}
		for _, d := range inv.Datastores {
			fmt.Fprintf(w, "datastore\t%s\t%d GiB, %d GiB free\n", d.Ref, d.Size>>30, d.Free>>30)
		}
	})
}

func listVMs(cmd *cobra.Command, c *api.Client, args []string) error {
	o := api.VMOptions{}
	folder, _ := cmd.Flags().GetString("folder")
	o.Folder = api.Ref(folder)
	o.Name, _ = cmd.Flags().GetString("name")
	o.Running, _ = cmd.Flags().GetString("running")
	limit, _ := cmd.Flags().GetInt("limit")
	all := []api.VM{}
	for {
		if o.Limit = 1000; limit > 0 {
			o.Limit = min(1000, limit-len(all))
		}
		page, err := c.VMs(cmd.Context(), api.Name(args[0]), o)
		if err != nil {
			return err
		}
		all = append(all, page.Items...)
		if o.Cursor = page.Next; o.Cursor == "" || limit > 0 && len(all) >= limit {
			break
		}
	}
	return print(cmd, all, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tID\tHOST\tFOLDER\tSTATE\tDISKS\tNETWORKS\tTAGS")
		for i := range all {
			vm := &all[i]
			var networks []string
			for _, n := range vm.NICs {
				networks = append(networks, string(n.Network))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", vm.Ref, vm.ID, dash(string(vm.Host)), dash(string(vm.Folder)), vmState(vm), len(vm.Disks),
				dash(strings.Join(networks, ",")), dash(strings.Join(vm.Tags, ",")))
		}
	})
}

// vmState says in a word what a VM is.
func vmState(vm *api.VM) string {
	switch {
	case !vm.PlaceholderFor.IsZero():
		return "placeholder"
	case vm.Running:
		return "running"
	}
	return "off"
}

func showVM(cmd *cobra.Command, c *api.Client, args []string) error {
	vm, err := c.VM(cmd.Context(), api.Name(args[0]), api.Ref(args[1]))
	if err != nil {
		return err
	}
	return print(cmd, vm, func(w io.Writer) {
		fmt.Fprintf(w, "name\t%s\nid\t%s\nstate\t%s\nhost\t%s\nfolder\t%s\npool\t%s\ntags\t%s\nprocessors\t%d\nmemory\t%d MiB\nguest agent\t%v\n", vm.Ref, vm.ID, vmState(&vm),
			dash(string(vm.Host)), dash(string(vm.Folder)), dash(string(vm.Pool)), dash(strings.Join(vm.Tags, ",")), vm.CPUs, vm.MemoryMiB, vm.Agent)
		if !vm.PlaceholderFor.IsZero() {
			fmt.Fprintf(w, "stands for\t%s\n", vm.PlaceholderFor)
		}
		for _, d := range vm.Disks {
			protected := ""
			if d.Protected {
				protected = ", protected"
			}
			fmt.Fprintf(w, "disk %s\t%d MiB on %s%s\n", d.Name, d.Size>>20, dash(string(d.Datastore)), protected)
		}
		for i, n := range vm.NICs {
			fmt.Fprintf(w, "card %d\t%s on %s %v\n", i, dash(n.MAC), dash(string(n.Network)), n.Addresses)
		}
	})
}

func listPlaceholders(cmd *cobra.Command, c *api.Client, _ []string) error {
	at, _ := cmd.Flags().GetString("site")
	domain, _ := cmd.Flags().GetString("domain")
	list, err := c.Placeholders(cmd.Context(), api.Name(at), api.Name(domain))
	if err != nil {
		return err
	}
	return print(cmd, list, func(w io.Writer) {
		fmt.Fprintln(w, "SITE\tNAME\tSTATE\tDOMAIN\tVM\tFOLDER\tERROR")
		for _, p := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Site, p.Name, p.State, p.Domain, p.VM, dash(string(p.Folder)), dash(p.Error))
		}
	})
}

// scanned is what was found in a container.
type scanned struct {
	URL      string `json:"url"`
	Domain   string `json:"domain"`
	Site     string `json:"site,omitempty"`
	At       string `json:"at,omitempty"`
	VMs      int    `json:"vms"`
	Objects  int    `json:"objects"`
	Error    string `json:"error,omitempty"`
	document []byte
	failed   error
}

func newScanCommand() *cobra.Command {
	var id identityFlags
	var doImport bool
	cmd := &cobra.Command{
		Use:   "scan URL…",
		Short: "See what managers have stored in containers, and import it at a manager",
		Long: `Opens containers and shows what the manager of the lost site knew of their domains:
sites, stores, the domain, mappings, recovery settings, plans, and the VMs.
With --import, the manager you are logged in at takes it over: objects that are not
there are made; what is there stays as it is, and is told. Secrets are in no container:
store the credentials of the stores again. Nothing of the lost site is needed.`,
		Example: `  holdfast scan s3://backup.example.com/dr/erp --key recovery.key
  holdfast scan s3://…/erp s3://…/web --key recovery.key --import`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, urls []string) error {
			if len(urls) > scan.MaxDocuments {
				return usageError{fmt.Errorf("at most %d containers at once", scan.MaxDocuments)}
			}
			var found []scanned
			var first error
			for _, u := range urls {
				s := scanOne(cmd, u, &id)
				if s.failed != nil && first == nil {
					first = s.failed
				}
				found = append(found, s)
			}
			if err := print(cmd, found, func(w io.Writer) { printScanned(w, found) }); err != nil || first != nil || !doImport {
				if err == nil {
					err = first
				}
				return err
			}
			return withManager(cmd, func(c *api.Client) error { return importScanned(cmd, c, found) })
		},
	}
	id.add(cmd)
	cmd.Flags().BoolVar(&doImport, "import", false, "import it at the manager you are logged in at")
	addManagerFlags(cmd)
	return cmd
}

// scanOne reads one container.
func scanOne(cmd *cobra.Command, url string, id *identityFlags) (s scanned) {
	s.URL = url
	c, err := openContainer(cmd.Context(), url, id)
	if err == nil {
		s.Domain = c.Domain().Name
		var d *scan.Document
		if d, err = scan.Read(cmd.Context(), c); err == nil {
			s.Domain, s.Site, s.At, s.VMs = string(d.Domain), string(d.Site), timeOf(d.At), len(d.Inventory.VMs)
			objects, perr := d.Parse()
			s.Objects = len(objects)
			if err = perr; err == nil {
				s.document, err = d.Encode()
			}
		}
	}
	if err != nil {
		s.Error, s.failed = err.Error(), err
	}
	return s
}

func printScanned(w io.Writer, found []scanned) {
	fmt.Fprintln(w, "CONTAINER\tDOMAIN\tSITE\tKNOWN AT\tVMS\tOBJECTS\tERROR")
	for _, s := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", s.URL, dash(s.Domain), dash(s.Site), dash(s.At), s.VMs, s.Objects, dash(s.Error))
	}
}

func importScanned(cmd *cobra.Command, c *api.Client, found []scanned) error {
	var docs [][]byte
	for _, s := range found {
		docs = append(docs, s.document)
	}
	out, err := c.Import(cmd.Context(), docs...)
	if err != nil {
		return err
	}
	printFaults(cmd.ErrOrStderr(), out.Faults)
	return print(cmd, out, func(w io.Writer) {
		fmt.Fprintln(w, "\nIMPORTED\tOBJECT\tWHY NOT")
		for _, ch := range out.Changes.All {
			fmt.Fprintf(w, "yes\t%s %s\t\n", ch.Kind, ch.Name)
		}
		for _, l := range out.Left {
			fmt.Fprintf(w, "no\t%s %s\t%s\n", l.Kind, l.Name, l.Why)
		}
	})
}
