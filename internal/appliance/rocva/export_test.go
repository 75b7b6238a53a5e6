package rocva

import (
	"context"
	"time"
)

// Mind looks after what lives here now, as the ticker has it do.
func (s *Appliance) Mind(ctx context.Context) { s.mind(ctx) }

// SetNow sets the clock by which VMs are started again. Before Run.
func (s *Appliance) SetNow(now func() time.Time) { s.now = now }

// What is done about VMs that end.
const (
	MaxAgain    = maxAgain
	AgainAfter  = againAfter
	SteadyAfter = steadyAfter
)
