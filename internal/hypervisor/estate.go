package hypervisor

import (
	"context"
	"net/netip"

	"holdfast/internal/dr"
)

// Estate is what a hypervisor host has besides its VMs: what they run on, hang on
// and lie on. It is plain data.
type Estate struct {
	Host       EstateHost
	Networks   []EstateNetwork   // in order of name
	Datastores []EstateDatastore // in order of name
	Folders    []string          // that VMs can be filed in, besides those that VMs are in
}

// EstateHost is the host itself.
type EstateHost struct {
	Name      string
	CPUs      int
	MemoryMiB int64
}

// EstateNetwork is a network that VMs of the host can be on.
type EstateNetwork struct {
	Name     string
	Subnets  []netip.Prefix // that the host has an address in
	Isolated bool           // nothing leads out of it
}

// EstateDatastore is a directory or volume group that disks lie in.
type EstateDatastore struct {
	Name string
	Path string // disks whose path is below lie in it
	Size int64  // bytes; 0: not known
	Free int64  // bytes
}

// Surveyor is a Platform that can tell its estate. Safe for concurrent use.
type Surveyor interface {
	// Survey lists the estate as it is now. Platforms have no events for all of it:
	// callers ask again from time to time. Kinds: Unavailable, Canceled.
	Survey(ctx context.Context) (Estate, error)
}

// Addressed is a LiveVM whose guest's addresses can be known.
type Addressed interface {
	// Addresses returns what is known of each network card, by its MAC address in
	// lower case: what the guest's agent says, which is asked if Info said that it
	// answers, or else what the network has leased. None is no error: guests without
	// agent on foreign networks are common. Kinds: NotFound, Unavailable, Canceled.
	Addresses(ctx context.Context, agent bool) (map[string][]netip.Prefix, error)
}

// Placeholder is a VM that cannot be started and has no disks: it keeps the place
// of a protected VM at its recovery site.
type Placeholder struct {
	ID        dr.VMID // its own, not that of the VM it stands for
	For       dr.VMID // the protected VM
	Name      string
	Folder    string // may be empty
	CPUs      int
	MemoryMiB int64
	NICs      []dr.NIC // on networks of this site
}

// PlaceKeeper is a Platform that keeps placeholders. Safe for concurrent use.
type PlaceKeeper interface {
	// PutPlaceholder makes a placeholder, or makes the one with its ID what p says;
	// no effect when it is that. What is there that is no placeholder is never
	// touched. Kinds: Exists (another VM has the name or the id), Invalid,
	// Unavailable, Canceled.
	PutPlaceholder(ctx context.Context, p Placeholder) error
	// RemovePlaceholder removes one; no effect when there is none. Kinds: Conflict
	// (what has the id is no placeholder), Unavailable, Canceled.
	RemovePlaceholder(ctx context.Context, id dr.VMID) error
}

// Place is where a platform's users have filed a VM.
type Place struct {
	Folder string   // a path with slashes; empty: at the root, or there are no folders
	Tags   []string // in order
	For    dr.VMID  // of a placeholder: the VM it stands for; zero: it is none
}

// MaxPlaces bounds the networks, datastores and folders of one host, of each:
// more than any daemon has been seen with, and still one small answer.
const MaxPlaces = 4096
