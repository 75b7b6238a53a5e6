package plan

import (
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

// Confirmation is what a person says before a real run. It is kept with the run.
type Confirmation struct {
	By       string       `json:"by"`                  // who starts the run
	Plan     site.Name    `json:"plan"`                // its name, typed again
	Version  site.Version `json:"version"`             // of the plan they have looked at
	Does     Operation    `json:"operation"`           // what they want, typed or chosen again
	Alone    bool         `json:"alone,omitempty"`     // forced: they know that the protected site is not asked
	Second   string       `json:"second,omitempty"`    // who agreed
	Agreed   time.Time    `json:"agreed,omitzero"`     // when
	AgreedTo site.Version `json:"agreed_to,omitempty"` // version of the plan the second person looked at
}

// NeedsConfirmation reports whether an operation changes production.
func NeedsConfirmation(op Operation) bool {
	s, ok := StoryOf(op)
	return ok && s.Real
}

// Confirm reports why a run must not begin. Who starts it and who agreed are as
// the caller has authenticated them. Kinds: Denied; Conflict, when the plan has
// changed since a person looked at it.
func (p *Plan) Confirm(op Operation, c *Confirmation, now time.Time) error {
	const at = "plan.Confirm"
	if !NeedsConfirmation(op) {
		return nil
	}
	deny := func(words, remedy string) error {
		return errs.New(at, errs.Denied, site.Label(p), words).WithRemedy(remedy)
	}
	switch {
	case c == nil || c.By == "":
		return deny(fmt.Sprintf("%s changes production, and nobody has confirmed it", op), "confirm it with the plan's name and the operation")
	case c.Plan != p.Name || c.Does != op:
		return deny(fmt.Sprintf("what was confirmed is %s of %s", c.Does, c.Plan), fmt.Sprintf("confirm %s of %s", op, p.Name))
	case c.Version != p.Version:
		return errs.New(at, errs.Conflict, site.Label(p), fmt.Sprintf("version %d was confirmed, now it is %d", c.Version, p.Version)).
			WithRemedy("look at the plan again, then confirm")
	case forcedAlone(op) && !c.Alone:
		return deny("a forced run does not ask the protected site, which may still run its VMs", "say that this is known")
	}
	if !p.TwoPersons {
		return nil
	}
	switch {
	case c.Second == "":
		return deny("a second person must agree", "have somebody else agree to this run")
	case c.Second == c.By:
		return deny("the second person is the first", "have somebody else agree to this run")
	case c.AgreedTo != p.Version:
		return errs.New(at, errs.Conflict, site.Label(p), "the second person agreed to another version of the plan").
			WithRemedy("have them look at it again")
	case c.Agreed.After(now) || now.Sub(c.Agreed) > ApprovalHolds:
		return deny("the second person's agreement is older than "+site.Span(ApprovalHolds).String(), "have them agree again")
	}
	return nil
}

func forcedAlone(op Operation) bool { return op == ForcedDisaster || op == ForcedReprotect }
