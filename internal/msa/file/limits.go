package file

const (
	// MaxBytes of one file: 2,000 VMs with settings of their own are 1 MiB.
	MaxBytes = 16 << 20
	// MaxDocuments of one file.
	MaxDocuments = 20000
	// MaxDepth of maps and lists in each other; plans have eight.
	MaxDepth = 20
	// MaxFaults is how many errors of one file are told.
	MaxFaults = 200
)

// APIVersion is the version of files that this package reads and writes.
const APIVersion = "holdfast/v1"
