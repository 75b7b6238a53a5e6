package nbd

// writeDirect writes p at any alignment. The caller holds the range lock over
// whole blocks when the file is direct, so read-modify-write of the first and
// last block loses nobody's bytes. On a buffered file it is a plain write.
func (f *File) writeDirect(p []byte, off int64) error {
	if !f.direct || f.aligned(p, off) {
		return pwriteFull(f.fd, p, off)
	}
	a := int64(f.align)
	lo := off &^ (a - 1)
	hi := (off + int64(len(p)) + a - 1) &^ (a - 1)
	b := f.pool.get(int(hi-lo), nil)
	defer b.release()
	w := b.b[:hi-lo]
	if off > lo {
		if err := preadFull(f.fd, w[:a], lo); err != nil {
			return err
		}
	}
	if end := off + int64(len(p)); end < hi && (hi-a > lo || off == lo) {
		if err := preadFull(f.fd, w[len(w)-int(a):], hi-a); err != nil {
			return err
		}
	}
	copy(w[off-lo:], p)
	return pwriteFull(f.fd, w, lo)
}

// readDirect reads at any alignment, through a bounce buffer if it must.
func (f *File) readDirect(p []byte, off int64) error {
	if f.aligned(p, off) {
		return preadFull(f.fd, p, off)
	}
	a := int64(f.align)
	lo := off &^ (a - 1)
	hi := (off + int64(len(p)) + a - 1) &^ (a - 1)
	b := f.pool.get(int(hi-lo), nil)
	defer b.release()
	if err := preadFull(f.fd, b.b[:hi-lo], lo); err != nil {
		return err
	}
	copy(p, b.b[off-lo:])
	return nil
}

// aligned reports whether the disk takes p at off as it is.
func (f *File) aligned(p []byte, off int64) bool {
	return (off|int64(len(p)))&int64(f.align-1) == 0 && alignedTo(p, f.align)
}

// lockSpan takes the range of whole blocks a write-like operation touches,
// alone if it reads before it writes. When it reports false, op is parked.
func (f *File) lockSpan(op *Op) bool {
	a := int64(f.align)
	lo := op.Offset &^ (a - 1)
	hi := (op.Offset + op.Length + a - 1) &^ (a - 1)
	return f.locks.acquire(op, lo, hi, lo != op.Offset || hi != op.Offset+op.Length)
}

// unlock ends op's place in the range lock and starts those it held up.
func (f *File) unlock(op *Op) {
	if !f.direct {
		return
	}
	free := f.locks.release(op)
	for next := free.pop(); next != nil; next = free.pop() {
		f.resume(next)
	}
}

// resume starts a write whose place in the range lock came free: where it
// came from, if that was a ring, else in a worker.
func (f *File) resume(op *Op) {
	if r := op.span.ring; r != nil {
		op.span.ring = nil
		r.submitLater(op)
		return
	}
	f.work.push(op)
}

// resubmitter takes back an operation that had to wait for the range lock.
type resubmitter interface{ submitLater(op *Op) }
