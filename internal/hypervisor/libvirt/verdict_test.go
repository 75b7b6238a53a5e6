package libvirt

import (
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/hypervisor"
)

// TestVerdict takes what libvirt remembers of an end that was not seen for the same as the
// event would have told.
func TestVerdict(t *testing.T) {
	for why, want := range map[golibvirt.DomainShutoffReason]hypervisor.State{
		golibvirt.DomainShutoffShutdown: hypervisor.Stopped, golibvirt.DomainShutoffDestroyed: hypervisor.Stopped,
		golibvirt.DomainShutoffCrashed: hypervisor.Crashed, golibvirt.DomainShutoffFailed: hypervisor.Crashed,
		golibvirt.DomainShutoffUnknown: hypervisor.Crashed, 99: hypervisor.Crashed,
	} {
		v := &vm{}
		if got, words := v.verdict(detailOf(why)); got != want || words == "" {
			t.Errorf("shut off for reason %d is %v (%s), want %v", why, got, words, want)
		}
	}
}
