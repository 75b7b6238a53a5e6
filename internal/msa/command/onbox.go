package command

import (
	"context"

	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
)

// Run runs a script on this machine to its end, for boxes: as a manager runs its own.
// What it prints goes to the act's output. Kinds: Invalid (it failed), Canceled.
func Run(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) error { return local(ctx, a, in) }
