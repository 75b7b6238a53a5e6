package site

import "time"

// Bounds of what an admin may write, so that no list of a request, a file or a
// row has a size that somebody else chose.
const (
	// MaxName is that of a DNS label: names appear in paths and certificates.
	MaxName = 63
	// MaxRef bounds names a platform gives; vSphere's have 80 bytes, URL-encoded.
	MaxRef = 255
	// MaxTitle and MaxText bound what people write, bytes.
	MaxTitle = 255
	MaxText  = 2048
	// MaxURL bounds an address, bytes.
	MaxURL = 1024
	// MaxDomainVMs is what features of comparable products end at, per group.
	MaxDomainVMs = 500
	// MaxStores of one domain: each gets every object, so each costs bandwidth.
	MaxStores = 4
	// MaxRules of one domain's automatic adoption.
	MaxRules = 32
	// MaxSlots of a retention schedule, as in a manifest.
	MaxSlots = 8
	// MaxRecipients who can open a container.
	MaxRecipients = 16
	// MaxNICs of one VM: QEMU's and vSphere's buses end before.
	MaxNICs = 32
	// MaxAddresses of one card and family.
	MaxAddresses = 16
	// MaxServers is how many DNS servers one card may have.
	MaxServers = 8
	// MaxDisks of one VM.
	MaxDisks = 256
	// MaxTags of a VM.
	MaxTags = 64
	// MaxEndpoints is how many addresses a store or site may be reached at.
	MaxEndpoints = 8
	// Inventory of one site.
	MaxVMs    = 10000
	MaxHosts  = 2000
	MaxPlaces = 20000 // networks, folders, pools, datastores, policies: of each
)

// Ranges of durations. They are those of the appliance that keeps them.
const (
	MinInterval    = time.Second
	MaxInterval    = time.Minute
	DefaultEvery   = 5 * time.Second
	MinRPOTarget   = 2 * time.Second
	MaxRPOTarget   = 30 * 24 * time.Hour
	MinAppEvery    = time.Minute
	MaxAppEvery    = 30 * 24 * time.Hour
	MinHistory     = time.Hour
	MaxHistory     = 10 * 366 * 24 * time.Hour
	MaxClockSkew   = 24 * time.Hour
	MaxHeartbeat   = time.Hour
	MinLogSize     = 256 << 20 // bytes: less is full before it is noticed
	MaxLogSize     = 16 << 40
	MinHistorySize = 1 << 30
)
