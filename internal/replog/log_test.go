package replog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/record"
)

var (
	testDomain   = dr.DomainID{UUID: dr.UUID{1, 2, 3}}
	testTimeline = dr.TimelineID{UUID: dr.UUID{4, 5, 6}}
)

// testOptions are those of a small log of that many files of 128 KiB.
func testOptions(fs durable.FS, dir string, files int64) Options {
	const size = 128 << 10
	return Options{Dir: dir, FS: fs, Domain: testDomain, Timeline: testTimeline, Epoch: 1,
		Quota: files * size, FileSize: size, Logger: slog.New(slog.DiscardHandler), minFile: size}
}

// running is a log with its Run.
type running struct {
	*Log
	t      testing.TB
	cancel context.CancelFunc
	result chan error
}

func start(t testing.TB, opts Options) *running {
	t.Helper()
	l, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Log: l, t: t, result: make(chan error, 1)}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { r.result <- l.Run(ctx) }()
	return r
}

// stop ends Run and closes the log.
func (r *running) stop() error {
	r.cancel()
	err := <-r.result
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	return err
}

// append appends and waits until it is durable.
func (r *running) append(recs ...record.Record) {
	r.t.Helper()
	done := make(chan error, 1)
	for {
		err := r.Append(recs, func(err error) { done <- err })
		if err == nil {
			break
		}
		if !errors.Is(err, ErrBusy) {
			r.t.Fatal(err)
		}
		if err := r.WaitSpace(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
}

// write is a data record of that many pages whose content tells its seq and
// the salt.
func write(seq dr.Seq, pages int, salt uint64) record.Record {
	p := durable.AlignedBytes(pages * pageSize)
	fill := rand.New(rand.NewPCG(uint64(seq), salt))
	for i := 0; i < len(p); i += 64 {
		binary.LittleEndian.PutUint64(p[i:], fill.Uint64())
	}
	return record.Record{Kind: record.Data, Disk: uint16(seq % 3), Length: uint32(len(p)), Seq: seq, Offset: uint64(seq%97) * pageSize,
		HostSeq: dr.HostSeq(seq), Session: 1 + dr.Session(seq%2), CRC: record.Checksum(p), Time: int64(salt), Payload: p}
}

// control is a record with a small payload that is not page-aligned.
func control(kind record.Kind, seq dr.Seq, index int, text string) record.Record {
	r := record.Record{Kind: kind, Seq: seq, Time: int64(seq), Disk: uint16(index)}
	if kind == record.Session {
		r.Disk, r.Session = 0, dr.Session(index)
	}
	if kind.HasPayload() {
		r.Length, r.Payload, r.CRC = uint32(len(text)), []byte(text), record.Checksum([]byte(text))
	}
	return r
}

// same reports how two records differ, payloads included; page and memory do
// not count.
func same(got, want *record.Record) error {
	a, b := *got, *want
	if !bytes.Equal(a.Payload[:a.PayloadLen()], b.Payload[:b.PayloadLen()]) {
		return fmt.Errorf("payload of seq %d differs", b.Seq)
	}
	a.Payload, b.Payload, a.Page, b.Page = nil, nil, 0, 0
	if fmt.Sprint(a) != fmt.Sprint(b) {
		return fmt.Errorf("got %+v, want %+v", a, b)
	}
	return nil
}

// readAll drains the log from a seq.
func readAll(l *Log, from dr.Seq) ([]record.Record, error) {
	r, err := l.NewReader(from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var all []record.Record
	for {
		recs, err := r.TryNext()
		if err != nil || len(recs) == 0 {
			return all, err
		}
		for _, rec := range recs {
			rec.Payload = bytes.Clone(rec.Payload)
			all = append(all, rec)
		}
	}
}

func compare(t *testing.T, got, want []record.Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range got {
		if err := same(&got[i], &want[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// The whole life on a real file system: append, read, reopen, go on.
func TestAppendReadReopen(t *testing.T) {
	opts := testOptions(durable.OS{}, t.TempDir()+"/log", 12)
	var all []record.Record
	for life := range 3 {
		l := start(t, opts)
		rec := l.Recovered()
		if rec.Last != dr.Seq(len(all)) || rec.TornTail {
			t.Fatalf("life %d: recovered %+v, want last %d", life, rec, len(all))
		}
		for range 20 {
			seq := dr.Seq(len(all) + 1)
			recs := []record.Record{write(seq, 1, 0), control(record.Disk, seq+1, 1, "disk"), write(seq+2, 2, 0),
				{Kind: record.Zero, Disk: 1, Length: 1 << 20, Seq: seq + 3, Session: 1, HostSeq: dr.HostSeq(seq + 3)}}
			l.append(recs...)
			all = append(all, recs...)
		}
		got, err := readAll(l.Log, 0)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, got, all)
		for _, from := range []dr.Seq{1, 2, 17, dr.Seq(len(all)), dr.Seq(len(all) + 1)} {
			got, err := readAll(l.Log, from)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, all[from-1:])
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := os.ReadDir(opts.Dir); err != nil || len(list) < 3 {
		t.Fatalf("%v, %v", list, err)
	}
}

// Records of many sizes from a busy appender come back byte for byte, in
// order, while files are trimmed and recycled behind the reader.
func TestReaderFollowsWhileTrimming(t *testing.T) {
	opts := testOptions(durable.OS{}, t.TempDir(), 4)
	l := start(t, opts)
	const total = 3000
	reader, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for seq := dr.Seq(1); seq <= total; {
			var recs []record.Record
			for range 1 + r.IntN(8) {
				recs = append(recs, write(seq, 1+int(seq%4), 9))
				seq++
			}
			for {
				err := l.Append(recs, nil)
				if err == nil {
					break
				}
				if err := l.WaitSpace(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var lastTrim dr.Seq
	for next := dr.Seq(1); next <= total; {
		recs, err := reader.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range recs {
			want := write(next, 1+int(next%4), 9)
			if err := same(&recs[i], &want); err != nil {
				t.Fatal(err)
			}
			next++
		}
		if next > lastTrim+10 {
			if err := l.Trim(next - 1); err != nil {
				t.Fatal(err)
			}
			lastTrim = next - 1
		}
	}
	wg.Wait()
	u := l.Usage()
	if u.Files+u.Spare > 4 || u.Batches == 0 {
		t.Fatalf("usage %+v", u)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
}
