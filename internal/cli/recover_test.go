package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"holdfast/internal/hypervisor"
	"holdfast/internal/recovery"
)

func TestParseOverrides(t *testing.T) {
	got, err := parseOverrides([]string{"erp1:cpus=2,memory=4096,network.lan=dr", "erp1:name=erp1-dr", "db:cpus=8"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]recovery.Override{
		"erp1": {Name: "erp1-dr", CPUs: 2, MemoryMiB: 4096, Networks: map[string]string{"lan": "dr"}},
		"db":   {CPUs: 8},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "erp1", "erp1:", "erp1:cpus", "erp1:cpus=", "erp1:cpus=two", "erp1:disks=3", ":cpus=1"} {
		if _, err := parseOverrides([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseNetworks(t *testing.T) {
	got, err := parseNetworks([]string{"lan=isolated", "wan=user", "dmz=br-dr"})
	if err != nil {
		t.Fatal(err)
	}
	if got["lan"].Kind != hypervisor.Isolated || got["wan"].Kind != hypervisor.User || got["dmz"] != (hypervisor.Network{Kind: hypervisor.Named, Name: "br-dr"}) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "lan", "=user", "lan="} {
		if _, err := parseNetworks([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestRecoverRefusals: what is wrong is said before anything is made, with exit
// code and remedy.
func TestRecoverRefusals(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "k")
	must(t, "key", "new", key)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"recover", "test", "file:///x"}, exitUsage, "takes 2 argument(s)"},
		{[]string{"recover", "test", "file:///x", dir + "/t"}, exitUsage, "the container is encrypted"},
		{[]string{"recover", "planned", "file:///x", dir + "/t", "--key", key}, exitUsage, "--source-drva"},
		{[]string{"recover", "disaster", "file:///x", dir + "/t", "--key", key, "--auto", "commit"}, exitUsage, "a time after which it is taken"},
		{[]string{"recover", "disaster", "file:///x", dir + "/t", "--key", key, "--mode", "soon"}, exitUsage, "none of instant, full and warm"},
		{[]string{"recover", "test", "file:///x", filepath.Join(dir, strings.Repeat("d", 100)), "--key", key}, exitUsage, "shorter name"},
		{[]string{"recover", "failback", "file:///x", dir + "/t", "--key", key, "--from-run", "/b", "--onto", "x=y"}, exitUsage, "DISK-ID=PATH"},
		{[]string{"recover", "status", dir}, exitNotFound, "there is no recovery in this directory"},
		{[]string{"recover", "commit", dir}, exitNotFound, "recover list"},
		{[]string{"recover", "cancel", dir}, exitNotFound, "there is no recovery"},
		{[]string{"recover", "report", dir}, exitNotFound, "there is no recovery"},
	} {
		var out, errw bytes.Buffer
		if code := run(context.Background(), c.args, &out, &errw); code != c.code || !strings.Contains(errw.String(), c.want) {
			t.Errorf("%v: exit %d, want %d\n%s", c.args[:2], code, c.code, errw.String())
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("something was made: %v, %v", entries, err)
	}
	var out, errw bytes.Buffer
	if code := run(context.Background(), []string{"recover", "list", dir, "-o", "json"}, &out, &errw); code != exitOK || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("list: exit %d: %s%s", code, out.String(), errw.String())
	}
}
