package iofilter

import (
	"context"
	"math"
	"slices"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/iofilter/sidecar"
	"holdfast/internal/wire"
)

// announce adds to a Hello what the disks' sidecars vouch for, after the
// sidecars know which run is about to say it.
func (o *outlet) announce(h wire.Hello) wire.Hello {
	resume := map[uint16]*wire.HelloResume{}
	for _, d := range o.staying(math.MaxInt) {
		if r := d.keep.announce(h.Nonce); r != nil {
			resume[d.index] = r
		}
	}
	h.VMs = slices.Clone(h.VMs)
	for i := range h.VMs {
		h.VMs[i].Disks = slices.Clone(h.VMs[i].Disks)
		for j := range h.VMs[i].Disks {
			h.VMs[i].Disks[j].Resume = resume[h.VMs[i].Disks[j].Index]
		}
	}
	return h
}

func (k *keeper) announce(nonce uint64) *wire.HelloResume {
	if k == nil {
		return nil
	}
	if run := k.run.Load(); run != 0 && run != nonce {
		k.restart(nonce) // that stream is lost, and with it what it said of the disk
		return nil
	}
	v := k.side.Vouch()
	if len(v.Runs) == 0 || len(v.Runs) == 1 && v.Runs[0] == nonce {
		return nil
	}
	if err := k.side.Continue(nonce); err != nil {
		if !errs.Is(err, errs.Full) {
			k.breaks(err)
		}
		return nil
	}
	k.continued = nonce
	return &wire.HelloResume{Runs: v.Runs, Durable: v.Durable, Clean: v.Clean}
}

// staying lists the disks that are not on their way out and were named, as they
// are now, by a Hello of that edition.
func (o *outlet) staying(edition int) (out []*disk) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.disks {
		if d.member.leave == nil && d.member.edition <= edition {
			out = append(out, d)
		}
	}
	return out
}

// settle makes the sidecars say what the Welcome of a run means for them,
// before the stream goes on because of it. No region is closed until settled.
// told is the edition of the members that the Hello named.
func (o *outlet) settle(w *wire.Welcome, nonce uint64, told int) error {
	o.mu.Lock()
	o.settling = true
	lost := !w.Known && o.str.Sent() > 0
	o.mu.Unlock()
	if lost {
		return nil // another run begins
	}
	for _, d := range o.staying(told) {
		if !d.keep.settle(nonce, slices.Contains(w.Unsynced, d.index), slices.Contains(w.Resumed, d.index)) {
			o.mu.Lock()
			o.loseStreamLocked()
			o.unlock()
			return errs.E("iofilter.settle", errs.NotFound, "stream", errStreamLost)
		}
	}
	return nil
}

// settled ends settle.
func (o *outlet) settled() {
	o.mu.Lock()
	o.settling = false
	o.mu.Unlock()
}

// settle reports whether the run may go on: not so if a file that names it as
// one that goes on, although all must be copied, cannot be changed.
func (k *keeper) settle(nonce uint64, unsynced, resumed bool) bool {
	if k == nil {
		return true
	}
	o := k.d.out
	o.mu.Lock()
	if unsynced && !k.d.announced {
		k.d.dirty.SetAll() // what a sidecar spared is copied after all
	}
	k.d.unsynced = k.d.unsynced || unsynced || resumed
	o.mu.Unlock()
	if unsynced || k.fresh {
		k.fresh = false
		return k.restart(nonce)
	}
	k.run.Store(nonce) // the file names it alone when the log has it: see round
	return true
}

// restart makes the sidecar that of a run which copies everything; false: the
// file still says that this run goes on after another.
func (k *keeper) restart(nonce uint64) bool {
	k.run.Store(nonce)
	err := k.side.Restart(nonce)
	if err == nil {
		return true
	}
	void := k.side.Void()
	k.breaks(err)
	return void == nil || k.continued != nonce
}

// releaseDisks hands over what is complete, at the end of a run: the guests
// have stopped and the log has everything. The next run copies nothing then.
func (o *outlet) releaseDisks(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var released []*disk
	for _, d := range o.staying(math.MaxInt) {
		if !d.keep.closeAll(ctx) {
			continue
		}
		o.mu.Lock()
		if !o.mode.tracking && !d.unsynced && d.dirty.Count() == 0 && o.diskRecordLocked("release", d.index) {
			released = append(released, d)
		}
		o.mu.Unlock()
	}
	if len(released) == 0 || !o.drain(limit) {
		return
	}
	for _, d := range released {
		d.keep.clean()
	}
}

// clean notes that the disk has been handed over whole.
func (k *keeper) clean() {
	if k == nil {
		return
	}
	if _, err := k.side.Clean(modified(k.image)); err != nil {
		k.d.out.log.Warn("the disk's sidecar cannot be written: the next start compares more than it must", "disk", k.d.info.Name, "err", err)
	}
}

// closeAll closes every region and reports whether none is left.
func (k *keeper) closeAll(ctx context.Context) bool {
	if k == nil || k.run.Load() == 0 {
		return false
	}
	k.round(ctx, true)
	return k.side.Count() == 0 && !k.side.Stats().Given
}

// useless reports whether there is no sidecar that a later run could go by.
func (k *keeper) useless() bool { return k == nil || k.side.Stats().Given }

// openBytes is how much of the disk would be copied if the host ended now.
func (k *keeper) openBytes() int64 {
	if k == nil {
		return 0
	}
	return int64(k.side.Count()) * sidecar.RegionSize
}
