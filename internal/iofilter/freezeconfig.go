package iofilter

import (
	"time"
)

// FreezeConfig says how a VM is quiesced for application-consistent checkpoints.
// Without one the guest agent is asked, where the hypervisor offers that.
type FreezeConfig struct {
	// Exempt leaves the VM out: it keeps no checkpoint from being
	// application-consistent, and is crash-consistent in it.
	Exempt bool `json:"exempt,omitempty"`
	// Pre and Post are commands on the host, with their arguments; no shell reads
	// them. Pre has quiesced the VM when it ends with 0; Post lets it go on. Both
	// are given the VM's id in HOLDFAST_VM. They stand in for the agent.
	Pre  []string `json:"pre,omitempty"`
	Post []string `json:"post,omitempty"`
	// Timeout bounds each of them; 0: 4 s, less than the DRVA waits.
	Timeout Duration `json:"timeout,omitempty"`
}

const (
	// DefaultFreezeTimeout is the time a command has when nothing is said.
	DefaultFreezeTimeout = 4 * time.Second
	// maxFreezeTimeout is when guests thaw in any case.
	maxFreezeTimeout = 10 * time.Second
	// maxFreezeArgs bounds a command.
	maxFreezeArgs = 64
)

// EffectiveTimeout returns Timeout or its default.
func (c *FreezeConfig) EffectiveTimeout() time.Duration {
	if c.Timeout == 0 {
		return DefaultFreezeTimeout
	}
	return time.Duration(c.Timeout)
}

// validate checks c, of the VM of that name. nil is valid.
func (c *FreezeConfig) validate(name string) error {
	switch {
	case c == nil:
		return nil
	case c.Exempt && (len(c.Pre) > 0 || len(c.Post) > 0):
		return invalid(name, "take one of them out", "freeze: the VM is exempt, and has commands")
	case (len(c.Pre) == 0) != (len(c.Post) == 0):
		return invalid(name, "name the command that undoes the other", "freeze: pre and post belong together")
	case len(c.Pre) > maxFreezeArgs || len(c.Post) > maxFreezeArgs:
		return invalid(name, "use a script", "freeze: a command has more than %d words", maxFreezeArgs)
	case len(c.Pre) > 0 && (c.Pre[0] == "" || c.Post[0] == ""):
		return invalid(name, "name the program first", "freeze: a command has no program")
	case c.Timeout < 0 || time.Duration(c.Timeout) > maxFreezeTimeout:
		return invalid(name, "leave it out for 4s", "freeze: a timeout of %v is not within 0 and %v", time.Duration(c.Timeout), maxFreezeTimeout)
	}
	return nil
}
