package replog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// fill appends until the log refuses for want of space.
func fill(t *testing.T, l *running, seq dr.Seq) (dr.Seq, error) {
	t.Helper()
	for {
		err := l.Append([]record.Record{write(seq, 7, 1)}, nil)
		if errors.Is(err, ErrBusy) {
			if err := l.WaitSpace(t.Context()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			return seq, err
		}
		seq++
	}
}

// drained waits until all that was accepted is durable.
func drained(t *testing.T, l *running) {
	t.Helper()
	r, err := l.NewReader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for last := dr.Seq(0); last < l.Usage().Accepted; {
		recs, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = recs[len(recs)-1].Seq
	}
}

func TestQuotaRefusesAndTrimMakesRoom(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 4))
	seq := dr.Seq(1)
	for range 20 { // many lives of each slot
		var err error
		seq, err = fill(t, l, seq)
		if !errs.Is(err, errs.Full) || errors.Is(err, ErrBusy) || errs.RemedyOf(err) == "" {
			t.Fatalf("got %v, want full with a remedy", err)
		}
		drained(t, l)
		u := l.Usage()
		if u.Files != 4 || u.Used > u.Quota || u.Used < u.Quota*9/10 || u.Accepted != seq-1 {
			t.Fatalf("full log: %+v", u)
		}
		waited := make(chan error, 1)
		go func() { waited <- l.WaitSpace(t.Context()) }()
		if err := l.Trim(u.Durable); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		if u := l.Usage(); u.Files != 1 || u.Trimmed != seq-1 {
			t.Fatalf("after trim: %+v", u)
		}
	}
	if _, err := l.NewReader(1); !errs.Is(err, errs.NotFound) {
		t.Errorf("reader of trimmed records: got %v, want not found", err)
	}
	if err := l.Trim(seq + 5); !errs.Is(err, errs.Invalid) {
		t.Errorf("trim beyond the end: got %v, want invalid", err)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
}

// A full disk is not the end: what was accepted stays, and the log goes on
// when there is space again.
func TestFullDiskWhilePrewriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := durabletest.New(durabletest.Config{Capacity: 2*128<<10 + 100<<10})
		l := start(t, testOptions(fs, "log", 8))
		seq, err := fill(t, l, 1)
		if !errs.Is(err, errs.Full) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v, want full for want of disk space", err)
		}
		drained(t, l)
		if u := l.Usage(); u.Files != 2 || u.Durable != seq-1 {
			t.Fatalf("%+v", u)
		}
		list, err := durable.ReadDir(fs, "log")
		if err != nil || len(list) != 4 {
			t.Fatalf("files %v, %v", list, err)
		}
		if err := l.Trim(seq - 1); err != nil { // needs no space itself
			t.Fatal(err)
		}
		next, err := fill(t, l, seq)
		if !errs.Is(err, errs.Full) || next == seq {
			t.Fatalf("after trim: seq %d, then %d, %v", seq, next, err)
		}
		drained(t, l)
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		again := start(t, testOptions(fs, "log", 8))
		if rec := again.Recovered(); rec.Last != next-1 {
			t.Fatalf("recovered to %d, want %d", rec.Last, next-1)
		}
		if err := again.stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), testOptions(durabletest.New(durabletest.Config{Capacity: 100 << 10}), "log", 8)); !errs.Is(err, errs.Full) {
			t.Errorf("no space for the first file: got %v, want full", err)
		}
	})
}

// After a failed write, or a failed sync where there is no direct I/O, nothing
// is acknowledged, accepted or written to the files any more.
func TestFailedWriteClosesTheLog(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		fs := durabletest.New(durabletest.Config{NoDirect: buffered})
		l := start(t, testOptions(fs, "log", 4))
		if l.Usage().Direct == buffered {
			t.Fatalf("direct: %v", l.Usage().Direct)
		}
		l.append(write(1, 1, 1))
		reader, err := l.NewReader(1)
		if err != nil {
			t.Fatal(err)
		}
		failing, writes := durabletest.Write, atomic.Int64{}
		if buffered {
			failing = durabletest.Sync
		}
		var failed atomic.Bool
		fs.SetHook(func(op durabletest.Op) error {
			if op.Phase != durabletest.Before || !strings.Contains(op.Path, "slot-000000") {
				return nil
			}
			if failed.Load() && op.Kind.Mutates() {
				writes.Add(1)
			}
			if op.Kind == failing && failed.CompareAndSwap(false, true) {
				return syscall.EIO
			}
			return nil
		})
		results := make(chan error, 2)
		if err := l.Append([]record.Record{write(2, 1, 1)}, func(err error) { results <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-results; !errs.Is(err, errs.Unavailable) {
			t.Errorf("done: got %v, want unavailable", err)
		}
		if err := <-l.result; !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
			t.Errorf("run: got %v, want unavailable with a remedy", err)
		}
		if err := l.Append([]record.Record{write(3, 1, 1)}, nil); !errs.Is(err, errs.Unavailable) {
			t.Errorf("append: got %v, want unavailable", err)
		}
		if err := l.WaitSpace(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("wait: got %v, want unavailable", err)
		}
		if err := l.Trim(1); !errs.Is(err, errs.Unavailable) {
			t.Errorf("trim: got %v, want unavailable", err)
		}
		if recs, err := reader.Next(t.Context()); err != nil || len(recs) != 1 {
			t.Errorf("the durable part is still readable: %d records, %v", len(recs), err)
		}
		if _, err := reader.Next(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("next: got %v, want unavailable", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if n := writes.Load(); n != 0 {
			t.Errorf("%d operations on the file after its failure", n)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 4))
	l.append(write(1, 1, 1))
	if _, err := Open(t.Context(), testOptions(fs, "log", 4)); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Errorf("in use: got %v, want conflict with a remedy", err)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Options)
		kind   errs.Kind
	}{
		"no directory":      {func(o *Options) { o.Dir = "" }, errs.Invalid},
		"no domain":         {func(o *Options) { o.Domain = dr.DomainID{} }, errs.Invalid},
		"no epoch":          {func(o *Options) { o.Epoch = 0 }, errs.Invalid},
		"other domain":      {func(o *Options) { o.Domain.UUID[0]++ }, errs.Invalid},
		"other timeline":    {func(o *Options) { o.Timeline.UUID[0]++ }, errs.Invalid},
		"other file size":   {func(o *Options) { o.FileSize *= 2; o.Quota *= 2 }, errs.Invalid},
		"odd file size":     {func(o *Options) { o.FileSize += 512 }, errs.Invalid},
		"files too small":   {func(o *Options) { o.minFile = 0 }, errs.Invalid},
		"quota too small":   {func(o *Options) { o.Quota = 3 * o.FileSize }, errs.Invalid},
		"quota far too big": {func(o *Options) { o.Quota = (maxFiles + 1) * o.FileSize }, errs.Invalid},
	} {
		opts := testOptions(fs, "log", 4)
		c.change(&opts)
		if _, err := Open(t.Context(), opts); !errs.Is(err, c.kind) {
			t.Errorf("%s: got %v, want %v", name, err, c.kind)
		}
	}
	newer := testOptions(fs, "log", 4)
	newer.Epoch = 7
	if l, err := Open(t.Context(), newer); err != nil || l.Close() != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), testOptions(fs, "log", 4)); !errs.Is(err, errs.Fenced) {
		t.Errorf("older epoch: got %v, want fenced", err)
	}
	pages := make([]byte, 2*pageSize)
	if err := fs.Peek("log/STATE", pages, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		p := pages[i*pageSize : (i+1)*pageSize]
		p[offIncompat] = 1
		seal(p)
	}
	if err := fs.Poke("log/STATE", pages, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), newer); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("newer format: got %v, want invalid with a remedy", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 4))
	l.append(write(10, 1, 1)) // a new log starts anywhere
	bad := write(11, 1, 1)
	bad.CRC++
	many := make([]record.Record, 0, 33)
	for i := range 33 {
		many = append(many, write(dr.Seq(11+i), 31, 1))
	}
	for name, recs := range map[string][]record.Record{
		"nothing":            {},
		"gap":                {write(12, 1, 1)},
		"repetition":         {write(10, 1, 1)},
		"hole inside":        {write(11, 1, 1), write(13, 1, 1)},
		"wrong checksum":     {bad},
		"empty data":         {{Kind: record.Data, Seq: 11}},
		"marker":             {{Kind: record.Marker, Seq: 11}},
		"unknown kind":       {{Kind: 99, Seq: 11}},
		"larger than a file": {write(11, 40, 1)},
		"more than a queue":  many,
	} {
		if err := l.Append(recs, func(error) { t.Errorf("%s: done was called", name) }); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	l.append(write(11, 1, 1)) // nothing was taken
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]record.Record{write(12, 1, 1)}, nil); !errs.Is(err, errs.Canceled) {
		t.Errorf("after close: got %v, want canceled", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestTooMuchToCarryIsRefused(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 16))
	text := strings.Repeat("x", 2000)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		r := control(record.Disk, dr.Seq(n+1), n, text)
		done := make(chan error, 1)
		if err = l.Append([]record.Record{r}, func(err error) { done <- err }); err == nil {
			err = <-done
		}
	}
	if !errs.Is(err, errs.Full) || errors.Is(err, ErrBusy) || errs.RemedyOf(err) == "" {
		t.Fatalf("after %d disks: got %v, want full with a remedy", n, err)
	}
	// Withdrawing what is gone makes room, and survives.
	for i := range 10 {
		l.append(control(record.Disk, dr.Seq(n+i), i, ""))
	}
	l.append(control(record.Disk, dr.Seq(n+10), 99, text))
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	again := start(t, testOptions(fs, "log", 16))
	if got, want := len(again.Recovered().InForce), n-1-10+1; got != want {
		t.Errorf("%d records in force, want %d", got, want)
	}
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}
}

// What arrives while two batches are in flight becomes one batch; callbacks
// come in order; the queue is bounded.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flying, most atomic.Int64
		fs := durabletest.New(durabletest.Config{})
		opts := testOptions(fs, "log", 64)
		opts.FileSize, opts.Quota = 4<<20, 64<<20
		l := start(t, opts)
		l.append(write(1, 1, 1)) // the file's header is written
		fs.SetHook(func(op durabletest.Op) error {
			if op.Kind == durabletest.Write && op.Phase == durabletest.During && op.Len < 4<<20 && !strings.Contains(op.Path, "tmp") {
				most.Store(max(most.Load(), flying.Add(1)))
				time.Sleep(time.Millisecond)
				flying.Add(-1)
			}
			return nil
		})
		before := l.Usage().Batches
		var order []int
		seq, accepted := dr.Seq(2), 0
		for i := range 300 {
			if err := l.Append([]record.Record{write(seq, 1, 1)}, func(error) { order = append(order, i) }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // let the writers take what they can; no time passes
			seq++
			accepted++
		}
		time.Sleep(time.Second)
		if got := l.Usage().Batches - before; got != 4 { // 1, 1, 256, 42
			t.Errorf("%d batches, want 4", got)
		}
		if most.Load() != 2 {
			t.Errorf("%d batches in flight, want 2", most.Load())
		}
		for i, n := range order {
			if i != n {
				t.Fatalf("callback %d came as number %d", n, i)
			}
		}
		if len(order) != accepted {
			t.Fatalf("%d callbacks, want %d", len(order), accepted)
		}
		var err error
		for err == nil {
			err = l.Append([]record.Record{write(seq, 100, 1), write(seq+1, 100, 1)}, nil)
			seq += 2
		}
		if !errors.Is(err, ErrBusy) || l.Usage().Waiting > queueBatches {
			t.Errorf("queue of %d: got %v, want busy", l.Usage().Waiting, err)
		}
		if err := l.WaitSpace(t.Context()); err != nil {
			t.Error(err)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCancelFailsWhatWasNotBegun(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l, err := Open(t.Context(), testOptions(fs, "log", 4))
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	if err := l.Append([]record.Record{write(1, 1, 1)}, func(err error) { result <- err }); err != nil {
		t.Fatal(err)
	}
	reader, err := l.NewReader(0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := reader.Next(ctx); !errs.Is(err, errs.Canceled) {
		t.Errorf("next: got %v, want canceled", err)
	}
	if err := l.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
	if err := <-result; err != nil && !errs.Is(err, errs.Canceled) {
		t.Errorf("done: got %v, want canceled or nothing", err)
	}
	if err := l.Run(t.Context()); !errs.Is(err, errs.Canceled) {
		t.Errorf("second run: got %v, want canceled", err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := reader.Next(context.Background())
		for err == nil {
			_, err = reader.Next(context.Background())
		}
		waiting <- err
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errs.Is(err, errs.Canceled) {
		t.Errorf("next at close: got %v, want canceled", err)
	}
}

func TestReadersAreBounded(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 4))
	l.append(write(1, 1, 1))
	if _, err := l.NewReader(3); !errs.Is(err, errs.Invalid) {
		t.Errorf("beyond the end: got %v, want invalid", err)
	}
	var readers []*Reader
	for range maxReaders {
		r, err := l.NewReader(2)
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
	}
	if _, err := l.NewReader(1); !errs.Is(err, errs.Full) {
		t.Errorf("one too many: got %v, want full", err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := readers[0].Next(context.Background())
		waited <- err
	}()
	readers[0].Close()
	if err := <-waited; !errs.Is(err, errs.Canceled) {
		t.Errorf("closed reader: got %v, want canceled", err)
	}
	if _, err := l.NewReader(1); err != nil {
		t.Errorf("after a close: %v", err)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
}

// A lowered quota is reached when files are free.
func TestQuotaMayChange(t *testing.T) { synctest.Test(t, testQuotaMayChange) }

func testQuotaMayChange(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	l := start(t, testOptions(fs, "log", 10))
	seq, err := fill(t, l, 1)
	if !errs.Is(err, errs.Full) {
		t.Fatal(err)
	}
	drained(t, l)
	if err := l.Trim(seq - 1); err != nil {
		t.Fatal(err)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	small := start(t, testOptions(fs, "log", 4))
	for range 3 { // the last file may lie in the highest slot at first
		if seq, err = fill(t, small, seq); !errs.Is(err, errs.Full) {
			t.Error(err)
		}
		drained(t, small)
		if err := small.Trim(seq - 1); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	if u := small.Usage(); u.Files+u.Spare > 4 {
		t.Errorf("%+v", u)
	}
	if err := small.stop(); err != nil {
		t.Fatal(err)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	opts := testOptions(durable.OS{}, t.TempDir(), 16)
	opts.FileSize, opts.Quota = 16<<20, 256<<20
	l := start(t, opts)
	seq, recs := dr.Seq(1), []record.Record{write(1, 1, 1), write(2, 1, 1)}
	done := make(chan error, 1)
	callback := func(err error) { done <- err }
	one := func() {
		for i := range recs {
			recs[i].Seq, seq = seq, seq+1
		}
		if err := l.Append(recs, callback); err != nil {
			panic(fmt.Sprint("append: ", err))
		}
		if err := <-done; err != nil {
			panic(fmt.Sprint("done: ", err))
		}
	}
	for range 64 { // every place of the queue has its buffers, the next file is ready
		one()
	}
	if n := testing.AllocsPerRun(200, one); n != 0 {
		t.Errorf("%v allocations per append", n)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
}
