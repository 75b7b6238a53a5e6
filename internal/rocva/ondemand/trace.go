package ondemand

import (
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
)

// Trace is what a VM read while it booted, in order. The zero value is empty.
type Trace = boottrace.Trace

// recorder notes what is read from the first read on, for boottrace.For.
type recorder struct {
	over atomic.Bool // set once
	once sync.Once
	r    atomic.Pointer[boottrace.Recorder] // nil: nothing was read
}

// note adds the chunks of a read of the disk at a place of the image.
func (r *recorder) note(place uint16, first, last uint32) {
	if r.over.Load() {
		return // every read comes by here
	}
	if r.r.Load() == nil {
		r.once.Do(r.begin)
	}
	r.r.Load().Note(place, first, last)
}

func (r *recorder) begin() {
	r.r.Store(boottrace.NewRecorder())
	time.AfterFunc(boottrace.For, func() { r.over.Store(true) })
}

// trace returns what was read of the disks whose places of knows.
func (r *recorder) trace(of func(place uint16) (dr.DiskID, bool)) Trace {
	if all := r.r.Load(); all != nil {
		return all.Trace(of)
	}
	return Trace{}
}
