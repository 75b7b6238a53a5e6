package replog

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Options says which log to open and how large it may grow.
type Options struct {
	Dir      string     // the log's own directory; made if missing
	FS       durable.FS // durable.OS{} outside tests
	Domain   dr.DomainID
	Timeline dr.TimelineID
	// Epoch is the reign in which records are appended. A log written in a
	// higher one is refused with kind Fenced.
	Epoch dr.Epoch
	// Quota bounds the log on disk, in bytes; at least four files. It may
	// change between Opens.
	Quota int64
	// FileSize is the size of a log file in bytes, whole pages, at least 16
	// MiB. 0 means 64 MiB for a new log and what it has for an old one; a
	// log's file size never changes.
	FileSize int64
	Logger   *slog.Logger
	// Verified says that the caller has compared the payloads of what it
	// appends with their checksums, in the very memory it appends: Append does
	// not do it again. At 64 KiB a record that was a third of the DRVA's work on
	// checksums, and those 11 % of its processor time.
	Verified bool

	// minFile replaces minFileSize in tests, so that every crash of many
	// files can be tried.
	minFile int64
	// knobs break single rules, to show that the tests would notice.
	knobs knobs
}

// knobs switch off single rules of the log. All false outside tests that prove
// the worth of other tests.
type knobs struct {
	ackBeforeWrite  bool // acknowledge a batch before it is written
	noChain         bool // accept a batch without looking at what it follows
	noEvidence      bool // take every bad batch for a torn tail
	noWindow        bool // write batches while older ones are still in flight
	headerUnordered bool // write batches of a file before its header
	noSettle        bool // trust the tail that was read as durable
	freeBeforeState bool // recycle files before the trim point is durable
	sameIncarnation bool // do not raise the incarnation
}

// ErrBusy is in the chain of an Append's Full error when the log lacks no
// space but time: its queue is full, or the next file is still being
// pre-written.
var ErrBusy = errors.New("the log has more waiting than it can take")

// Log is an open replication log. Append has one caller; everything else may
// be called from any goroutine.
type Log struct {
	// Immutable after Open.
	opts      Options
	fs        durable.FS
	log       *slog.Logger
	id        identity
	fileSize  int64
	maxFiles  int
	carryMax  int  // bytes
	direct    bool // files are open for direct I/O
	unlock    io.Closer
	recovered Recovery
	grow      chan struct{} // to the grower: look again; written under mu, never closed
	space     chan struct{} // to WaitSpace: try again; written under mu, never closed

	scratch [record.Size]byte // owned by the caller of Append

	// State on disk. stateMu is taken before mu, never after.
	stateMu   sync.Mutex
	st        state        // guarded by stateMu
	stateFile durable.File // guarded by stateMu
	statePage []byte       // guarded by stateMu; aligned
	suspect   int          // copy that may not be durable; guarded by stateMu

	// Guarded by mu.
	mu        sync.Mutex
	wake      *sync.Cond // writers: a batch may be written, or it is time to stop
	files     []*logFile // in use, in order of number; the last takes appends
	free      []*slot    // pre-written
	slots     int        // all slots, and with them the next slot's id
	growErr   error      // why pre-writing failed last; nil once it works
	nextFile  uint64     // number of the next file
	carries   []int      // of Append: bytes to carry of each file it begins
	plan      layout     // where the next record goes
	state     *inForce   // after the last record accepted
	ring      [queueBatches]batch
	accepted  batchPlace // last batch laid out
	issued    batchPlace // last batch sealed
	durable   batchPlace // last batch of the durable prefix
	delivered uint64     // last batch whose callbacks were called
	deliverer bool       // a goroutine is calling them
	flying    int        // batches being written
	refused   bool       // an Append was refused since WaitSpace last returned
	running   bool
	stopping  bool // no further batch is issued
	closed    bool
	err       error // why the log stopped; sticky
	trimmed   dr.Seq
	readers   map[*Reader]struct{}
	stats     counters
	stopped   chan struct{} // closed by Run when its goroutines are gone
}

// batchPlace is a place in the chain of batches.
type batchPlace struct {
	number uint64
	seq    dr.Seq // of the batch's last record
	crc    uint32 // of the batch's head; not kept for accepted batches
}

type counters struct {
	batches, records, payload, written uint64
}

// slot is one pre-written file on disk.
type slot struct {
	id   int
	path string
	f    durable.File
	size int64 // bytes
}

// logFile is the life of a slot between two trims.
type logFile struct {
	*slot
	number     uint64
	firstSeq   dr.Seq
	firstBatch uint64
	start      int64 // offset of the first batch

	// Guarded by Log.mu.
	carry      []byte // until the header is written
	opening    bool   // a writer is writing the header
	ready      bool   // the header is durable
	durableEnd int64  // offset after the last durable batch
	lastSeq    dr.Seq // of the last durable batch; firstSeq-1 before the first
	marks      []mark
	gone       bool // trimmed
}

// mark is a place to start reading a file from.
type mark struct {
	off   int64
	seq   dr.Seq // first of the batch there
	place batchPlace
}

// batch is a slot of the queue: a batch being filled, written or acknowledged.
type batch struct {
	file     *logFile
	off      int64
	number   uint64
	firstSeq dr.Seq
	count    int
	pages    int      // of payload
	crc      uint32   // of the head, once sealed
	prevCRC  uint32   // of the head before, once sealed
	desc     []byte   // head and descriptors; aligned, room for the most
	iov      [][]byte // desc, then the payloads
	copies   []byte   // aligned home of payloads that were copied; made at need
	copied   int      // bytes of copies in use
	done     []func(error)
	written  bool
}

// Recovery is what Open found.
type Recovery struct {
	// First and Last are the seqs held on disk: whole files, so First may lie
	// below the trim point. First is Last+1 when all was trimmed, both are 0
	// when nothing was ever appended. The log continues at Last+1.
	First, Last dr.Seq
	// Trimmed is the persisted trim point: 0, or the upTo of the last Trim.
	Trimmed dr.Seq
	// TornTail is set when an unfinished, never acknowledged end was dropped.
	TornTail bool
	// Carried are the records in force just before First, in order of seq: to
	// rebuild the state as of any later point, apply them and then read from
	// First.
	Carried []record.Record
	// InForce are the records in force after Last.
	InForce []record.Record
	// LastHostSeq is, per session, the last hostSeq at or before Last.
	LastHostSeq map[dr.Session]dr.HostSeq
}

// Recovered returns what Open found. The caller may keep and change it.
func (l *Log) Recovered() Recovery { return l.recovered }

// failLocked stops the log for good. Caller holds mu.
func (l *Log) failLocked(err error) {
	if l.err == nil {
		l.err = err
	}
	l.stopping = true
	l.wake.Broadcast()
	l.notifyReaders()
	l.signalSpace()
}

// notifyReaders tells readers that the durable prefix or the log's fate
// changed. Caller holds mu.
func (l *Log) notifyReaders() {
	for r := range l.readers {
		select {
		case r.notify <- struct{}{}:
		default:
		}
	}
}

// signalSpace lets a refused Append be tried again. Caller holds mu.
func (l *Log) signalSpace() {
	if !l.refused {
		return
	}
	select {
	case l.space <- struct{}{}:
	default:
	}
}

// askToGrow wakes the grower. Caller holds mu.
func (l *Log) askToGrow() {
	select {
	case l.grow <- struct{}{}:
	default:
	}
}

// stoppedErr is why no more can be appended or read. Caller holds mu.
func (l *Log) stoppedErr(op string) error {
	if l.err != nil {
		return errs.E(op, errs.Internal, l.opts.Dir, l.err)
	}
	if l.closed || l.stopping {
		return errs.New(op, errs.Canceled, l.opts.Dir, "log is closed")
	}
	return nil
}

// Close stops the log: batches in flight are finished, those not begun fail
// with kind Canceled, Run returns. What was acknowledged is noted, so that the
// next Open can tell if any of it is missing. Readers end. Safe to call twice.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed, l.stopping = true, true
	running := l.running
	l.wake.Broadcast()
	l.askToGrow()
	l.notifyReaders()
	l.signalSpace()
	l.mu.Unlock()
	if running {
		<-l.stopped
	} else {
		l.failRest(context.Canceled)
	}
	var err error
	l.mu.Lock()
	failed := l.err
	l.mu.Unlock()
	if failed == nil {
		err = l.saveState(func(*state) {})
	}
	return errors.Join(err, l.closeFiles())
}

func (l *Log) closeFiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []error
	for _, f := range l.files {
		all = append(all, f.f.Close())
	}
	for _, s := range l.free {
		all = append(all, s.f.Close())
	}
	if l.stateFile != nil {
		all = append(all, l.stateFile.Close())
	}
	return errors.Join(append(all, l.unlock.Close())...)
}
