package workload

import (
	"runtime"
	"syscall"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/index"
)

// scale divides the busy disk, so that a benchmark starts in seconds.
const scale = 20

func busy(b *testing.B) (*History, [][][]byte) {
	b.Helper()
	h := Busy(1, scale)
	runs, err := h.Runs(12)
	if err != nil {
		b.Fatal(err)
	}
	return h, runs
}

// processor is the processor time the program has used, in seconds.
func processor(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func merge(b *testing.B, h *History, runs [][][]byte, emit func(p index.Part) error) *index.Merged {
	b.Helper()
	cat := &index.Catalog{}
	w := index.NewWriter(cat, emit, index.WriterOptions{})
	m, err := index.Merge(w, Sources(cat, runs), index.Rule{Retained: h.Retained, Bottom: true})
	if err == nil {
		err = w.Finish()
	}
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// BenchmarkMerge merges twelve runs of a busy month under 2880 checkpoints:
// decoding, the rule and coding.
func BenchmarkMerge(b *testing.B) {
	h, runs := busy(b)
	var in, out uint64
	cpu := processor(b)
	for b.Loop() {
		m := merge(b, h, runs, func(index.Part) error { return nil })
		in, out = in+m.In, m.Out
	}
	b.ReportMetric(float64(in)/(processor(b)-cpu), "entries/cpu-s") // what a core does when it is not shared
	b.ReportMetric(float64(in)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(out), "kept")
}

// BenchmarkSize writes each shape and reports bytes per entry.
func BenchmarkSize(b *testing.B) {
	for name, make := range map[string]func() *History{
		"base":      func() *History { return Base(1, 1<<20) },
		"scattered": func() *History { return Scattered(1, 1<<18) },
	} {
		b.Run(name, func(b *testing.B) {
			h := make()
			report(b, func() (n, size int) {
				parts, err := h.Write(nil)
				if err != nil {
					b.Fatal(err)
				}
				for _, p := range parts {
					size += len(p)
				}
				return len(h.Entries), size
			})
		})
	}
	b.Run("busy", func(b *testing.B) {
		h, runs := busy(b)
		report(b, func() (n, size int) {
			m := merge(b, h, runs, func(p index.Part) error { size += len(p.Bytes); return nil })
			return int(m.Out), size
		})
	})
}

func report(b *testing.B, write func() (n, size int)) {
	b.Helper()
	n, size, all := 0, 0, 0
	for b.Loop() {
		n, size = write()
		all += n
	}
	b.ReportMetric(float64(size)/float64(n), "B/entry")
	b.ReportMetric(float64(all)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkResolve resolves the newest checkpoint of a baseline, and of a
// thinned busy month, and reports what is in memory when the last entry is read
// for each entry read.
func BenchmarkResolve(b *testing.B) {
	b.Run("base", func(b *testing.B) {
		h := Base(1, 1<<20)
		parts, err := h.Write(nil)
		if err != nil {
			b.Fatal(err)
		}
		resolve(b, h, parts, 1<<40, len(h.Entries))
	})
	b.Run("busy", func(b *testing.B) {
		h, runs := busy(b)
		var parts [][]byte
		m := merge(b, h, runs, func(p index.Part) error { parts = append(parts, p.Bytes); return nil })
		resolve(b, h, parts, h.Retained[len(h.Retained)-1], int(m.Out))
	})
}

func resolve(b *testing.B, h *History, parts [][]byte, seq dr.Seq, entries int) {
	b.Helper()
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		cat := &index.Catalog{}
		r, err := index.NewResolver(cat, seq, []index.Disk{h.Disk})
		if err == nil {
			err = r.Add(Sources(cat, [][][]byte{parts})...)
		}
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(r)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(entries), "B/entry")
	b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
