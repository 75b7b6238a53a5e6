package replog

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Append accepts records for the log, in order, and returns at once. done is
// called when all of them are durable, or with the error that stopped the log;
// calls come in the order of the Appends, one at a time, from a goroutine of
// Run, and must not block. done may be nil.
//
// recs have dense rising seqs that continue the log; a log without files
// starts at any seq. Payloads that are page-aligned and whole pages long are
// written from where they lie and must stay untouched until done; others are
// copied. recs itself is not kept. Checksums are verified here, unless
// Options.Verified says they were, so that the log never holds what it would
// have to call damaged.
//
// Append takes all or nothing. Errors: Full when the quota, the disk or (with
// ErrBusy in the chain) the queue has no room now: wait with WaitSpace and
// repeat; Invalid for records out of order, malformed or too many; Canceled
// after Close; the log's failure once it stopped. Only one goroutine appends.
// It does not allocate in steady state.
func (l *Log) Append(recs []record.Record, done func(error)) error {
	if len(recs) == 0 {
		return errs.New("replog.Append", errs.Invalid, l.opts.Dir, "no records")
	}
	if err := l.check(recs); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.stoppedErr("replog.Append"); err != nil {
		return err
	}
	if len(l.files) > 0 && recs[0].Seq != l.accepted.seq+1 {
		return errs.New("replog.Append", errs.Invalid, l.opts.Dir,
			fmt.Sprintf("record has seq %d, the log continues at %d", recs[0].Seq, l.accepted.seq+1))
	}
	if err := l.admit(recs); err != nil {
		return err
	}
	for i := range recs {
		l.take(&recs[i])
	}
	if done != nil {
		b := l.tail()
		b.done = append(b.done, done)
	}
	l.stats.records += uint64(len(recs))
	l.wake.Broadcast()
	return nil
}

// check verifies what can be verified without the log's state.
func (l *Log) check(recs []record.Record) error {
	buf := l.scratch[:]
	var parsed record.Record
	for i := range recs {
		r := &recs[i]
		if r.Seq == 0 || i > 0 && r.Seq != recs[i-1].Seq+1 {
			return errs.New("replog.Append", errs.Invalid, "", fmt.Sprintf("seq %d does not follow", r.Seq))
		}
		if r.Kind == record.Marker {
			return errs.New("replog.Append", errs.Invalid, "", "markers belong on the wire only")
		}
		// What cannot be read back must not be written.
		r.Put(buf)
		if err := parsed.Parse(buf); err != nil {
			return errs.E("replog.Append", errs.Invalid, "", err)
		}
		if l.opts.Verified {
			continue
		}
		if err := r.CheckPayload(); err != nil {
			return errs.E("replog.Append", errs.Invalid, "", err)
		}
	}
	return nil
}

// admit decides whether all of recs can be taken. Caller holds mu.
func (l *Log) admit(recs []record.Record) error {
	y := l.plan // a copy: the real one moves in take
	y.carry = l.state.bytes
	batches := 0
	l.carries = l.carries[:0]
	for i := range recs {
		pages := recs[i].PaddedLen() / pageSize
		if !y.fits(pages, l.carryMax) {
			return errs.New("replog.Append", errs.Invalid, l.opts.Dir, "record is larger than a log file").
				WithRemedy("create the log with larger files")
		}
		carry := y.carry
		switch y.place(pages, l.state.growth(&recs[i])) {
		case newFile:
			l.carries = append(l.carries, carry)
			batches++
		case newBatch:
			batches++
		}
	}
	if batches > queueBatches {
		return errs.New("replog.Append", errs.Invalid, l.opts.Dir,
			fmt.Sprintf("%d records need %d batches, the queue takes %d", len(recs), batches, queueBatches)).
			WithRemedy("append in smaller pieces")
	}
	if y.carry > l.carryMax {
		return tooMuchToCarry(l.opts.Dir, y.carry, l.carryMax)
	}
	if int(l.accepted.number-l.delivered)+batches > queueBatches {
		return l.refuse(errs.E("replog.Append", errs.Full, l.opts.Dir, ErrBusy))
	}
	if len(l.carries) > min(len(l.free), l.maxFiles-len(l.files)) {
		return l.refuse(l.noFile())
	}
	return nil
}

// noFile says why there is no pre-written file. Caller holds mu.
func (l *Log) noFile() *errs.Error {
	switch {
	case len(l.files)+min(len(l.free), len(l.carries)) >= l.maxFiles:
		return errs.New("replog.Append", errs.Full, l.opts.Dir, fmt.Sprintf("all %d log files are in use", l.maxFiles)).
			WithRemedy("restore the link to the store so that the log drains, or raise its quota")
	case l.growErr != nil:
		return errs.E("replog.Append", errs.Full, l.opts.Dir, l.growErr).
			WithRemedy("free space on the file system of the log")
	}
	return errs.E("replog.Append", errs.Full, l.opts.Dir, ErrBusy)
}

// refuse arms WaitSpace. Caller holds mu.
func (l *Log) refuse(e *errs.Error) error {
	l.refused = true
	select {
	case <-l.space: // an older signal says nothing about this refusal
	default:
	}
	l.askToGrow()
	return e
}

// WaitSpace blocks until an Append refused as Full is worth repeating; it may
// be refused again. It returns at once when none was refused since the last
// WaitSpace. Errors: Canceled when ctx ends, the log's own error once it
// stopped.
func (l *Log) WaitSpace(ctx context.Context) error {
	l.mu.Lock()
	refused, err := l.refused, l.stoppedErr("replog.WaitSpace")
	l.mu.Unlock()
	if err != nil || !refused {
		return err
	}
	select {
	case <-ctx.Done():
		return errs.E("replog.WaitSpace", errs.Canceled, l.opts.Dir, context.Cause(ctx))
	case <-l.space:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = false
	return l.stoppedErr("replog.WaitSpace")
}

// tail is the last batch laid out. Caller holds mu.
func (l *Log) tail() *batch { return &l.ring[l.accepted.number%queueBatches] }

// take lays r out. Caller holds mu and has admitted r: the steps are those
// admit saw, because files get the same room for what they carry.
func (l *Log) take(r *record.Record) {
	if len(l.carries) > 0 {
		l.plan.carry = l.carries[0]
	}
	switch l.plan.place(r.PaddedLen()/pageSize, 0) {
	case newFile:
		l.carries = l.carries[:copy(l.carries, l.carries[1:])]
		l.beginFile(r)
		l.beginBatch(r)
	case newBatch:
		l.beginBatch(r)
	}
	l.tail().add(r)
	l.accepted.seq = r.Seq
	l.state.apply(r)
}

// beginFile turns a free slot into the file that starts with r. Its header is
// written when its first batch is. Caller holds mu.
func (l *Log) beginFile(r *record.Record) {
	// The lowest slot first, so that a lowered quota can take the highest.
	s := slices.MinFunc(l.free, func(a, b *slot) int { return cmp.Compare(a.id, b.id) })
	l.removeFree(s)
	f := &logFile{
		slot: s, number: l.nextFile, firstSeq: r.Seq, firstBatch: l.accepted.number + 1,
		start: l.plan.off, durableEnd: l.plan.off, lastSeq: r.Seq - 1,
		carry: durable.AlignedBytes(int(l.plan.off) - pageSize),
		marks: make([]mark, 0, l.fileSize/markSpacing+1),
	}
	l.nextFile++
	l.state.put(f.carry)
	l.files = append(l.files, f)
	l.askToGrow()
}

// beginBatch takes the next place of the queue. Caller holds mu.
func (l *Log) beginBatch(r *record.Record) {
	l.accepted.number++
	b := l.tail()
	b.file, b.off = l.files[len(l.files)-1], l.plan.off
	b.number, b.firstSeq = l.accepted.number, r.Seq
	b.count, b.pages, b.copied, b.written = 0, 0, 0, false
	if b.desc == nil {
		b.desc = durable.AlignedBytes(descPages(maxBatchRecords) * pageSize)
		b.iov = make([][]byte, 1, 1+maxBatchRecords)
	}
}

// add puts r at the end of the batch.
func (b *batch) add(r *record.Record) {
	c := *r
	c.Page = 0
	if n := r.PaddedLen(); n > 0 {
		c.Page = uint32(b.pages)
		b.iov = append(b.iov, b.payload(r, n))
		b.pages += n / pageSize
	}
	c.Put(b.desc[headSize+b.count*record.Size:])
	b.count++
}

// payload returns r's payload as whole aligned pages: itself, or a copy.
func (b *batch) payload(r *record.Record, padded int) []byte {
	if p := r.Payload; len(p) >= padded && r.PayloadLen() == padded && durable.Aligned(p[:padded]) {
		return p[:padded]
	}
	if b.copies == nil {
		b.copies = durable.AlignedBytes(maxBatchPages * pageSize)
	}
	p := b.copies[b.copied : b.copied+padded : b.copied+padded]
	b.copied += padded
	clear(p[copy(p, r.Payload[:r.PayloadLen()]):])
	return p
}
