package command

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/msa/runs"
)

// Steps is a Handler over a value that has methods of operate.Effects, all or some: a
// command whose method it does not have is refused, with kind Invalid.
func Steps(e any) Handler {
	return HandlerFunc(func(context.Context, *Command, *runs.Call) Outcome {
		return Fail(errs.New("command.Steps", errs.Invalid, "", "nothing"))
	})
}
