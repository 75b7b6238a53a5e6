package ondemand

import (
	"log/slog"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// Options tune on-demand disks. The zero value is fine.
type Options struct {
	// StallLimit is how long an operation waits for a store that does not
	// answer before it is an I/O error. 0: 25 s.
	StallLimit time.Duration
	// Parallel is how many reads from the store prefetch and hydration keep
	// under way. 0: 4; at most 64. Reads for the guest come besides.
	Parallel int
	// Rate bounds what prefetch and hydration read from the store, in bytes per
	// second. 0: no bound. Reads for the guest are never held back.
	Rate int64
	// BootWindow is for how long, from the begin of Run on, hydration stands back as
	// long as guests go on reading, and for 2 s at least. 0: 30 s; negative: not at
	// all. What boot traces name is fetched at once.
	BootWindow time.Duration
	// Prefetch are boot traces; what they name is fetched by Run before
	// anything else, in their order.
	Prefetch []Trace
	// SaveEvery is how often what was fetched is made durable: the work that a
	// crash repeats. 0: 5 s.
	SaveEvery time.Duration
	// CacheSize bounds what ReadOnly keeps of content, in bytes. 0: 64 MiB.
	CacheSize int64
	Logger    *slog.Logger // nil: none
	FS        durable.FS   // nil: the operating system's
	// BootID names the run of the kernel that holds unsynced writes. "": as the
	// kernel says; where that cannot be had, every start counts as another boot.
	BootID string
}

func (o Options) withDefaults() (Options, error) {
	const op = "ondemand.Open"
	if o.Parallel < 0 || o.Parallel > maxParallel || o.StallLimit < 0 || o.Rate < 0 || o.CacheSize < 0 {
		return o, errs.New(op, errs.Invalid, "", "an option is negative or too large")
	}
	if o.StallLimit == 0 {
		o.StallLimit = defaultStall
	}
	if o.Parallel == 0 {
		o.Parallel = defaultParallel
	}
	if o.BootWindow == 0 {
		o.BootWindow = bootWindow
	}
	if o.SaveEvery <= 0 {
		o.SaveEvery = saveEvery
	}
	o.CacheSize = max(o.CacheSize, minCache)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	if o.BootID == "" {
		o.BootID = kernelBoot()
	}
	return o, nil
}

// Progress tells how far a Set has come.
type Progress struct {
	Disks   []DiskProgress
	Fetched int64         // from the store, bytes, by this process
	Rate    float64       // content bytes per second that become present, lately
	ETA     time.Duration // until all is present at that rate; 0: not known, or done
	Whole   bool          // everything is present
	// Stalled is since when the store gives nothing, zero when it does; Why is
	// the error.
	Stalled time.Time
	Why     error
}

// DiskProgress is one disk's part of Progress, in bytes.
type DiskProgress struct {
	Disk    dr.DiskID
	Path    string
	Size    int64
	Content int64 // what the checkpoint has other than zeroes
	Present int64 // how much of it is in the file, fetched or overwritten
	Written int64 // what the guest wrote since the recovery
}
