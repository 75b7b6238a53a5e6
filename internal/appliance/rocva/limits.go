package rocva

import "time"

const (
	// jobPatience is how long a step looks at its job before it lets go: most are done.
	jobPatience = 2 * time.Second
	// jobEvery is how often a job that lasts is looked at.
	jobEvery = 2 * time.Second
	// shutdownLimit is how long a guest is asked to shut down; plans cut its power
	// before.
	shutdownLimit = 30 * time.Minute
	// maxName is how much of a plan's or domain's name is in the name of a directory,
	// bytes: those of sockets below must not exceed 107.
	maxName = 12
	// maxSeeds bounds a seeds file, bytes: 2,000 VMs with many disks.
	maxSeeds = 16 << 20
	// lookEvery is how often what lives here is looked at.
	lookEvery = 10 * time.Second
	// maxAgain is how often a VM is started again that ends again and again, and
	// againAfter the pause before the first time, each later one twice as long: it
	// outlasts the shutdown of a host, and a store that is away for minutes. One that
	// then runs for steadyAfter begins anew.
	maxAgain    = 5
	againAfter  = 5 * time.Second
	steadyAfter = 10 * time.Minute
	// bootLimit is how long a VM counts as starting whose guest's agent does not answer:
	// what reads most of its disk is over by then. bootEvery is how often it is asked.
	bootLimit = time.Minute
	bootEvery = 2 * time.Second
	// askAgain is how long who waits for its turn to start a VM may be silent: the slowest
	// asks every lookEvery.
	askAgain = 3 * lookEvery
	// agentLimit bounds one question to a guest's agent, portLimit the wait for a port.
	agentLimit = 10 * time.Second
	portLimit  = 2 * time.Second
	// openLimit bounds how long a domain's store is tried before a copy is.
	openLimit = time.Minute
	// scriptLimit bounds a guest's script of which the plan sets no time.
	scriptLimit = 30 * time.Minute
	// greetLimit is how long a guest may take to start until it can be told its addresses,
	// and greetEvery how often its agent is asked.
	greetLimit = 30 * time.Minute
	greetEvery = 2 * time.Second
	// settleFor is how long after it was told its addresses in a boot a guest is looked at
	// whether it has them still: its own configuration may come later than its agent.
	settleFor = 2 * time.Minute
	// regreetLimit bounds a look at the guests of one recovery.
	regreetLimit = time.Minute
	// moveEvery is how often a standby looks whether the domain goes on elsewhere, and a VM
	// that is down because it does is looked at.
	moveEvery = time.Minute
	// copyBlock is how much of an image is copied at once, bytes.
	copyBlock = 1 << 20
	// standbyRetry is the pause before a standby is tried again that could not be
	// opened.
	standbyRetry = 30 * time.Second
)
