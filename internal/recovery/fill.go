package recovery

import (
	"context"

	"holdfast/internal/hypervisor"
)

// filling is the disks of a run while they are filled and served.
type filling struct{}

func (f *filling) close() error                          { return nil }
func (f *filling) discard() error                        { return nil }
func (f *filling) progress() *Filling                    { return nil }
func (f *filling) where(d *DiskRecord) hypervisor.Source { return hypervisor.Source{} }

// filled is closed when the run's disks are whole; nil when they are not being
// filled.
func (r *Run) filled() <-chan struct{} { return nil }

// settle makes plain files of disks that are whole.
func (r *Run) settle(context.Context) error { return nil }
