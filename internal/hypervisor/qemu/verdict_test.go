package qemu

import (
	"testing"

	"holdfast/internal/hypervisor"
)

// mute is a process that said nothing.
type mute struct{}

func (mute) pid() int      { return 0 }
func (mute) kill() error   { return nil }
func (mute) words() string { return "" }

// TestVerdict says which ends somebody wanted: the guest, or we. A signal is neither.
func TestVerdict(t *testing.T) {
	for shutdown, want := range map[string]hypervisor.State{
		"guest-shutdown": hypervisor.Stopped, "guest-reset": hypervisor.Stopped, "host-qmp-quit": hypervisor.Stopped,
		"host-signal": hypervisor.Crashed, "guest-panic": hypervisor.Crashed, "": hypervisor.Crashed,
	} {
		v := &VM{proc: mute{}, fate: fate{shutdown: shutdown}}
		if got, words := v.verdict(nil); got != want || words == "" {
			t.Errorf("an end by %q is %v (%s), want %v", shutdown, got, words, want)
		}
	}
	v := &VM{proc: mute{}}
	v.killed.Store(true)
	if got, _ := v.verdict(nil); got != hypervisor.Stopped {
		t.Errorf("a VM that we killed is %v", got)
	}
}
