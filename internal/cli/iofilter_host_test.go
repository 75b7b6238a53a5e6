package cli

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

// TestTakeOverKeepsGuestsAttached: VMs protected by name stay attached, and
// seen, while one host component follows the other; the last takes them off.
func TestTakeOverKeepsGuestsAttached(t *testing.T) {
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
		Disks:  []hypervisor.LiveDisk{{Name: "vda", Path: disk, Format: "raw", Size: 1 << 20}},
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
		Live:     liveConfig{Sockets: dir, Record: filepath.Join(dir, "live.json"), Unwatch: true},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	process := func(begin func(*hostProcess) error) chan error {
		h := newHostProcess(slog.New(slog.DiscardHandler), &cfg, "", func(context.Context) (net.Conn, error) {
			return nil, errs.New("dial", errs.Unavailable, "drva", "nobody is there")
		})
		if err := begin(h); err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- h.run(ctx) }()
		return ran
	}
	ran := process(func(h *hostProcess) error { return h.start(ctx) })
	var out done
	for control.CallLocal(t.Context(), cfg.Status, "/ping", nil, &out) != nil && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	must(t, "protect", cfg.Status, "erp1")
	before, _ := vm.Attachment("vda")
	for range 3 {
		next := process(func(h *hostProcess) error { return h.succeed(ctx) })
		if err := <-ran; err != nil {
			t.Fatal(err)
		}
		ran = next
		if now, ok := vm.Attachment("vda"); !ok || now != before {
			t.Fatalf("attached to %v, not %v", now, before)
		}
		record, err := live.OpenRecord(durable.OS{}, cfg.Live.Record)
		if err != nil || len(record.Entries()) != 1 || record.Entries()[0].Disks[0].Unseen {
			t.Fatalf("record: %+v, %v", record.Entries(), err)
		}
		if code, _, stderr := call(t, "protect", cfg.Status, "erp1"); code != exitConflict {
			t.Fatalf("what is inherited is protected again: %d, %s", code, stderr)
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if _, ok := vm.Attachment("vda"); ok {
		t.Error("the guest was left with a dead socket")
	}
}

// TestPauseFile: pauses are kept beside what is written anyway.
func TestPauseFile(t *testing.T) {
	for want, c := range map[string]ioFilterConfig{
		"/etc/node1.json.paused": {},
		"/var/live.json.paused":  {Live: liveConfig{Record: "/var/live.json"}},
		"/mine":                  {Config: iofilter.Config{PauseFile: "/mine"}, Live: liveConfig{Record: "/var/live.json"}},
	} {
		c.pauseFile("/etc/node1.json")
		if c.PauseFile != want {
			t.Errorf("%s, not %s", c.PauseFile, want)
		}
	}
}
