package rocva

import (
	"context"
	"slices"
	"time"
)

// Mind looks after what lives here now, as the ticker has it do.
func (s *Appliance) Mind(ctx context.Context) { s.mind(ctx) }

// SetNow sets the clock by which VMs are started again. Before Run.
func (s *Appliance) SetNow(now func() time.Time) { s.now = now }

// Regreeted reports whether no guests are being looked at.
func (s *Appliance) Regreeted() bool {
	return !slices.ContainsFunc(s.all(), func(o *owned) bool { return o.regreeting.Load() })
}

// SettleFor is how long a guest is looked at after it was told its addresses.
const SettleFor = settleFor

// What is done about VMs that end.
const (
	MaxAgain    = maxAgain
	AgainAfter  = againAfter
	SteadyAfter = steadyAfter
)
