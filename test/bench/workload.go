package main

import (
	"fmt"
	"time"
)

// workload is a load fio puts on a target.
type workload struct {
	name  string
	rw    string // fio's word
	bs    int    // bytes of a request
	depth int    // requests in flight
	// refill draws new random data for every request, not only for every
	// buffer. It costs the load generator 1.5 us per 4 KiB, but without it
	// blocks that share a buffer are alike, and even one buffer's first
	// filling compresses by a tenth.
	refill bool
	// half fills each buffer so that it compresses to half.
	half bool
	// extra are further fio options.
	extra []string
}

// The loads.
var (
	// plain64 is for servers that do not look at the data: the least work in
	// the load generator.
	plain64 = workload{name: "64k", rw: "write", bs: 65536, depth: 8}

	qd1   = workload{name: "qd1", rw: "randwrite", bs: 4096, depth: 1, refill: true}
	qd32  = workload{name: "qd32", rw: "randwrite", bs: 4096, depth: 32, refill: true}
	seq64 = workload{name: "64k", rw: "write", bs: 65536, depth: 8, refill: true}
	half  = workload{name: "64k-half", rw: "write", bs: 65536, depth: 8, refill: true, half: true}
	flush = workload{name: "flush", rw: "randwrite", bs: 4096, depth: 1, refill: true, extra: []string{"--fsync=1"}}
	mix   = workload{name: "mix", rw: "randrw", bs: 4096, depth: 16, refill: true, extra: []string{"--rwmixread=70"}}

	// Paced loads keep a DRVA busy for long at a known rate.
	pacedMB   = workload{name: "paced-mb", rw: "randwrite", bs: 65536, depth: 8, refill: true, extra: []string{"--bssplit=4k/60:16k/20:64k/20"}}
	pacedIOPS = workload{name: "paced-iops", rw: "randwrite", bs: 4096, depth: 16, refill: true}
	scattered = workload{name: "scattered", rw: "randwrite", bs: 4096, depth: 4, refill: true}
)

// args are fio's options for the load on the export at a unix socket.
func (w workload) args(socket string, size int64, d time.Duration) []string {
	a := []string{
		"fio", "--name=" + w.name, "--ioengine=nbd", "--uri=nbd+unix:///?socket=" + socket,
		"--rw=" + w.rw, fmt.Sprintf("--iodepth=%d", w.depth), fmt.Sprintf("--size=%d", size),
		fmt.Sprintf("--runtime=%dms", d.Milliseconds()), "--time_based", "--randrepeat=0",
		"--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:99:99.9", "--output-format=json",
		fmt.Sprintf("--bs=%d", w.bs),
	}
	if w.refill {
		a = append(a, "--refill_buffers")
	}
	if w.half {
		a = append(a, "--buffer_compress_percentage=50", "--buffer_compress_chunk=4096")
	}
	return append(a, w.extra...)
}

// paced returns the load limited to a rate.
func (w workload) paced(option string) workload {
	w.extra = append(append([]string(nil), w.extra...), option)
	return w
}
