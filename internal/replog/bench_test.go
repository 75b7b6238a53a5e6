package replog

import (
	"syscall"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/record"
)

// cpuTime is what the process used so far, user and system.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmark appends groups of records of that many pages and keeps depth of
// them waiting, as a host with that many writes in flight would.
func benchmark(b *testing.B, group, pages, depth int) {
	l := start(b, Options{Dir: b.TempDir(), FS: durable.OS{}, Domain: testDomain, Timeline: testTimeline, Epoch: 1,
		Quota: 8 * defaultFileSize, Logger: testOptions(nil, "", 1).Logger})
	recs := make([]record.Record, group)
	for i := range recs {
		recs[i] = write(dr.Seq(i+1), pages, 1)
	}
	waiting := make(chan error, depth)
	done := func(err error) { waiting <- err }
	next, inFlight, bytes := dr.Seq(1), 0, int64(group*pages*pageSize)
	one := func() {
		for i := range recs {
			recs[i].Seq, next = next, next+1
		}
		for l.Append(recs, done) != nil {
			if u := l.Usage(); u.Used > u.Quota/2 {
				if err := l.Trim(u.Durable); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.WaitSpace(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		if inFlight++; inFlight == depth {
			if err := <-waiting; err != nil {
				b.Fatal(err)
			}
			inFlight--
		}
	}
	for range 8 { // buffers are made, spare files are there
		one()
	}
	for u := l.Usage(); u.Spare < spareFiles; u = l.Usage() {
		time.Sleep(time.Millisecond)
	}
	b.SetBytes(bytes)
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		one()
		if u := l.Usage(); u.Used > u.Quota/2 {
			if err := l.Trim(u.Durable); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N*group)/1e3, "cpu-us/record")
	for ; inFlight > 0; inFlight-- {
		<-waiting
	}
	if err := l.stop(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkAppendLone4KiB(b *testing.B)        { benchmark(b, 1, 1, 1) }
func BenchmarkAppendLone4KiBDepth32(b *testing.B) { benchmark(b, 1, 1, 32) }
func BenchmarkAppendGroup64x4KiB(b *testing.B)    { benchmark(b, 64, 1, 4) }
func BenchmarkAppendGroup256x4KiB(b *testing.B)   { benchmark(b, 256, 1, 4) }
func BenchmarkAppendRecord1MiB(b *testing.B)      { benchmark(b, 1, 256, 4) }
func BenchmarkAppendGroup16x64KiB(b *testing.B)   { benchmark(b, 16, 16, 4) }

// BenchmarkRead drains a log of 256 MiB.
func BenchmarkRead(b *testing.B) {
	l := start(b, Options{Dir: b.TempDir(), FS: durable.OS{}, Domain: testDomain, Timeline: testTimeline, Epoch: 1,
		Quota: 8 * defaultFileSize, Logger: testOptions(nil, "", 1).Logger})
	recs := make([]record.Record, 256)
	for i := range recs {
		recs[i] = write(dr.Seq(i+1), 1, 1)
	}
	const batches = 256
	for n := range batches {
		for i := range recs {
			recs[i].Seq = dr.Seq(n*len(recs) + i + 1)
		}
		l.append(recs...)
	}
	b.SetBytes(batches << 20)
	b.ReportAllocs()
	for b.Loop() {
		r, err := l.NewReader(1)
		if err != nil {
			b.Fatal(err)
		}
		for last := dr.Seq(0); last < batches*256; {
			recs, err := r.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			last = recs[len(recs)-1].Seq
		}
		r.Close()
	}
	if err := l.stop(); err != nil {
		b.Fatal(err)
	}
}
