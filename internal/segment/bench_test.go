package segment

import (
	"syscall"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// perCore reports bytes per second of processor time: on a shared machine
// that is the number that means something.
func perCore(b *testing.B, bytes int) {
	start := processorTime(b)
	b.Cleanup(func() {
		if used := processorTime(b) - start; used > 0 {
			b.ReportMetric(float64(bytes)*float64(b.N)/used/1e6, "MB/cpu-s")
		}
	})
}

func processorTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func benchmarkAdd(b *testing.B, blocks int, content func(uint64, int) []byte) {
	bd := NewBuilder(testKey, testDomain, BuilderOptions{})
	data := content(1, blocks*4096)
	for c := uint32(0); bd.AddFrame(disk(1), c, uint16(1<<blocks-1), 1, data) == nil && c < 10_000; c++ {
		// the first object grows the buffers; those after it are the steady state
	}
	bd.Reset()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	perCore(b, len(data))
	chunk := uint32(0)
	for b.Loop() {
		err := bd.AddFrame(disk(1), chunk, uint16(1<<blocks-1), 1, data)
		if errs.Is(err, errs.Full) {
			bd.Reset()
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		chunk = (chunk + 1) % MaxChunks
	}
}

func BenchmarkAddFrame64KiBText(b *testing.B)  { benchmarkAdd(b, 16, text) }
func BenchmarkAddFrame64KiBNoise(b *testing.B) { benchmarkAdd(b, 16, noise) }
func BenchmarkAddFrame4KiBNoise(b *testing.B)  { benchmarkAdd(b, 1, noise) }

func benchmarkOpen(b *testing.B, content func(uint64, int) []byte, check bool) {
	bd := NewBuilder(testKey, testDomain, BuilderOptions{})
	bd.SetSeqs(1, 1)
	if err := bd.AddFrame(disk(1), 0, 0xffff, 1, content(1, dr.ChunkSize)); err != nil {
		b.Fatal(err)
	}
	body, _, err := bd.Finish(journalHeader())
	if err != nil {
		b.Fatal(err)
	}
	h, f, _, err := OpenObject(testKey, body)
	if err != nil {
		b.Fatal(err)
	}
	o, err := NewOpener(testKey, h)
	if err != nil {
		b.Fatal(err)
	}
	e := &f.Entries[0]
	dst := make([]byte, 0, dr.ChunkSize)
	b.SetBytes(dr.ChunkSize)
	b.ReportAllocs()
	perCore(b, dr.ChunkSize)
	for b.Loop() {
		blocks, err := o.Frame(dst, disk(1), e, body[e.Offset:][:e.Stored])
		if err == nil && check {
			err = o.CheckBlocks(f, e, blocks)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFrame64KiBText(b *testing.B)         { benchmarkOpen(b, text, false) }
func BenchmarkFrame64KiBNoise(b *testing.B)        { benchmarkOpen(b, noise, false) }
func BenchmarkFrameAndCheck64KiBText(b *testing.B) { benchmarkOpen(b, text, true) }

func BenchmarkFinishAndOpenFooter4096Frames(b *testing.B) {
	bd := NewBuilder(testKey, testDomain, BuilderOptions{})
	block := noise(1, 4096)
	b.SetBytes(16 << 20)
	perCore(b, 16<<20)
	for b.Loop() {
		bd.SetSeqs(1, 5000)
		for c := range uint32(4096) {
			if err := bd.AddFrame(disk(1), c*77%4096, 1, dr.Seq(c+1), block); err != nil {
				b.Fatal(err)
			}
		}
		body, _, err := bd.Finish(journalHeader())
		if err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := OpenObject(testKey, body); err != nil {
			b.Fatal(err)
		}
		bd.Reset()
	}
}
