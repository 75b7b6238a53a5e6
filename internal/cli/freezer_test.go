package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// agentVM is a VM whose agent is scripted.
type agentVM struct {
	hypervisor.LiveVM
	running     bool
	filesystems int // that a thaw finds frozen
	err         error
}

func (v *agentVM) Info(context.Context) (hypervisor.VMInfo, error) {
	return hypervisor.VMInfo{Running: v.running}, nil
}
func (v *agentVM) Freeze(context.Context, time.Duration) (int, error) { return v.filesystems, v.err }
func (v *agentVM) Thaw(context.Context) (int, error)                  { return v.filesystems, v.err }

func TestFreezerAsksTheAgent(t *testing.T) {
	id := dr.VMID{UUID: dr.NewUUID()}
	vm := &agentVM{running: true, filesystems: 2}
	f := newFreezer(nil, func(context.Context, dr.VMID) (hypervisor.LiveVM, error) { return vm, nil })
	if err := errors.Join(f.Freeze(t.Context(), id, time.Second), f.Thaw(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
	vm.filesystems = 0
	if err := f.Thaw(t.Context(), id); !errs.Is(err, errs.Conflict) {
		t.Errorf("a guest that had thawed by itself: %v", err)
	}
	vm.running = false
	if err := f.Freeze(t.Context(), id, time.Second); !errors.Is(err, iofilter.ErrExempt) {
		t.Errorf("powered off: %v", err)
	}
	if err := newFreezer(nil, nil).Freeze(t.Context(), id, time.Second); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Errorf("no hypervisor: %v", err)
	}
}

func TestFreezerRunsCommands(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	id := dr.VMID{UUID: dr.NewUUID()}
	out := filepath.Join(dir, "out")
	run := func(pre ...string) error {
		vm := iofilter.VM{Config: dr.VMConfig{ID: id}, Freeze: &iofilter.FreezeConfig{Pre: pre, Post: []string{"true"},
			Timeout: iofilter.Duration(500 * time.Millisecond)}}
		return newFreezer([]iofilter.VM{vm}, nil).Freeze(t.Context(), id, time.Second)
	}
	// No shell reads the words.
	if err := run(script("ok", `printf '%s|%s' "$1" "$HOLDFAST_VM" > `+out), "a b; $(rm)"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "a b; $(rm)|"+id.String() {
		t.Errorf("%q, %v", b, err)
	}
	err := run(script("bad", "echo the database says no; yes | head -c 100000; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "the database says no") || len(err.Error()) > maxScriptOutput+600 {
		t.Errorf("%d bytes: %.200s", len(err.Error()), err.Error())
	}
	began := time.Now()
	if err := run(script("slow", "sleep 600 & sleep 600")); !errs.Is(err, errs.Transient) {
		t.Errorf("slow: %v", err)
	}
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("a command that does not end took %v", d)
	}
	if err := run(filepath.Join(dir, "missing")); err == nil {
		t.Error("a command that is not there froze the guest")
	}
	exempt := iofilter.VM{Config: dr.VMConfig{ID: id}, Freeze: &iofilter.FreezeConfig{Exempt: true}}
	if err := newFreezer([]iofilter.VM{exempt}, nil).Freeze(t.Context(), id, time.Second); !errors.Is(err, iofilter.ErrExempt) {
		t.Errorf("exempt: %v", err)
	}
}

func TestDomainsOfOneProcess(t *testing.T) {
	list := func(d ...domainConfig) *drvaConfig { return &drvaConfig{Domains: d, LogPool: 700} }
	a := domainConfig{Container: "file:///a", Log: "/a", Priority: "high"}
	b := domainConfig{Container: "file:///b", Log: "/b", Priority: "low"}
	c := domainConfig{Container: "file:///c", Log: "/c"}
	all, err := list(a, b, c).each()
	if err != nil || len(all) != 3 || all[0].Quota != 400 || all[1].Quota != 100 || all[2].Quota != 200 {
		t.Fatalf("%+v, %v", all, err)
	}
	single := drvaConfig{domainConfig: a}
	if all, err := single.each(); err != nil || len(all) != 1 || all[0].Quota != defaultQuota || all[0].Log != "/a" {
		t.Errorf("the old form: %+v, %v", all, err)
	}
	both := list(a)
	both.Log = "/x"
	twice := a
	twice.Log = "/a/."
	bad := a
	bad.Priority = "urgent"
	for name, cfg := range map[string]*drvaConfig{"both forms": both, "one log twice": list(a, twice), "priority": list(bad), "no log": list(domainConfig{Container: "file:///d"})} {
		if _, err := cfg.each(); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, d := range map[string]domainConfig{"target": {RPOTarget: "soon"}, "compression": {Compression: "zip"}, "delay": {ThrottleDelay: "-1s"}} {
		if _, err := d.config(); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
