package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

func id(n byte) (u dr.UUID) { u[15] = n; return u }

// everything is a spec that uses all the command line can say.
func everything() *hypervisor.Spec {
	disks := []dr.VMDisk{
		{ID: dr.DiskID{UUID: id(1)}, Name: "system", Size: 1 << 30, Bus: "virtio"},
		{ID: dr.DiskID{UUID: id(2)}, Name: "data", Size: 1 << 30, Bus: "scsi"},
		{ID: dr.DiskID{UUID: id(3)}, Name: "logs", Size: 1 << 30, Bus: "scsi"},
		{ID: dr.DiskID{UUID: id(4)}, Name: "fast", Size: 1 << 30, Bus: "nvme"},
		{ID: dr.DiskID{UUID: id(5)}, Name: "old", Size: 1 << 30, Bus: "ide"},
	}
	return &hypervisor.Spec{
		Config: dr.VMConfig{
			ID: dr.VMID{UUID: id(9)}, Name: `db,readonly=on"`, CPUs: 2, MemoryMiB: 512, Machine: "q35", Firmware: "bios",
			Disks: disks,
			NICs: []dr.NIC{
				{MAC: "52:54:00:00:00:01", Model: "virtio-net-pci", Network: "front"},
				{MAC: "52:54:00:00:00:02", Model: "e1000", Network: "back"},
				{MAC: "52:54:00:00:00:03", Model: "e1000", Network: "back"},
			},
		},
		Sources: map[dr.DiskID]hypervisor.Source{
			disks[0].ID: {Socket: "/run/f,oo.sock", Export: "vm/system"},
			disks[1].ID: {Path: `/srv/a,b".raw`}, disks[2].ID: {Path: "/srv/c.raw"},
			disks[3].ID: {Path: "/srv/d.raw"}, disks[4].ID: {Path: "/srv/e.raw"},
		},
		StartOptions: hypervisor.StartOptions{
			Accelerator: hypervisor.TCG, Serial: true, ExitOnReset: true, Direct: true, Agent: true,
			Networks: map[string]hypervisor.Network{"front": {Kind: hypervisor.User}, "back": {Kind: hypervisor.Isolated}},
		},
	}
}

func TestCommandLine(t *testing.T) {
	spec := everything()
	if err := spec.Check(); err != nil {
		t.Fatal(err)
	}
	args, err := (&commandLine{spec: spec, dir: "/run/x,y"}).build()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "command-line.golden")
	got := strings.Join(args, "\n") + "\n"
	if os.Getenv("HOLDFAST_REWRITE") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s(HOLDFAST_REWRITE=1 rewrites %s)", got, want, golden)
	}
}

func TestCommandLineRefuses(t *testing.T) {
	long := "/" + strings.Repeat("x", maxSocketPath)
	for name, c := range map[string]struct {
		spoil func(*hypervisor.Spec)
		want  string
	}{
		"machine":       {func(s *hypervisor.Spec) { s.Config.Machine = "pc,accel=kvm" }, "machine type"},
		"network card":  {func(s *hypervisor.Spec) { s.Config.NICs[0].Model = "ne2k_pci" }, "network card"},
		"socket's path": {func(s *hypervisor.Spec) { s.Sources[s.Config.Disks[0].ID] = hypervisor.Source{Socket: long} }, "at most 107"},
		"ide disks": {func(s *hypervisor.Spec) {
			s.Config.Machine = "pc"
			for i := range s.Config.Disks {
				s.Config.Disks[i].Bus = "ide"
			}
		}, "room for 4"},
	} {
		spec := everything()
		c.spoil(spec)
		_, err := (&commandLine{spec: spec, dir: "/run"}).build()
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want kind invalid and %q", name, err, c.want)
		}
	}
	if _, err := (&commandLine{spec: everything(), dir: long}).build(); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("long directory: %v, want kind invalid and a remedy", err)
	}
}

func TestVariableStoreIsCopied(t *testing.T) {
	run, vars := t.TempDir(), filepath.Join(t.TempDir(), "VARS.fd")
	if err := os.WriteFile(vars, []byte("template"), 0o444); err != nil {
		t.Fatal(err)
	}
	path, err := copyVars(hypervisor.Firmware{Vars: vars}, run)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "template" || filepath.Dir(path) != run {
		t.Errorf("variable store at %s holds %q, %v", path, b, err)
	}
}

func TestTail(t *testing.T) {
	var w tail
	for range 3 {
		w.Write([]byte("begin " + strings.Repeat("x", stderrTail) + " end\n"))
	}
	if s := w.String(); len(s) > stderrTail || !strings.HasSuffix(s, " end") || strings.Contains(s, "begin") {
		t.Errorf("kept %d bytes, ending %q", len(s), s[max(0, len(s)-10):])
	}
}

// TestKeptCommandLine: what a VM that is kept, seen and logged has besides.
func TestKeptCommandLine(t *testing.T) {
	spec := everything()
	spec.Keep, spec.WorkDir, spec.Serial, spec.SerialLog, spec.Screen = true, "/vms", true, "/vms/console, of=web.log", true
	args, err := (&commandLine{spec: spec, dir: "/run/x"}).build()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, " ")
	for _, want := range []string{
		"socket,id=adopt,server=on,wait=off,path=/run/x/adopt", "socket,id=monitor,server=on,wait=off,path=/run/x/monitor",
		"mode=control,chardev=adopt", "mode=control,chardev=monitor",
		"path=/run/x/serial,logappend=on,logfile=/vms/console,, of=web.log", `{"driver":"VGA","id":"screen"}`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	spec.Networks = map[string]hypervisor.Network{}
	for _, n := range spec.Config.NICs {
		spec.Networks[n.Network] = hypervisor.Network{Kind: hypervisor.Named, Name: "bubble"}
	}
	if _, err := (&commandLine{spec: spec, dir: "/run/x"}).build(); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Errorf("a named network: %v, want kind unavailable and a remedy", err)
	}
}
