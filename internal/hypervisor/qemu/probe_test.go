package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		emulated, kvm time.Duration
		err           error
		want          hypervisor.Accelerator
	}{
		"faster":         {100 * time.Millisecond, 60 * time.Millisecond, nil, hypervisor.KVM},
		"start-up noise": {80 * time.Millisecond, 300 * time.Millisecond, nil, hypervisor.KVM},
		"crawling":       {85 * time.Millisecond, 2763 * time.Millisecond, nil, hypervisor.TCG},
		"hanging":        {85 * time.Millisecond, 0, errors.New("no end in 5s"), hypervisor.TCG},
		"busy host":      {2 * time.Second, 1500 * time.Millisecond, nil, hypervisor.KVM},
	} {
		if got, why := judge(c.emulated, c.kvm, c.err); got != c.want || why == "" {
			t.Errorf("%s: %s because %q, want %s", name, got, why, c.want)
		}
	}
}

func TestTrialBoot(t *testing.T) {
	if len(trialBoot) != sectorSize {
		t.Fatalf("the trial boot has %d bytes", len(trialBoot))
	}
	p, err := New(Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	if _, err := p.trial(t.Context(), hypervisor.TCG); err != nil {
		t.Errorf("emulation: %v", err)
	}
	// The same sector, spoilt before its end: the trial must not believe it.
	sound := trialBoot
	defer func() { trialBoot = sound }()
	trialBoot = append([]byte(nil), sound...)
	copy(trialBoot[0x77:], "\xf4\xeb\xfd") // long mode: hlt; jump back
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if took, err := p.trial(ctx, hypervisor.TCG); err == nil {
		t.Errorf("a boot that hangs in long mode was good, in %v", took)
	}
}

func TestAcceleratorIsRemembered(t *testing.T) {
	dir := t.TempDir()
	fresh := func() *Provider {
		p, err := New(Options{CacheDir: filepath.Join(dir, "holdfast")})
		if err != nil {
			t.Fatalf("%v (run 'make deps')", err)
		}
		return p
	}
	acc, why, err := fresh().Accelerator(t.Context())
	if err != nil || why == "" {
		t.Fatalf("Accelerator = %s, %q, %v", acc, why, err)
	}
	t.Logf("%s: %s", acc, why)
	file := filepath.Join(dir, "holdfast", cacheName)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// A mark in the kept outcome shows whether it was used.
	marked := strings.Replace(string(b), `"why":"`, `"why":"kept: `, 1)
	for name, c := range map[string]struct {
		content string
		used    bool
	}{
		"same boot":    {marked, true},
		"other boot":   {strings.Replace(marked, `"boot_id":"`, `"boot_id":"0`, 1), false},
		"other binary": {strings.Replace(marked, `"binary":"`, `"binary":"0`, 1), false},
		"odd outcome":  {strings.Replace(marked, `"accelerator":"`, `"accelerator":"x`, 1), false},
		"nonsense":     {"{", false},
	} {
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		p := fresh()
		if got := p.recall(p.identity()); (got != nil) != c.used || got != nil && !strings.HasPrefix(got.Why, "kept: ") {
			t.Errorf("%s: recalled %+v", name, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := fresh()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Accelerator(ctx); !errs.Is(err, errs.Canceled) && !noKVM() {
		t.Errorf("with an ended context: %v, want kind canceled", err)
	}
}

// noKVM reports whether there is nothing to probe, and so nothing to cancel.
func noKVM() bool {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err != nil
}
