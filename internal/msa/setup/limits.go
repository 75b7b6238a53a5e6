package setup

// Bounds of what a box may tell: it may be stolen, or ill.
const (
	// MaxFigures of one report: 500 VMs with five metrics, and domains and the box.
	MaxFigures = 3000
	// MaxDomains of one report: what a DRVA serves, and a host, are less.
	MaxDomains = 256
	// MaxVMs of one report, over all domains: a host runs fewer.
	MaxVMs = 2000
	// MaxProblems of one report: more are told in another one.
	MaxProblems = 64
	// MaxText bounds the words of a problem or a cause, bytes.
	MaxText = 1024

	// maxFile bounds a Setup in its file, bytes: 256 domains of 2,000 VMs are less.
	maxFile = 8 << 20
)
