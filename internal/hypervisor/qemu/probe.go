package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

const (
	kvmDevice  = "/dev/kvm"
	bootIDFile = "/proc/sys/kernel/random/boot_id"
	// cacheName is the file under the cache directory that keeps the outcome.
	cacheName = "accelerator.json"
)

// probeResult is the outcome of a probe. It is true for one boot of the
// machine and one QEMU, which it names.
type probeResult struct {
	BootID      string                 `json:"boot_id"`
	Binary      string                 `json:"binary"`
	Modified    time.Time              `json:"modified"` // of Binary
	Accelerator hypervisor.Accelerator `json:"accelerator"`
	Why         string                 `json:"why"`
}

// Accelerator returns the accelerator to use here, and why in words. KVM is
// only believed after a trial boot, because a device node that is there may
// belong to a KVM that hangs or is slower than emulation. The outcome is kept
// for this boot of the machine; the first call takes up to some five seconds,
// later ones nothing. Kinds: Canceled; Unavailable when not even emulation boots.
func (p *Provider) Accelerator(ctx context.Context) (acc hypervisor.Accelerator, why string, err error) {
	select {
	case <-p.probing:
		defer func() { p.probing <- struct{}{} }()
	case <-ctx.Done():
		return "", "", errs.E("qemu.Accelerator", errs.Canceled, "", context.Cause(ctx))
	}
	if p.probed == nil {
		want := p.identity()
		if p.probed = p.recall(want); p.probed == nil {
			res := want
			if res.Accelerator, res.Why, err = p.probe(ctx); err != nil {
				return "", "", err
			}
			p.probed = &res
			p.remember(res)
		}
		p.log.Info("accelerator chosen", "kind", string(p.probed.Accelerator), "reason", p.probed.Why)
	}
	return p.probed.Accelerator, p.probed.Why, nil
}

// identity names the boot and the QEMU an outcome would be true for.
func (p *Provider) identity() probeResult {
	id, err := os.ReadFile(bootIDFile)
	if err != nil { // then nothing is recalled, and nothing kept is ever believed
		p.log.Warn("boot identity unknown", "err", err)
	}
	res := probeResult{BootID: strings.TrimSpace(string(id)), Binary: p.binary}
	if fi, err := os.Stat(p.binary); err == nil {
		res.Modified = fi.ModTime()
	}
	return res
}

// cacheFile returns where the outcome is kept, or "" when nowhere.
func (p *Provider) cacheFile() string {
	dir := p.cacheDir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(base, "holdfast")
	}
	return filepath.Join(dir, cacheName)
}

// recall returns the outcome kept for want, or nil.
func (p *Provider) recall(want probeResult) *probeResult {
	path := p.cacheFile()
	if path == "" || want.BootID == "" {
		return nil
	}
	b, err := durable.ReadFile(durable.OS{}, path, maxCached)
	if err != nil {
		return nil
	}
	var got probeResult
	if json.Unmarshal(b, &got) != nil || got.BootID != want.BootID ||
		got.Binary != want.Binary || !got.Modified.Equal(want.Modified) {
		return nil
	}
	if got.Accelerator != hypervisor.KVM && got.Accelerator != hypervisor.TCG {
		return nil
	}
	return &got
}

// remember keeps an outcome; a host without a place for it only probes again.
func (p *Provider) remember(res probeResult) {
	path := p.cacheFile()
	if path == "" {
		return
	}
	b, err := json.Marshal(res)
	if err == nil {
		err = durable.MkdirAll(durable.OS{}, filepath.Dir(path))
	}
	if err == nil {
		err = durable.WriteFile(durable.OS{}, path, b)
	}
	if err != nil {
		p.log.Warn("accelerator not remembered", "err", err)
	}
}

// probe boots the trial sector under emulation, as the yardstick, and then
// under KVM.
func (p *Provider) probe(ctx context.Context) (hypervisor.Accelerator, string, error) {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return hypervisor.TCG, err.Error(), nil
	}
	f.Close()
	emulated, err := p.trial(ctx, hypervisor.TCG)
	if ctx.Err() != nil {
		return "", "", errs.E("qemu.Accelerator", errs.Canceled, "", context.Cause(ctx))
	}
	if err != nil {
		return "", "", errs.E("qemu.Accelerator", errs.Unavailable, p.binary, err)
	}
	real, err := p.trial(ctx, hypervisor.KVM)
	if ctx.Err() != nil {
		return "", "", errs.E("qemu.Accelerator", errs.Canceled, "", context.Cause(ctx))
	}
	acc, why := judge(emulated, real, err)
	return acc, why, nil
}

// judge compares a trial boot under KVM with one under emulation.
func judge(emulated, kvm time.Duration, err error) (hypervisor.Accelerator, string) {
	const ms = time.Millisecond
	switch {
	case err != nil:
		return hypervisor.TCG, fmt.Sprintf("a trial boot under KVM failed: %v", err)
	case kvm > probeFactor*emulated+probeSlack:
		return hypervisor.TCG, fmt.Sprintf("a trial boot under KVM took %v, and %v under emulation", kvm.Round(ms), emulated.Round(ms))
	}
	return hypervisor.KVM, fmt.Sprintf("a trial boot under KVM took %v", kvm.Round(ms))
}

// trial boots the trial sector and returns how long that took.
func (p *Provider) trial(ctx context.Context, acc hypervisor.Accelerator) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "holdfast-probe-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is one sector, in the temporary directory
	image := filepath.Join(dir, "boot")
	if err := durable.WriteFile(durable.OS{}, image, trialBoot); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, errors.New("no end in "+probeLimit.String()))
	defer cancel()
	cmd := exec.CommandContext(ctx, p.binary, trialArgs(image, acc)...)
	var words tail
	cmd.Stderr = &words
	cmd.WaitDelay = quitLimit
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err == nil:
		return 0, errors.New("QEMU ended before the boot did")
	case errors.As(err, &exit) && exit.ExitCode() == exitStatus:
		return took, nil
	}
	return 0, fmt.Errorf("QEMU ended: %w: %s", err, words.String())
}

// trialArgs is the command line of a trial boot.
func trialArgs(image string, acc hypervisor.Accelerator) []string {
	drive, err := json.Marshal(object{"driver": "raw", "node-name": "boot",
		"file": object{"driver": "file", "filename": image}})
	if err != nil {
		panic("qemu: strings always marshal: " + err.Error())
	}
	return []string{
		"-no-user-config", "-nodefaults", "-nographic", "-no-reboot", "-machine", "pc", "-accel", string(acc), "-m", "16M",
		"-blockdev", string(drive), "-device", "ide-hd,drive=boot,bus=ide.0",
		"-device", "isa-debug-exit,iobase=" + strconv.Itoa(exitPort) + ",iosize=1",
	}
}
