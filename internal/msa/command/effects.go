package command

import (
	"holdfast/internal/msa/operate"
)

// Effects is operate.Effects by commands, for the manager that runs plans.
type Effects struct {
	operate.Effects
}
