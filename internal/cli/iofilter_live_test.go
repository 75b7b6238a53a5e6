package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

// listening is the scripted platform, which attaches whatever socket is there.
type listening struct {
	hypervisor.Platform
	hv *fake.Host
}

func (l *listening) VM(ctx context.Context, name string) (hypervisor.LiveVM, error) {
	vm, err := l.Platform.VM(ctx, name)
	return &listeningVM{vm, l.hv}, err
}

type listeningVM struct {
	hypervisor.LiveVM
	hv *fake.Host
}

func (v *listeningVM) Attach(ctx context.Context, disk string, a hypervisor.Attachment) (hypervisor.Switch, error) {
	_, err := os.Stat(a.Socket)
	v.hv.Listen(a.Socket, err == nil)
	return v.LiveVM.Attach(ctx, disk, a)
}

// TestProtectARunningVM by the commands, against a scripted hypervisor.
func TestProtectARunningVM(t *testing.T) {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := filepath.Join(dir, "a.raw")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	hv := &fake.Host{}
	vm := hv.Add(hypervisor.VMInfo{Running: true,
		Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "erp1", Disks: []dr.VMDisk{{Name: "vda"}}},
		Disks:  []hypervisor.LiveDisk{{Name: "vda", Path: disk, Format: "raw", Size: 1 << 20}, {Name: "cd", ReadOnly: true}},
	}, -1)
	other := filepath.Join(dir, "b.raw")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	second := hv.Add(hypervisor.VMInfo{Running: true,
		Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "erp2", Disks: []dr.VMDisk{{Name: "vda"}}},
		Disks:  []hypervisor.LiveDisk{{Name: "vda", Path: other, Format: "raw", Size: 1 << 20}},
	}, -1)
	qmp := platforms["qmp"]
	t.Cleanup(func() { platforms["qmp"] = qmp })
	platforms["qmp"] = func(context.Context, *platformConfig, *slog.Logger) (hypervisor.Platform, error) {
		return &listening{fake.NewPlatform(hv), hv}, nil
	}
	cfg := ioFilterConfig{
		Config:   iofilter.Config{Domain: dr.DomainID{UUID: dr.NewUUID()}, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "node1"},
		Status:   filepath.Join(dir, "s.sock"),
		Platform: platformConfig{QMP: []monitorConfig{{Socket: "x"}}},
		Live:     liveConfig{Sockets: dir, Record: filepath.Join(dir, "live.json")},
	}
	log := slog.New(slog.DiscardHandler)
	cfg.Live.Unwatch = true
	h := newHostProcess(log, &cfg, "", func(context.Context) (net.Conn, error) {
		return nil, errs.New("dial", errs.Unavailable, "drva", "nobody is there")
	})
	ctx, cancel := context.WithCancel(t.Context())
	if err := h.start(ctx); err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- h.run(ctx) }()
	var out done
	for control.CallLocal(t.Context(), cfg.Status, "/ping", nil, &out) != nil && t.Context().Err() == nil {
	}

	var rep live.Report
	if err := json.Unmarshal([]byte(must(t, "protect", cfg.Status, "erp1", "-o", "json")), &rep); err != nil || len(rep.Disks) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if _, ok := vm.Attachment("vda"); !ok {
		t.Fatal("nothing is attached")
	}
	if code, _, stderr := call(t, "protect", cfg.Status, "erp1"); code != exitConflict || !strings.Contains(stderr, "holdfast status") {
		t.Errorf("twice: %d, %s", code, stderr)
	}
	if code, _, _ := call(t, "protect", cfg.Status, "none"); code != exitNotFound {
		t.Errorf("a VM that is not there: %d", code)
	}
	if out := must(t, "status", cfg.Status); !strings.Contains(out, "disk erp1/vda") {
		t.Errorf("status:\n%s", out)
	}
	if out := must(t, "unprotect", cfg.Status, "erp1"); !strings.Contains(out, "not protected any more") {
		t.Errorf("unprotect:\n%s", out)
	}
	if _, ok := vm.Attachment("vda"); ok {
		t.Error("it is still attached")
	}
	// The same disk has the same id again, and nobody has told the DRVA yet that
	// it was taken out.
	if code, _, stderr := call(t, "protect", cfg.Status, "erp1"); code != exitConflict || !strings.Contains(stderr, "when the DRVA can be reached") {
		t.Errorf("again, before the DRVA knows: %d, %s", code, stderr)
	}
	must(t, "protect", cfg.Status, "erp2")
	if _, ok := second.Attachment("vda"); !ok {
		t.Fatal("the second VM is not attached")
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if _, ok := second.Attachment("vda"); ok {
		t.Error("the guest was left with a dead socket")
	}
}

func TestPlatformIsChosen(t *testing.T) {
	both := platformConfig{QMP: []monitorConfig{{Socket: "b"}}, Libvirt: "/x"}
	if _, err := openPlatform(t.Context(), &both, slog.New(slog.DiscardHandler)); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("two platforms: %v", err)
	}
	if !both.isSet() || (&platformConfig{}).isSet() {
		t.Error("nothing is something")
	}
}
