package iofilter

import (
	"sync/atomic"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// booting is a VM whose disks are used for the first time, or again: perhaps it
// boots. Reads of its disks come by here until that is over; all other reads pay
// for one look at a pointer.
//
// A guest that boots reads its boot sector before anything else, and one that
// runs and was put in this path reads anything. So what begins with chunk 0 is
// recorded, until it has taken boottrace.For or nobody uses the disks any more,
// and all else is left alone. Reboots that keep the connection are not noticed,
// nor is who reads past a mirror.
type booting struct {
	vm  dr.VMID
	rec atomic.Pointer[boottrace.Recorder] // nil: nothing was read yet

	// Guarded by out.mu.
	until time.Duration // when it is over; 0: it has not begun
	over  bool
	disks map[uint16]dr.DiskID // that were used, by their indices
}

// boots are the host's. Guarded by the outlet's mutex.
type boots struct {
	kept  bool // the DRVA has a use for traces
	last  time.Duration
	under map[dr.VMID]*booting
	ended []*booting // to be told to the DRVA, oldest first
}

// bootRead notes a read of the disk while its VM may boot.
func (d *disk) bootRead(b *booting, op *nbd.Op) {
	first, last := uint32(op.Offset/dr.ChunkSize), uint32((op.Offset+op.Length-1)/dr.ChunkSize)
	r := b.rec.Load()
	if r == nil {
		if r = d.out.bootBegins(b, first); r == nil {
			return
		}
	}
	r.Note(d.index, first, last)
}

// bootBegins decides by the first chunk that is read whether a VM boots; nil: it
// does not.
func (o *outlet) bootBegins(b *booting, first uint32) *boottrace.Recorder {
	o.mu.Lock()
	defer o.unlock()
	switch {
	case b.over || b.rec.Load() != nil: // somebody was faster
	case first != 0:
		o.bootEndsLocked(b)
	default:
		b.rec.Store(boottrace.NewRecorder())
		b.until = o.now() + o.boots.last
		o.armLocked(b.until)
	}
	return b.rec.Load()
}

// bootMayBeginLocked notes the first client of a disk.
func (o *outlet) bootMayBeginLocked(d *disk) {
	b := o.boots.under[d.info.VM]
	if b == nil {
		if len(o.boots.under) == maxBoots {
			return
		}
		b = &booting{vm: d.info.VM, disks: map[uint16]dr.DiskID{}}
		o.boots.under[b.vm] = b
	}
	b.disks[d.index] = d.info.ID
	d.boot.Store(b)
}

// bootLeftLocked notes that a disk has no client any more: with the last one of
// its VM a boot is over.
func (o *outlet) bootLeftLocked(d *disk) {
	b := d.boot.Swap(nil)
	if b == nil {
		return
	}
	for _, other := range o.disks {
		if other.boot.Load() == b {
			return
		}
	}
	o.bootEndsLocked(b)
}

// bootEndsLocked ends a recording, and has it told if it says something.
func (o *outlet) bootEndsLocked(b *booting) {
	b.over = true
	delete(o.boots.under, b.vm)
	for _, d := range o.disks {
		d.boot.CompareAndSwap(b, nil)
	}
	r := b.rec.Load()
	if r == nil {
		return
	}
	r.Stop()
	if r.Len() < leastBoot {
		return
	}
	if len(o.boots.ended) == maxBoots {
		o.boots.ended = append(o.boots.ended[:0], o.boots.ended[1:]...)
	}
	o.boots.ended = append(o.boots.ended, b)
	o.wakeSender()
}

// bootsDueLocked ends what has taken as long as a boot takes.
func (o *outlet) bootsDueLocked(now time.Duration) {
	for _, b := range o.boots.under {
		if b.until != 0 && b.until <= now {
			o.bootEndsLocked(b)
		}
	}
}

// nextBootLocked is when the next recording will be over.
func (o *outlet) nextBootLocked() time.Duration {
	next := never
	for _, b := range o.boots.under {
		if b.until != 0 {
			next = min(next, b.until)
		}
	}
	return next
}

// takeBootLocked gives the sender a trace to tell; nil: there is none, or nobody
// wants it.
func (o *outlet) takeBootLocked() *booting {
	if !o.boots.kept || !o.link.replayed || len(o.boots.ended) == 0 {
		return nil
	}
	b := o.boots.ended[0]
	o.boots.ended = append(o.boots.ended[:0], o.boots.ended[1:]...)
	return b
}

// append encodes what a VM read, as a whole frame. It was taken: nobody else has it.
func (b *booting) append(dst []byte) []byte {
	t := b.rec.Load().Trace(func(index uint16) (dr.DiskID, bool) { id, ok := b.disks[index]; return id, ok })
	return wire.BootTrace{VM: b.vm, Trace: t}.Append(dst)
}
