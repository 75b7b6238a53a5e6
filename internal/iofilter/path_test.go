package iofilter

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// bare is an outlet without goroutines that streams into the void: what
// enters is at once taken for sent and durable.
func bare(t testing.TB, size int) (*outlet, *disk) {
	t.Helper()
	o := newOutlet(&Config{RingBytes: MinRing}, slog.New(slog.DiscardHandler))
	d := o.newDisk(dr.Disk{Size: int64(size)}, &memDisk{data: make([]byte, size)})
	o.addDisk(d)
	o.mode.tracking = false
	o.link.up, o.link.replayed = true, true
	o.asleep.Store(napping)
	return o, d
}

// forgetAll empties the stream as a DRVA would, through a frame and an ack.
func (o *outlet) forgetAll(s *sender, ack *wire.Ack) error {
	for {
		o.link.cursor = max(o.link.cursor, o.str.First())
		s.rested = true
		if s.next() != stepWrite {
			break
		}
		s.frame.Encode(1, false)
		s.done()
	}
	ack.Durable = o.str.Next() - 1
	return o.onAck(ack)
}

// nullDevice completes everything at once.
type nullDevice struct{}

func (nullDevice) Submit(op *nbd.Op) { op.Complete(nil) }

func TestWritePathDoesNotAllocate(t *testing.T) {
	o, d := bare(t, 1<<20)
	layer := &tap{disk: d, primary: nullDevice{}}
	op := nbd.NewOp(func(*nbd.Op, error) {})
	data := fill(1, 4096)
	odd := fill(2, 5000)
	var ack wire.Ack
	s := &sender{o: o}
	step := func() {
		op.Kind, op.Offset, op.Length, op.Data = nbd.Write, 8192, 4096, data
		layer.Submit(op)
		op.Kind, op.Offset, op.Length, op.Data = nbd.Write, 12388, 5000, odd
		layer.Submit(op)
		op.Kind, op.Offset, op.Length, op.Data = nbd.WriteZeroes, 100, 65536, nil
		layer.Submit(op)
		if err := o.forgetAll(s, &ack); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(200, step); n != 0 {
		t.Fatalf("%v allocations for three operations", n)
	}
	if o.stats.records < 600 {
		t.Fatalf("only %d records entered", o.stats.records)
	}
}

// FuzzReceive feeds the receiver whatever a DRVA might send.
func FuzzReceive(f *testing.F) {
	var round [wire.RoundSize]byte
	wire.Round(3).Put(round[:])
	f.Add((&wire.Ack{Durable: 2, Spans: []wire.Span{{First: 1, Seq: 9, Count: 3}}}).Append(nil))
	f.Add(append(wire.Encode(wire.TypeHold, round[:]), wire.Encode(wire.TypeRelease, round[:])...))
	f.Add(append(wire.Encode(wire.TypePing, nil), wire.Encode(wire.TypeMark, round[:])...))
	f.Add(wire.Encode(wire.TypeRefuse, []byte(`{"kind":3,"message":"x"}`)))
	f.Fuzz(func(t *testing.T, in []byte) {
		o, d := bare(t, 1<<20)
		layer := &tap{disk: d, primary: nullDevice{}}
		done := 0
		for i := range 5 {
			op := nbd.NewOp(func(*nbd.Op, error) { done++ })
			op.Kind, op.Offset, op.Length, op.Data = nbd.Write, int64(i)*8192, 4096, fill(1, 4096)
			layer.Submit(op)
		}
		s := &sender{o: o, rested: true}
		s.next()
		s.done()
		r := &frameReader{r: bufio.NewReader(bytes.NewReader(in))}
		var ack wire.Ack
		for {
			h, body, err := r.next(maxAnswer)
			if err != nil || o.dispatch(h.Type, body, &ack) != nil {
				break
			}
		}
		o.down(errors.New("end"))
		if done != 5 || o.str.Durable() > o.str.Sent() {
			t.Fatalf("%d of 5 writes completed; durable %d of %d", done, o.str.Durable(), o.str.Sent())
		}
	})
}

// BenchmarkLayer compares a write to the primary alone with one through the
// layer into a stream that a goroutine empties into /dev/null.
func BenchmarkLayer(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		name := map[int]string{4 << 10: "4k", 64 << 10: "64k"}[size]
		b.Run(name+"/primary", func(b *testing.B) { benchmarkWrite(b, size, false) })
		b.Run(name+"/layer", func(b *testing.B) { benchmarkWrite(b, size, true) })
	}
}

func benchmarkWrite(b *testing.B, size int, through bool) {
	path := image(b, b.TempDir(), "disk.raw", 64<<20)
	file, err := nbd.OpenFile(path, nbd.FileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var dev nbd.Device = file
	if through {
		o := newOutlet(&Config{}, slog.New(slog.DiscardHandler))
		d := o.newDisk(dr.Disk{Size: 64 << 20}, file)
		o.addDisk(d)
		o.mode.tracking = false
		o.link.up, o.link.replayed = true, true
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() { defer close(stopped); sink(b, o, stop) }()
		defer func() {
			close(stop)
			<-stopped
			if o.stats.trackings > 0 {
				b.Errorf("the sink was too slow: tracked, %s", o.mode.cause)
			}
			b.ReportMetric(float64(o.stats.stalls), "stalls")
		}()
		dev = &tap{disk: d, primary: file}
	}
	data := fill(1, size)
	op := nbd.NewOp(func(_ *nbd.Op, err error) {
		if err != nil {
			b.Error(err)
		}
	})
	b.SetBytes(int64(size))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		op.Kind, op.Offset, op.Length, op.Data = nbd.Write, off, int64(size), data
		dev.Submit(op)
		off = (off + 7919*int64(size)) % (64 << 20)
	}
}

// sink is sender and DRVA in one: it writes frames to /dev/null and confirms
// them.
func sink(b *testing.B, o *outlet, stop chan struct{}) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Error(err)
		return
	}
	defer null.Close()
	s := &sender{o: o}
	var ack wire.Ack
	for {
		select {
		case <-stop:
			return
		default:
		}
		switch s.next() {
		case stepWrite:
			bufs := net.Buffers{s.frame.Encode(1, false), s.frame.Payload[0], s.frame.Payload[1]}
			if _, err := bufs.WriteTo(null); err != nil {
				b.Error(err)
				return
			}
			last := s.frame.First + dr.HostSeq(s.frame.Count) - 1
			s.done()
			ack.Durable = last
			if err := o.onAck(&ack); err != nil {
				b.Error(err)
				return
			}
		case stepNap:
			sleepUntil(b.Context(), o.wake, napTime)
			s.rested = true
		case stepIdle:
			sleepUntil(b.Context(), o.wake, napTime)
			s.rested = false
		}
	}
}
