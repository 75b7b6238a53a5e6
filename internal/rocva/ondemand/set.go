package ondemand

import (
	"context"
	"io"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva"
)

// Set is the disks of one checkpoint that are being made. Safe for concurrent use.
type Set struct{}

var errStub = errs.New("ondemand", errs.Internal, "", "being written")

// Open makes the local disks of img that targets name, or goes on with those an
// earlier Set left.
func Open(ctx context.Context, c *journal.Container, img *journal.Image, targets []rocva.Target, o Options) (*Set, error) {
	return nil, errStub
}

// Device is what an NBD server exports for a disk; nil when it is none of the Set.
func (s *Set) Device(disk dr.DiskID) nbd.Disk { return nil }

// Run fetches what the boot traces name, then all the rest. It returns nil once every disk is whole.
func (s *Set) Run(ctx context.Context) error { return errStub }

// Whole is closed when every disk is whole.
func (s *Set) Whole() <-chan struct{} { return nil }

// Progress tells how far the Set has come.
func (s *Set) Progress() Progress { return Progress{} }

// Written is what the guest wrote to a disk since the recovery.
func (s *Set) Written(disk dr.DiskID) []extent.Range { return nil }

// Trace is what was read in the first two minutes, of the disks that of says yes to.
func (s *Set) Trace(of func(dr.DiskID) bool) Trace { return Trace{} }

// Finish makes plain disks of whole ones.
func (s *Set) Finish(ctx context.Context) error { return errStub }

// Discard closes the Set and removes all it made.
func (s *Set) Discard() error { return errStub }

// Close stops the Set and keeps its files.
func (s *Set) Close() error { return errStub }

// Finished reports whether the disk at path is whole and plain.
func Finished(fs durable.FS, path string) (bool, error) { return false, errStub }

// Remove removes the disk at path and all that belongs to it, in use by nobody.
func Remove(fs durable.FS, path string) error { return errStub }

// ReadOnly is a disk of a checkpoint with no file behind it.
func ReadOnly(ctx context.Context, c *journal.Container, img *journal.Image, disk dr.DiskID, o Options) (nbd.Disk, io.Closer, error) {
	return nil, nil, errStub
}
