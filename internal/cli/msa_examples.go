package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// managerExamples are what commands that talk to a manager and have no description
// of their own show in their help: the command, and what follows it.
var managerExamples = []struct{ command, rest string }{
	{"alarm ack", `rpo-missed "domain erp" --note "the link is being mended"`},
	{"alarm codes", ""},
	{"alarm events", "-o json"},
	{"alarm list", "--all"},
	{"appliance drain", "drva-1"},
	{"appliance list", ""},
	{"appliance remove", "drva-1"},
	{"appliance revoke", "drva-1"},
	{"appliance show", "drva-1"},
	{"approval approve", "ID"},
	{"approval list", ""},
	{"approval refuse", "ID"},
	{"audit check", "audit.jsonl"},
	{"audit export", "audit.jsonl"},
	{"audit list", `--by ann --object "plan erp"`},
	{"describe", "domain erp"},
	{"diff", "-f site-a.yaml"},
	{"domain list", ""},
	{"domain status", "erp"},
	{"draft commit", "ID"},
	{"draft discard", "ID"},
	{"draft list", ""},
	{"draft new", "plan erp-2 --from erp"},
	{"draft save", "ID -f erp.yaml"},
	{"draft show", "ID"},
	{"draft validate", "ID"},
	{"enrol run", "/var/lib/holdfast/drva"},
	{"inventory placeholders", "-o json"},
	{"inventory repair", "site-b"},
	{"inventory show", "site-a"},
	{"inventory sites", ""},
	{"inventory vm", "site-a erp-db"},
	{"inventory vms", "site-a --folder erp --running yes"},
	{"logins", ""},
	{"outlet delete", "pager"},
	{"outlet list", ""},
	{"outlet show", "pager"},
	{"outlet test", "pager"},
	{"pair accept", "site-b --token-from /etc/holdfast/site-b.token"},
	{"pair identity", ""},
	{"pair list", ""},
	{"pair remove", "site-b"},
	{"plan answer", "erp 12 continue"},
	{"plan ask", "erp disaster"},
	{"plan cancel", "erp"},
	{"plan history", "erp"},
	{"plan preview", "erp planned"},
	{"plan prompts", ""},
	{"plan ready", "erp"},
	{"plan resume", "erp"},
	{"plan skip", "erp 12"},
	{"plan status", "erp"},
	{"run notes", `ID --text "asked for by the auditors"`},
	{"run report", "ID --format csv"},
	{"run show", "ID"},
	{"run wait", "ID"},
	{"secret delete", "azure-west"},
	{"secret list", ""},
	{"secret put", "azure-west --file /etc/holdfast/azure-west.key"},
	{"secret rotate", ""},
	{"site-key", ""},
	{"stats metrics", ""},
	{"stats objects", "rpo_ms"},
	{"stats prometheus", ""},
	{"stats show", `rpo_ms "domain erp" --last 24h`},
	{"support-bundle", "holdfast-support.tar.gz"},
	{"task cancel", "ID"},
	{"task list", "--limit 10"},
	{"task show", "ID"},
	{"task wait", "ID"},
	{"token list", "--user ann"},
	{"token revoke", "ID"},
	{"user delete", "ann"},
	{"user end-sessions", "ann"},
	{"user list", ""},
	{"user me", ""},
	{"user password", "ann"},
	{"user roles", ""},
	{"user set", "ann --role runner:erp"},
}

// addExamples puts the examples where they belong.
func addExamples(root *cobra.Command) {
	for _, e := range managerExamples {
		words := strings.Fields(e.command)
		cmd, _, err := root.Find(words)
		if err != nil || cmd == root {
			continue // the test of all help finds it
		}
		cmd.Example = "  holdfast " + e.command
		if e.rest != "" {
			cmd.Example += " " + e.rest
		}
	}
}
