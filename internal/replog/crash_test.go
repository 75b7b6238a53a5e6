package replog

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// The crash harness. A walk is a chain of lives of one log: each opens what the
// crash before left, checks it against what was promised, appends, trims and
// reads until the next crash. Within a life every operation on the file system
// is a place where images are taken, of power losses and of deaths of the
// process, recovered, checked, crashed again during recovery and once more
// checked. Time is virtual; operations take random times, so that two batches
// really are in flight.

// history is what the harness knows about a log: which records were offered,
// what became of them. Records are made from seq and salt alone.
type history struct {
	salts     []uint64 // of each seq offered, index seq-1; the latest offer
	decided   dr.Seq   // recovered or acknowledged in an earlier life: never to change
	acked     dr.Seq
	offered   dr.Seq // by Append, in this life or before
	trimAcked dr.Seq
	trimAsked dr.Seq

	made *sync.Map // of [2]uint64 seq, salt to the record, which never changes
}

func (h *history) clone() *history {
	c := *h
	c.salts = append([]uint64(nil), h.salts...)
	return &c
}

// make returns the record of a seq as it was last offered.
func (h *history) make(seq dr.Seq) record.Record {
	key := [2]uint64{uint64(seq), h.salts[seq-1]}
	r, ok := h.made.Load(key)
	if !ok {
		r, _ = h.made.LoadOrStore(key, gen(seq, h.salts[seq-1]))
	}
	return r.(record.Record)
}

// gen makes a record of any kind from seq and salt.
func gen(seq dr.Seq, salt uint64) record.Record {
	r := rand.New(rand.NewPCG(uint64(seq), salt))
	index := 1 + r.IntN(3)
	text := fmt.Sprintf("%d of %d", seq, salt)
	switch r.IntN(16) {
	case 0:
		return control(record.Disk, seq, index, text)
	case 1:
		return control(record.Session, seq, index, text)
	case 2:
		return control([]record.Kind{record.SyncEnd, record.TrackBegin}[r.IntN(2)], seq, index, "")
	case 3:
		return control([]record.Kind{record.Checkpoint, record.CheckpointResult}[r.IntN(2)], seq, 0, text)
	case 4:
		return control([]record.Kind{record.Meta, record.Disk, record.Session}[r.IntN(3)], seq, index, "")
	case 5:
		return control(record.Meta, seq, index, text)
	case 6:
		return record.Record{Kind: record.Zero, Length: 1 << 20, Seq: seq, Session: dr.Session(index), HostSeq: dr.HostSeq(seq), Time: int64(salt)}
	case 7:
		return write(seq, 2+r.IntN(5), salt)
	}
	return write(seq, 1, salt)
}

// inForceAt is the state after a seq, worked out the plain way.
func (h *history) inForceAt(last dr.Seq) (recs map[string]record.Record, hosts map[dr.Session]dr.HostSeq) {
	recs, hosts = map[string]record.Record{}, map[dr.Session]dr.HostSeq{}
	for seq := dr.Seq(1); seq <= last; seq++ {
		r := h.make(seq)
		if r.Session != 0 {
			hosts[r.Session] = max(hosts[r.Session], r.HostSeq)
		}
		name := ""
		switch r.Kind {
		case record.Disk, record.Meta:
			name = fmt.Sprint(r.Kind, r.Disk)
		case record.Session:
			name = fmt.Sprint(r.Kind, r.Session)
		case record.SyncEnd, record.TrackBegin:
			name = fmt.Sprint("sync", r.Disk)
		case record.Checkpoint, record.CheckpointResult:
			name = r.Kind.String()
		default:
			continue
		}
		recs[name] = r
		if r.Length > 0 || r.Kind == record.SyncEnd || r.Kind == record.TrackBegin {
			continue
		}
		delete(recs, name)
		switch r.Kind {
		case record.Disk:
			delete(recs, fmt.Sprint("sync", r.Disk))
		case record.Session:
			delete(hosts, r.Session)
		}
	}
	return recs, hosts
}

// check compares an opened log with the history.
func (h *history) check(l *Log) error {
	rec := l.Recovered()
	switch {
	case rec.Last < h.acked || rec.Last < h.decided:
		return fmt.Errorf("holds up to seq %d; %d was acknowledged, %d held before", rec.Last, h.acked, h.decided)
	case rec.Last > h.offered:
		return fmt.Errorf("holds up to seq %d, only %d was ever offered", rec.Last, h.offered)
	case rec.First > h.trimAsked+1 || rec.Trimmed < h.trimAcked || rec.Trimmed > h.trimAsked:
		return fmt.Errorf("first %d, trimmed %d; trims to %d succeeded, to %d were asked for", rec.First, rec.Trimmed, h.trimAcked, h.trimAsked)
	}
	if err := h.checkForce(rec.InForce, rec.LastHostSeq, rec.Last); err != nil {
		return fmt.Errorf("in force: %w", err)
	}
	if rec.First > 0 {
		if err := h.checkForce(rec.Carried, nil, rec.First-1); err != nil {
			return fmt.Errorf("carried: %w", err)
		}
	}
	got, err := readAll(l, 0)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if rec.First > 0 && len(got) != int(rec.Last-rec.First+1) {
		return fmt.Errorf("read %d records of %d to %d", len(got), rec.First, rec.Last)
	}
	for i := range got {
		want := h.make(rec.First + dr.Seq(i))
		if err := same(&got[i], &want); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) checkForce(got []record.Record, hosts map[dr.Session]dr.HostSeq, at dr.Seq) error {
	want, wantHosts := h.inForceAt(at)
	if len(got) != len(want) {
		return fmt.Errorf("%d records after seq %d, want %d", len(got), at, len(want))
	}
	bySeq := map[dr.Seq]record.Record{}
	for _, r := range want {
		bySeq[r.Seq] = r
	}
	for i := range got {
		w := bySeq[got[i].Seq]
		if err := same(&got[i], &w); err != nil {
			return err
		}
	}
	if hosts != nil && !maps.Equal(hosts, wantHosts) {
		return fmt.Errorf("host seqs %v, want %v", hosts, wantHosts)
	}
	return nil
}

// walk is one chain of lives.
type walk struct {
	seed    uint64
	lives   int
	every   int // one of so many moments is examined with images; 1 is all
	knobs   knobs
	faults  bool // writes and syncs fail now and then
	buffers bool // the file system has no direct I/O
	slow    bool // writing the state takes long

	rand *rand.Rand
	opts Options

	mu                    sync.Mutex // guards what follows
	fs                    *durabletest.FS
	h                     *history
	next                  *durabletest.FS    // what the crash left
	then                  *history           // as it was at the crash
	found                 error              // the first violation
	cancel                context.CancelFunc // ends the work of the life
	moments, images, torn int
}

func (w *walk) run(t *testing.T) error {
	w.rand = rand.New(rand.NewPCG(w.seed, 77))
	w.fs = durabletest.New(durabletest.Config{NoDirect: w.buffers})
	w.h = &history{made: &sync.Map{}}
	w.opts = testOptions(nil, "log", 5)
	w.opts.knobs = w.knobs
	for life := range w.lives {
		synctest.Test(t, func(t *testing.T) { w.life() })
		if w.found != nil {
			return fmt.Errorf("seed %d, life %d: %w", w.seed, life, w.found)
		}
		w.fs, w.h = w.next, w.then
	}
	return nil
}

func (w *walk) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.found == nil {
		w.found = fmt.Errorf(format, args...)
	}
	w.fs.Halt()
	if w.cancel != nil {
		w.cancel() // nobody may wait for a machine that stands still
	}
}

// life runs the log from one crash to the next.
func (w *walk) life() {
	w.next, w.then = nil, nil
	crash := w.fs.Ops() + 10 + int64(w.rand.IntN(120))
	delays := rand.New(rand.NewPCG(w.seed, w.rand.Uint64()))
	w.fs.SetHook(func(op durabletest.Op) error { return w.moment(op, crash, delays) })
	opts := w.opts
	opts.FS = w.fs
	l, err := Open(context.Background(), opts)
	if err == nil {
		err = w.h.check(l)
		if err != nil {
			w.violated("after open: %v", err)
		}
		w.lock(func() {
			w.h.decided = l.Recovered().Last
			w.h.acked = w.h.decided
			w.h.offered = w.h.decided
			if l.Recovered().TornTail {
				w.torn++
			}
		})
		w.work(l)
	} else if !w.fs.Halted() && !(w.faults && errs.Is(err, errs.Unavailable)) {
		w.violated("open: %v", err)
	}
	if w.next == nil { // died of a fault before the crash
		w.stopHere()
	}
}

func (w *walk) lock(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// stopHere takes the image that the next life starts from.
func (w *walk) stopHere() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != nil {
		return
	}
	w.next = w.fs.Image(w.rand.Uint64(), durabletest.Loss(w.rand.IntN(2)))
	w.then = w.h.clone()
	w.fs.Halt()
}

// moment is one phase of one operation: it takes its time, is examined, may
// fail, may be the end.
func (w *walk) moment(op durabletest.Op, crash int64, delays *rand.Rand) error {
	if !op.Kind.Mutates() {
		return nil
	}
	var pause time.Duration
	var examine, fail bool
	w.lock(func() {
		w.moments++
		examine = w.every > 0 && w.moments%w.every == 0 && w.next == nil
		fail = w.faults && delays.IntN(80) == 0 && (op.Kind == durabletest.Write || op.Kind == durabletest.Sync)
		if op.Phase == durabletest.During && delays.IntN(3) > 0 {
			pause = time.Duration(delays.IntN(1000)) * time.Microsecond
		}
		if w.slow && op.Phase == durabletest.During && filepath.Base(op.Path) == stateName {
			pause = 20 * time.Millisecond
		}
	})
	if examine {
		if err := w.examine(op); err != nil {
			w.violated("%v %d (%s) phase %d: %w", op.Kind, op.N, op.Path, op.Phase, err)
		}
	}
	if op.N >= crash && int64(op.Phase) == crash%3 || op.N > crash+3 {
		w.stopHere()
	}
	time.Sleep(pause)
	if fail && op.Phase == durabletest.Before {
		return syscall.EIO
	}
	return nil
}

// examine recovers what this moment would leave, in a few variants.
func (w *walk) examine(op durabletest.Op) error {
	var h *history
	var image *durabletest.FS
	seed := uint64(op.N)*8 + uint64(op.Phase)
	loss := durabletest.Loss(seed % 3 / 2) // two of three are power losses
	w.lock(func() { h, image = w.h.clone(), w.fs.Image(seed, loss); w.images++ })
	recovered, last, err := w.recover(image, h, 0)
	if err != nil {
		return fmt.Errorf("image %d, loss %d: %w", seed, loss, err)
	}
	// What Open tells of is durable, and a second Open agrees.
	h.decided = last
	if _, again, err := w.recover(recovered.Image(seed, durabletest.PowerLoss), h, 0); err != nil || again != last {
		return fmt.Errorf("image %d, loss %d, recovered to %d; power lost after recovery: %d, %w", seed, loss, last, again, err)
	}
	h.decided = 0
	// A crash in the middle of recovery changes nothing either.
	from := image.Ops()
	halted, _, err := w.recover(w.copyOf(image), h, from+1+int64(seed%uint64(max(1, recovered.Ops()-from))))
	if err != nil {
		return fmt.Errorf("image %d, loss %d, crash during recovery: %w", seed, loss, err)
	}
	if _, _, err = w.recover(halted.Image(seed, durabletest.PowerLoss), h, 0); err != nil {
		return fmt.Errorf("image %d, loss %d, after a crash during recovery: %w", seed, loss, err)
	}
	return nil
}

func (w *walk) copyOf(fs *durabletest.FS) *durabletest.FS {
	return fs.Image(0, durabletest.ProcessDeath)
}

// recover opens a copy of the log on fs and checks it. With crashAt the machine
// stops at that operation instead.
func (w *walk) recover(fs *durabletest.FS, h *history, crashAt int64) (*durabletest.FS, dr.Seq, error) {
	fs = w.copyOf(fs)
	if crashAt > 0 {
		fs.CrashAt(crashAt, durabletest.Phase(crashAt%3))
	}
	opts := w.opts
	opts.FS = fs
	l, err := Open(context.Background(), opts)
	if err != nil {
		if crashAt > 0 && fs.Halted() {
			return fs, 0, nil
		}
		return fs, 0, err
	}
	if err := h.check(l); err != nil && !fs.Halted() {
		return fs, 0, err
	}
	return fs, l.Recovered().Last, l.closeFiles()
}

// work appends, trims and reads until the crash.
func (w *walk) work(l *Log) {
	ctx, cancel := context.WithCancel(context.Background())
	w.lock(func() { w.cancel = cancel })
	var all sync.WaitGroup
	all.Go(func() {
		_ = l.Run(ctx) // fails with the crash
		cancel()
	})
	rec := l.Recovered()
	from, ship := rec.Last+1, max(rec.First, rec.Trimmed+1)
	reader, err := l.NewReader(ship)
	if err != nil {
		w.violated("new reader: %v", err)
		cancel()
		all.Wait()
		return
	}
	salt, keep := w.rand.Uint64(), from+dr.Seq(w.rand.IntN(6))
	actions := rand.New(rand.NewPCG(w.seed, w.rand.Uint64()))
	all.Go(func() { w.appendAll(ctx, l, from, salt, keep, actions) })
	all.Go(func() { w.readAndTrim(ctx, l, reader, ship) })
	stuck := time.AfterFunc(time.Hour, func() {
		w.violated("nothing moves: %+v, trims asked to %d, err %v", l.Usage(), w.h.trimAsked, l.Append([]record.Record{write(l.Usage().Accepted+1, 1, 0)}, nil))
	})
	all.Wait()
	stuck.Stop()
	_ = l.Close() // after a crash it has nothing to say
}

// appendAll offers records. Those that an earlier life offered and lost come
// again, as hosts replay them, up to keep.
func (w *walk) appendAll(ctx context.Context, l *Log, next dr.Seq, salt uint64, keep dr.Seq, r *rand.Rand) {
	for ctx.Err() == nil {
		var recs []record.Record
		w.lock(func() {
			for range 1 + r.IntN(4) {
				s := salt
				if next <= keep && int(next) <= len(w.h.salts) {
					s = w.h.salts[next-1]
				}
				if int(next) > len(w.h.salts) {
					w.h.salts = append(w.h.salts, 0)
				}
				w.h.salts[next-1] = s
				recs = append(recs, w.h.make(next))
				next++
			}
			w.h.offered = next - 1
		})
		last := next - 1
		for {
			err := l.Append(recs, func(err error) {
				if err == nil {
					w.lock(func() { w.h.acked = last })
				}
			})
			if err == nil {
				break
			}
			if !errs.Is(err, errs.Full) {
				if l.Usage().Durable < last && !w.fs.Halted() && !w.faults && ctx.Err() == nil {
					w.violated("append: %v", err)
				}
				return
			}
			if l.WaitSpace(ctx) != nil {
				return
			}
		}
		time.Sleep(time.Duration(r.IntN(400)) * time.Microsecond)
	}
}

// readAndTrim follows the log, compares and trims behind itself.
func (w *walk) readAndTrim(ctx context.Context, l *Log, reader *Reader, next dr.Seq) {
	defer reader.Close()
	for {
		recs, err := reader.Next(ctx)
		if err != nil {
			if ctx.Err() == nil && !w.fs.Halted() && !w.faults {
				w.violated("next: %v", err)
			}
			return
		}
		for i := range recs {
			var want record.Record
			w.lock(func() { want = w.h.make(next) })
			if err := same(&recs[i], &want); err != nil {
				w.violated("reader: %v", err)
				return
			}
			next++
		}
		if next%3 != 0 && l.Usage().Files < 4 { // never so seldom that the log stays full
			continue
		}
		upTo := next - 1 - dr.Seq(uint64(next)%7)
		if upTo <= w.h.trimAsked || int64(upTo) < 0 {
			continue
		}
		w.lock(func() { w.h.trimAsked = upTo })
		if l.Trim(upTo) == nil {
			w.lock(func() { w.h.trimAcked = upTo })
		}
	}
}

// envInt returns an environment knob for longer runs.
func envInt(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func TestCrashEverywhere(t *testing.T) {
	for seed := range uint64(envInt("HOLDFAST_SIM_N", 8)) {
		w := &walk{seed: seed, lives: 8, every: 5, faults: seed%3 == 1, buffers: seed%4 == 3}
		if err := w.run(t); err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d: %d moments, %d images, torn tails in %d of %d lives, %d records offered", seed, w.moments, w.images, w.torn, w.lives, w.h.offered)
	}
}

// Every rule of the log is broken once; the harness must notice each.
func TestHarnessNoticesBrokenRules(t *testing.T) {
	for name, w := range map[string]*walk{
		"acknowledged before written":          {knobs: knobs{ackBeforeWrite: true}},
		"more than two batches in flight":      {knobs: knobs{noWindow: true}},
		"batches before their file's header":   {knobs: knobs{headerUnordered: true}},
		"what was read is taken for durable":   {knobs: knobs{noSettle: true}},
		"files recycled before the trim point": {knobs: knobs{freeBeforeState: true}, slow: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(200) {
				again := &walk{seed: seed, lives: max(w.lives, 4), every: max(w.every, 4), knobs: w.knobs, slow: w.slow}
				if err := again.run(t); err != nil {
					t.Logf("noticed: %v", err)
					return
				}
			}
			t.Error("nothing noticed in 200 walks")
		})
	}
}

// A dropped batch must not continue a batch written in the place of the one
// before it: if that one is another, the chain tells; if it is the same to the
// last byte, because the hosts replayed it, only the incarnation does.
func TestDroppedBatchStaysDropped(t *testing.T) {
	for _, c := range []struct {
		salt           uint64 // of the record written in place of the dropped one; 1 is the same
		writer, reader knobs
		noticed        bool
	}{
		{1, knobs{}, knobs{}, false},
		{2, knobs{}, knobs{}, false},
		{1, knobs{sameIncarnation: true}, knobs{}, true},
		{2, knobs{}, knobs{noChain: true}, true},
	} {
		fs := durabletest.New(durabletest.Config{})
		opts := testOptions(fs, "log", 4)
		l := start(t, opts)
		for seq := dr.Seq(1); seq <= 5; seq++ {
			l.append(write(seq, 1, 1))
		}
		at := l.places(t)[4] // behind the header and three batches
		crashed := fs.Image(1, durabletest.PowerLoss)
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		// Batch 4 was torn while batch 5 got through.
		if at.batch != 4 {
			t.Fatalf("%+v is not batch 4", at)
		}
		if err := crashed.Flip(at.path, at.end-1, 1); err != nil {
			t.Fatal(err)
		}
		opts.FS, opts.knobs = crashed, c.writer
		l = start(t, opts)
		if rec := l.Recovered(); rec.Last != 3 || !rec.TornTail {
			t.Fatalf("recovered %+v, want 3 records and a torn tail", rec)
		}
		l.append(write(4, 1, c.salt))
		again := crashed.Image(1, durabletest.PowerLoss)
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		rec, err := open(again, c.reader)
		if err != nil {
			t.Fatal(err)
		}
		if noticed := rec.Last != 4; noticed != c.noticed {
			t.Errorf("%+v: recovered to %d", c, rec.Last)
		}
	}
}
