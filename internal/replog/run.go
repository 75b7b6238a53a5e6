package replog

import (
	"context"
	"errors"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Run writes what Append accepts until ctx ends, Close is called or a write
// fails. It owns the log's goroutines: two writers, one that pre-writes files.
// It returns the first fatal error, or nil when it was told to stop; batches
// in flight are finished then, those not begun fail with kind Canceled. It
// runs once.
func (l *Log) Run(ctx context.Context) error {
	l.mu.Lock()
	if err := l.stoppedErr("replog.Run"); err != nil || l.running {
		l.mu.Unlock()
		return errors.Join(err, errs.New("replog.Run", errs.Invalid, l.opts.Dir, "log was run or closed before"))
	}
	l.running = true
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(ctx, l.stop)
	defer unhook()
	var all sync.WaitGroup
	for range maxInFlight {
		all.Go(func() {
			l.writeBatches()
			cancel() // a writer ends only when the log does
		})
	}
	all.Go(func() { l.keepSpares(ctx) })
	all.Wait()
	l.failRest(context.Cause(ctx))
	close(l.stopped)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// stop lets the writers finish what is in flight and no more.
func (l *Log) stop() {
	l.mu.Lock()
	l.stopping = true
	l.wake.Broadcast()
	l.notifyReaders()
	l.signalSpace()
	l.mu.Unlock()
}

// writeBatches is one writer: take the next batch, write it, acknowledge.
func (l *Log) writeBatches() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		b := l.nextBatch()
		for b == nil && !l.stopping {
			l.wake.Wait()
			b = l.nextBatch()
		}
		if l.stopping {
			return
		}
		l.issue(b)
		l.deliver()
	}
}

// nextBatch returns the batch that may be written now, or nil. A batch waits
// until all but one of those before it are durable: that is what lets
// recovery tell a torn tail from damage. The first batch of a file waits for
// all, so that the header it brings proves that nothing before is missing.
// Caller holds mu.
func (l *Log) nextBatch() *batch {
	if l.issued.number == l.accepted.number {
		return nil
	}
	b := &l.ring[(l.issued.number+1)%queueBatches]
	if l.opts.knobs.noWindow {
		return b
	}
	if b.number > l.durable.number+l.window() {
		return nil
	}
	if !b.file.ready && (b.file.opening || b.number != b.file.firstBatch || l.durable.number != b.number-1) && !l.opts.knobs.headerUnordered {
		return nil
	}
	return b
}

// window is how many batches may be in flight. Through the page cache it is
// one: a failed sync is reported to one of two callers, and the kernel forgets
// the other's data just as well.
func (l *Log) window() uint64 {
	if l.direct {
		return maxInFlight
	}
	return 1
}

// Write path, step 5: one direct, synchronous write makes a batch durable.

// issue seals b, writes it and moves the durable prefix. Caller holds mu,
// which is released meanwhile.
func (l *Log) issue(b *batch) {
	if b.number == l.accepted.number {
		l.plan.close()
	}
	l.sealBatch(b)
	l.flying++
	f := b.file
	openFile := !f.ready && !f.opening
	f.opening = true
	if l.opts.knobs.ackBeforeWrite {
		l.advance(b)
		l.deliver()
	}
	l.mu.Unlock()
	var err error
	if openFile {
		if err = l.writeFileHeader(f, b); err == nil {
			l.mu.Lock()
			f.ready, f.carry = true, nil
			l.wake.Broadcast()
			l.mu.Unlock()
		}
	}
	if err == nil {
		err = l.writeDurable(f.f, b.iov, b.off)
	}
	l.mu.Lock()
	l.flying--
	if err != nil {
		l.failLocked(errs.E("replog.Run", errs.Internal, f.path, err))
	}
	if l.err != nil {
		// Whatever the device says after its first failure is not believed.
		return
	}
	l.advance(b)
}

// sealBatch fills in the head: from here on the batch takes no records. Caller
// holds mu.
func (l *Log) sealBatch(b *batch) {
	desc := b.desc[:descPages(b.count)*pageSize]
	clear(desc[headSize+b.count*headSize:])
	h := batchHead{
		uuid: l.id.uuid, incarnation: l.id.incarnation, count: uint32(b.count),
		number: b.number, firstSeq: b.firstSeq, payloadPages: uint32(b.pages),
		prevCRC: l.issued.crc, descCRC: record.Checksum(desc[headSize:]),
	}
	h.put(desc)
	b.iov[0] = desc
	b.crc, b.prevCRC = h.crc, h.prevCRC
	l.issued = batchPlace{b.number, h.last(), h.crc}
}

// writeFileHeader makes f part of the log: first what it carries, then, once
// that is durable, the header that says so.
func (l *Log) writeFileHeader(f *logFile, first *batch) error {
	h := fileHeader{
		identity: l.id, number: f.number, firstSeq: f.firstSeq, firstBatch: f.firstBatch,
		prevCRC: first.prevCRC, size: l.fileSize,
		carryBytes: uint32(len(f.carry)), carryCRC: record.Checksum(f.carry),
	}
	if len(f.carry) > 0 {
		if err := l.writeDurable(f.f, [][]byte{f.carry}, pageSize); err != nil {
			return err
		}
	}
	page := durable.AlignedBytes(pageSize)
	h.put(page)
	return l.writeDurable(f.f, [][]byte{page}, 0)
}

// writeDurable writes and returns once it is durable. After an error the file
// is not written again.
func (l *Log) writeDurable(f durable.File, bufs [][]byte, off int64) error {
	if err := f.WriteAtv(bufs, off); err != nil {
		return err
	}
	if l.direct {
		return nil // the file is open with DSync
	}
	return f.Sync()
}

// advance marks b written and extends the durable prefix over all that
// follows. Caller holds mu.
func (l *Log) advance(b *batch) {
	b.written = true
	for l.durable.number < l.issued.number {
		n := &l.ring[(l.durable.number+1)%queueBatches]
		if !n.written {
			break
		}
		l.extend(n)
	}
	l.wake.Broadcast()
	l.notifyReaders()
}

// extend adds b to the durable prefix. Caller holds mu.
func (l *Log) extend(b *batch) {
	f := b.file
	before := l.durable
	l.durable = batchPlace{b.number, b.firstSeq + dr.Seq(b.count) - 1, b.crc}
	f.addMark(b.off, b.firstSeq, before)
	f.durableEnd = b.off + batchBytes(b.count, b.pages)
	f.lastSeq = l.durable.seq
	l.stats.batches++
	l.stats.payload += uint64(b.pages) * pageSize
	l.stats.written += uint64(f.durableEnd - b.off)
}

// addMark notes the batch at off as a place to read from, if the last such
// place is far enough.
func (f *logFile) addMark(off int64, seq dr.Seq, before batchPlace) {
	if n := len(f.marks); n > 0 && off-f.marks[n-1].off < markSpacing {
		return
	}
	f.marks = append(f.marks, mark{off: off, seq: seq, place: before})
}

// deliver calls the callbacks of acknowledged batches in order. One goroutine
// at a time does it; the others leave it to that one. Caller holds mu, which
// is released around each call.
func (l *Log) deliver() {
	if l.deliverer {
		return
	}
	l.deliverer = true
	for l.delivered < l.durable.number {
		b := &l.ring[(l.delivered+1)%queueBatches]
		l.call(b, nil)
		l.delivered++
		l.signalSpace()
	}
	l.deliverer = false
}

// call runs b's callbacks and lets go of the caller's memory. Caller holds mu.
func (l *Log) call(b *batch, err error) {
	for i := range b.done {
		done := b.done[i]
		l.mu.Unlock()
		done(err)
		l.mu.Lock()
	}
	clear(b.done)
	b.done = b.done[:0]
	clear(b.iov)
	b.iov = b.iov[:1]
}

// failRest tells the callers of all batches that will not become durable. The
// writers are gone.
func (l *Log) failRest(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopping = true
	l.deliver()
	err := l.err
	if err == nil {
		err = errs.E("replog.Run", errs.Canceled, l.opts.Dir, cause)
	}
	for l.delivered < l.accepted.number {
		l.delivered++
		l.call(&l.ring[l.delivered%queueBatches], err)
	}
	l.notifyReaders()
	l.signalSpace()
}
