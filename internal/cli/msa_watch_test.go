package cli

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/site"
)

// withFake has a manager look at its site's platform.
func withFake(o *replica.Options) {
	o.Platform = func(s *site.Site) (inventory.Provider, error) { return openInventory(s, slog.New(slog.DiscardHandler)) }
}

// until runs a command until it says something.
func (m *managerRig) until(want string, args ...string) string {
	m.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; <-time.After(20 * time.Millisecond) {
		out, _ := m.want(exitOK, args...)
		if strings.Contains(out, want) {
			return out
		}
		if time.Now().After(end) {
			m.t.Fatalf("holdfast %s does not say %q: %s", strings.Join(args, " "), want, out)
		}
	}
}

// TestWatchingCommands: inventories, alarms, outlets and statistics by the commands for
// them, against a manager that looks at a platform.
func TestWatchingCommands(t *testing.T) {
	m := newManagerRig(t, withFake)
	m.want(exitOK, "apply", "-f", m.file("site.yaml", "apiVersion: holdfast/v1\nkind: site\nname: site-a\nplatform: fake\nendpoints: ['fake:///12']\n"))
	m.until("site-a  12   12       0             20", "inventory", "sites")
	for args, want := range map[string]string{
		"inventory vms site-a --folder erp --limit 2":  "vm-00003",
		"inventory vms site-a --name 00007 -o json":    `"ref": "vm-00007"`,
		"inventory vms site-a --running no":            "NAME",
		"inventory vm site-a vm-00001":                 "card 0",
		"inventory show site-a":                        "datastore  flash",
		"inventory placeholders --site site-a -o json": "[]",
		"inventory repair site-a":                      "0 placeholders",
		"alarm list --exit-code":                       "SEVERITY",
		"alarm codes":                                  "rpo-missed",
		"alarm events -o yaml":                         "",
		"stats metrics":                                "put_ms",
		"stats objects rpo_ms":                         "",
		"stats prometheus":                             `holdfast_vms{site="site-a",state="running"} 12`,
		"outlet list":                                  "NAME",
	} {
		if out, _ := m.want(exitOK, strings.Fields(args)...); !strings.Contains(out, want) {
			t.Errorf("holdfast %s: %q lacks %q", args, out, want)
		}
	}
	if out, _ := m.want(exitOK, "stats", "show", "rpo_ms", "domain erp", "--last", "24h"); !strings.Contains(out, "MEAN") {
		t.Errorf("stats show says %q", out)
	}
	m.want(exitOK, strings.Fields("outlet put hook --sort webhook --address http://127.0.0.1:1/hook --severity error --code store-away")...)
	m.want(exitOK, "outlet", "put", "hook", "--off")
	out, _ := m.want(exitOK, "outlet", "show", "hook", "-o", "json")
	var o []api.OutletState
	if err := json.Unmarshal([]byte(out), &o); err != nil || !o[0].Off || o[0].Least != "error" || o[0].Version != 2 || len(o[0].Codes) != 1 {
		t.Errorf("the outlet: %s, %v", out, err)
	}
	m.want(exitOK, "outlet", "test", "hook")
	m.want(exitOK, "outlet", "delete", "hook")
	m.want(exitNotFound, "outlet", "show", "hook")
	m.want(exitNotFound, "alarm", "ack", "store-away", "west")
	m.want(exitNotFound, "inventory", "show", "nowhere")
	m.want(exitOK, "support-bundle", m.path("bundle.tar.gz"))
	if fi, err := os.Stat(m.path("bundle.tar.gz")); err != nil || fi.Mode().Perm()&0o077 != 0 || fi.Size() == 0 {
		t.Errorf("the bundle: %v, %v", fi, err)
	}
}

// TestScanCommand: what one manager kept in a container, another one imports; nothing
// of the first is needed.
func TestScanCommand(t *testing.T) {
	m := newManagerRig(t, withFake, func(o *replica.Options) { o.OpenStore = openManagedStore })
	store, key := "file://"+m.path("store"), m.path("recovery.key")
	recipient := must(t, "key", "new", key)
	must(t, "domain", "create", store+"/empty", "--quick", "--name", "empty", "--recipient", recipient)
	files := strings.Replace(siteFiles, "file:///srv/west", store, 1) + "---\n" + strings.Replace(erpFile, "[db, web]", "[vm-00001]\nrecipients: ["+recipient+"]", 1)
	m.want(exitOK, "apply", "-f", m.file("all.yaml", strings.Replace(files, "platform: fake", "platform: fake\nendpoints: ['fake:///5']", 1)))
	m.until("site-a  5", "inventory", "sites")
	p := &scan.Publisher{DB: m.r.DB, Store: m.r.Store, To: m.r.Fleet, Site: "site-a", Release: Version}
	for end := time.Now().Add(2 * time.Minute); ; <-time.After(20 * time.Millisecond) { // the manager's own publisher may be faster
		if err := p.Once(t.Context()); err != nil { // it makes the container, too
			t.Fatal(err)
		}
		if run(t.Context(), []string{"scan", store + "/erp", "--key", key}, io.Discard, io.Discard) == exitOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing is stored in the container")
		}
	}
	m.until("no DRVA of this site has room", "domain", "status", "erp")
	for args, want := range map[string]string{"domain list": "erp     site-a  created", "domain status erp -o json": `"container": "` + store + `/erp"`, "site-key": "age1"} {
		if out, _ := m.want(exitOK, strings.Fields(args)...); !strings.Contains(out, want) {
			t.Errorf("holdfast %s: %q lacks %q", args, out, want)
		}
	}
	m.want(exitNotFound, "domain", "status", "none")
	m.want(exitOK, "apply", "-f", m.file("drva.yaml", "apiVersion: holdfast/v1\nkind: appliance\nname: drva-1\nrole: drva\nsite: site-a\naddress: 127.0.0.1:7480\n"))
	m.want(exitOK, "appliance", "drain", "drva-1")
	if out, _ := m.want(exitOK, "appliance", "show", "drva-1"); !strings.Contains(out, "yes; to be let go of") {
		t.Errorf("a drained box is shown as %s", out)
	}
	m.want(exitOK, "appliance", "drain", "drva-1", "--off")
	fresh := newManagerRig(t)
	_, said := fresh.want(exitNotFound, "scan", store+"/empty", "--key", key)
	if !strings.Contains(said, "no manager has stored") {
		t.Errorf("an empty container: %s", said)
	}
	if out, _ := fresh.want(exitOK, "scan", store+"/erp", "--key", key); !strings.Contains(out, "erp     site-a") {
		t.Errorf("scan says %s", out)
	}
	out, _ := fresh.want(exitOK, "scan", store+"/erp", "--key", key, "--import")
	if !strings.Contains(out, "yes       domain erp") {
		t.Errorf("import says %s", out)
	}
	fresh.want(exitOK, "get", "domain", "erp")
	if out, _ := fresh.want(exitOK, "inventory", "vm", "site-a", "vm-00001"); !strings.Contains(out, "10.1.") {
		t.Errorf("the VM: %s", out)
	}
}

// TestBoxSocket: a host's boxes take the socket that it has itself.
func TestBoxSocket(t *testing.T) {
	for endpoint, want := range map[string]string{"": libvirt.DefaultSocket, "unix:///run/x": "/run/x", "unix:///run/forward?host=/run/own": "/run/own"} {
		for _, user := range []string{"host", "power", "recover"} {
			c, err := boxPlatform(site.Libvirt, strings.Fields(endpoint), user)
			if err != nil || c.Libvirt != want {
				t.Errorf("%s for %s: %q, %v", endpoint, user, c.Libvirt, err)
			}
		}
	}
}

// TestEndpoints: what a site's endpoints may be, by platform.
func TestEndpoints(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for text, ok := range map[string]bool{
		"libvirt": true, "libvirt unix:///run/x": true, "libvirt qemu+tls://h/system": false, "libvirt unix://h/x": false,
		"qemu": false, "qemu unix:///nowhere/x.qmp?agent=/nowhere/x.ga": true, "fake": true, "fake fake:///3": true, "fake fake:///x": false,
		"vsphere https://h": false, "azure https://h": false,
	} {
		words := strings.Fields(text)
		p, err := openInventory(&site.Site{Meta: site.Meta{Name: "a"}, Platform: site.Platform(words[0]), Endpoints: words[1:]}, log)
		if (err == nil) != ok || err != nil && (!errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "") {
			t.Errorf("%s: %v", text, err)
		}
		if p != nil {
			p.Close()
		}
	}
}

// TestPassphraseContainer: a container that was made by the command line, for a passphrase
// alone, is taken by a manager that is given that: the site's own key is added, and what
// the manager knows is stored and read by the passphrase again.
func TestPassphraseContainer(t *testing.T) {
	phrase := filepath.Join(t.TempDir(), "phrase.txt")
	if err := os.WriteFile(phrase, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lent, err := openers([]string{phrase}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newManagerRig(t, withFake, func(o *replica.Options) { o.OpenStore, o.Openers = openManagedStore, lent })
	store := "file://" + m.path("store")
	must(t, "domain", "create", store+"/erp", "--quick", "--name", "erp", "--passphrase-file", phrase)
	files := strings.Replace(siteFiles, "file:///srv/west", store, 1) + "---\n" + strings.Replace(erpFile, "[db, web]", "[vm-00001]", 1)
	m.want(exitOK, "apply", "-f", m.file("all.yaml", strings.Replace(files, "platform: fake", "platform: fake\nendpoints: ['fake:///5']", 1)))
	m.until("site-a  5", "inventory", "sites")
	p := &scan.Publisher{DB: m.r.DB, Store: m.r.Store, To: m.r.Fleet, Site: "site-a", Release: Version}
	for end := time.Now().Add(2 * time.Minute); ; <-time.After(20 * time.Millisecond) { // between questions; the answer decides
		if err := p.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if run(t.Context(), []string{"scan", store + "/erp", "--passphrase-file", phrase}, io.Discard, io.Discard) == exitOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing is stored in the container")
		}
	}
	key, _ := m.want(exitOK, "site-key")
	if out, _ := m.want(exitOK, "key", "list", store+"/erp", "--passphrase-file", phrase, "-o", "json"); !strings.Contains(out, strings.TrimSpace(key)) {
		t.Errorf("the site's key %s does not open it: %s", key, out)
	}
	if _, err := openers([]string{filepath.Join(t.TempDir(), "none")}, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("a passphrase that is not there: %v", err)
	}
	if _, err := openers(nil, []string{"nowhere://x"}); err == nil {
		t.Error("a key service that is none is taken")
	}
}
