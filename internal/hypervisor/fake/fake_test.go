package fake_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/hypervisor/hypervisortest"
)

func TestSuite(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Rig {
		p := fake.New()
		obeying := func(t *testing.T) hypervisor.Spec { return hypervisortest.Spec(t, hypervisortest.Polite, "virtio") }
		return hypervisortest.Rig{
			Provider: p,
			Obeying:  obeying,
			Deaf: func(t *testing.T) hypervisor.Spec {
				s := obeying(t)
				p.Behave(s.Config.ID, fake.Behaviour{Deaf: true})
				return s
			},
			Failing: func(t *testing.T) hypervisor.Spec {
				s := obeying(t)
				p.Behave(s.Config.ID, fake.Behaviour{StartErr: errs.New("test", errs.Unavailable, "", "no room")})
				return s
			},
			Repair: func(t *testing.T, s *hypervisor.Spec) { p.Behave(s.Config.ID, fake.Behaviour{}) },
			Crash:  func(t *testing.T, vm hypervisor.VM) { vm.(*fake.VM).Crash("scripted") },
			Serve: func(t *testing.T, image string) hypervisortest.Export {
				return hypervisortest.Export{Attachment: hypervisor.Attachment{Socket: image + ".socket"}, Kill: func() {}}
			},
			Orphan: func(t *testing.T, s hypervisor.Spec) {
				other := p.Again()
				if _, err := other.Start(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				other.Lose()
			},
			Again: func(t *testing.T) hypervisor.Provider { return p.Again() },
		}
	})
}

func TestScripts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fake.New()
		spec := hypervisortest.Spec(t, hypervisortest.Polite, "virtio")
		p.Behave(spec.Config.ID, fake.Behaviour{StopAfter: time.Hour, StuckOn: "system"})
		vm, err := p.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if s := vm.Status(); s.State != hypervisor.Paused || s.Reason == "" {
			t.Fatalf("with a bad disk: %+v, want Paused with a reason", s)
		}
		if len(p.Started()) != 1 {
			t.Errorf("%d starts recorded, want 1", len(p.Started()))
		}
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.Behave(spec.Config.ID, fake.Behaviour{StopAfter: time.Hour})
		if vm, err = p.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := vm.Stop(t.Context(), hypervisor.StopOptions{Limit: 2 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != time.Hour {
			t.Errorf("the guest took %v to stop, want the scripted hour", took)
		}
	})
}

func TestHangingStartEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fake.New()
		spec := hypervisortest.Spec(t, hypervisortest.Polite, "virtio")
		p.Behave(spec.Config.ID, fake.Behaviour{HangStart: true})
		var err error
		go func() { _, err = p.Start(t.Context(), spec) }()
		synctest.Wait()
		p.Close()
		synctest.Wait()
		if !errs.Is(err, errs.Canceled) {
			t.Errorf("Start during Close: %v, want kind canceled", err)
		}
	})
}

func TestStartErrorKeepsItsKind(t *testing.T) {
	p := fake.New()
	spec := hypervisortest.Spec(t, hypervisortest.Polite, "virtio")
	cause := errs.New("test", errs.Full, "", "no memory left")
	p.Behave(spec.Config.ID, fake.Behaviour{StartErr: cause})
	if _, err := p.Start(t.Context(), spec); !errs.Is(err, errs.Full) || !errors.Is(err, cause) {
		t.Errorf("Start: %v, want the scripted error", err)
	}
}
