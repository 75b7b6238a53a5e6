package main

import (
	"fmt"
	"slices"
)

// bound is what a figure should be: at least or at most a limit. The zero
// value asks for nothing.
type bound struct {
	sign  string // ">=", "<=", ">", "<", "=" or ""
	limit float64
}

func (b bound) String() string {
	if b.sign == "" {
		return "reported"
	}
	return fmt.Sprintf("%s %g", b.sign, b.limit)
}

// holds reports whether v is within the bound.
func (b bound) holds(v float64) bool {
	switch b.sign {
	case ">=":
		return v >= b.limit
	case "<=":
		return v <= b.limit
	case ">":
		return v > b.limit
	case "<":
		return v < b.limit
	case "=":
		return v == b.limit
	}
	return true
}

// figure is one result. The JSON form is the first four fields.
type figure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Against string  `json:"against"`

	want     bound
	min, max float64 // over the rounds; equal to Value when measured once
	note     string  // what a reader must know of this run; may be empty
}

// ratio is a figure made of two rows of each round of a stage.
type ratio struct {
	stage    string
	name     string
	num, den pair
	of       func(row) float64
	against  string
	want     bound
}

// compute returns the median of the per-round ratios.
func (r ratio) compute(rows []row) (figure, error) {
	byRound := map[int][2]float64{}
	runs, tracked := 0, 0
	for _, x := range rows {
		if x.Stage != r.stage {
			continue
		}
		v := byRound[x.Round]
		switch (pair{x.Target, x.Workload}) {
		case r.num:
			v[0] = r.of(x)
			runs++
			if x.Tracked {
				tracked++
			}
		case r.den:
			v[1] = r.of(x)
		}
		byRound[x.Round] = v
	}
	var all []float64
	for _, v := range byRound {
		if v[0] > 0 && v[1] > 0 {
			all = append(all, v[0]/v[1])
		}
	}
	if len(all) == 0 {
		return figure{}, fmt.Errorf("%s: no round has both %v and %v", r.name, r.num, r.den)
	}
	f := spread(r.name, "ratio", r.against, r.want, all)
	if tracked > 0 {
		f.note = fmt.Sprintf("tracking entered in %d of %d runs", tracked, runs)
	}
	return f, nil
}

// spread makes a figure of one value a round.
func spread(name, unit, against string, want bound, v []float64) figure {
	return figure{Name: name, Value: median(v), Unit: unit, Against: against, want: want, min: slices.Min(v), max: slices.Max(v)}
}

// median returns the middle of v, or the mean of the two in the middle.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

func iops(r row) float64 { return r.IOPS }
func p50(r row) float64  { return r.Write.P50 }

// The targets' names.
const (
	qemuNBD           = "qemu-nbd"
	qemuNBDDirect     = "qemu-nbd-direct"
	nbdkitFile        = "nbdkit"
	qemuMirror        = "qemu-mirror"
	passthrough       = "passthrough"
	passthroughDirect = "passthrough-direct"
	protected         = "protected"
	protectedDirect   = "protected-direct"
	protectedOrdered  = "protected-ordered"
	protectedSync     = "protected-sync"
)

// The stages. Only what a stage needs runs during it: an idle protected
// system still looks around, and has no business beside rivals it is not
// compared with.
const (
	stageAlone     = "alone"     // unprotected servers among themselves
	stageProtected = "protected" // protection against none, page cache on
	stageDirect    = "direct"    // the same past the page cache
	stageAck       = "ack"       // the stricter ack rules
	stageLong      = "long"
)

// ratios are the side-by-side figures. The bounds are goals; missing one is
// shown and does not end the bench.
func ratios() []ratio {
	r := func(stage, name string, w workload, num, den string, of func(row) float64, against string, want bound) ratio {
		return ratio{stage, name, pair{num, w.name}, pair{den, w.name}, of, against, want}
	}
	const (
		kit     = "nbdkit file, buffered"
		qemu    = "qemu-nbd writeback, buffered, unprotected"
		qemuD   = "qemu-nbd cache=none aio=native"
		own     = "our server without protection, buffered"
		ownD    = "our server without protection, O_DIRECT"
		notLess = ">="
	)
	return []ratio{
		r(stageAlone, "passthrough_vs_nbdkit_qd1", qd1, passthrough, nbdkitFile, iops, kit, bound{notLess, 1}),
		r(stageAlone, "passthrough_vs_nbdkit_qd32", qd32, passthrough, nbdkitFile, iops, kit, bound{notLess, 1}),
		r(stageAlone, "passthrough_vs_nbdkit_64k", seq64, passthrough, nbdkitFile, iops, kit, bound{notLess, 0.8}),
		r(stageAlone, "passthrough_direct_vs_qemunbd_qd1", qd1, passthroughDirect, qemuNBDDirect, iops, qemuD, bound{notLess, 0.9}),
		r(stageAlone, "passthrough_direct_vs_qemunbd_qd32", qd32, passthroughDirect, qemuNBDDirect, iops, qemuD, bound{notLess, 1.1}),
		r(stageAlone, "passthrough_direct_vs_qemunbd_mix", mix, passthroughDirect, qemuNBDDirect, iops, qemuD, bound{notLess, 0.9}),
		r(stageProtected, "protected_vs_passthrough_qd1", qd1, protected, passthrough, iops, own, bound{notLess, 0.9}),
		r(stageProtected, "protected_vs_passthrough_qd32", qd32, protected, passthrough, iops, own, bound{notLess, 0.6}),
		r(stageProtected, "protected_vs_passthrough_64k", seq64, protected, passthrough, iops, own, bound{notLess, 0.45}),
		r(stageProtected, "protected_vs_passthrough_64k_half", half, protected, passthrough, iops, own+", data that compresses to half", bound{}),
		r(stageProtected, "protected_vs_passthrough_flush", flush, protected, passthrough, iops, own, bound{notLess, 0.9}),
		r(stageProtected, "protected_vs_qemunbd_qd1", qd1, protected, qemuNBD, iops, qemu, bound{notLess, 2}),
		r(stageProtected, "protected_vs_qemunbd_qd32", qd32, protected, qemuNBD, iops, qemu, bound{notLess, 1.4}),
		r(stageProtected, "protected_vs_qemunbd_64k", seq64, protected, qemuNBD, iops, qemu, bound{notLess, 0.5}),
		r(stageDirect, "protected_p50_over_passthrough_direct", qd1, protectedDirect, passthroughDirect, p50, ownD, bound{"<=", 1.3}),
		r(stageDirect, "mirror_p50_over_qemu_direct", qd1, qemuMirror, qemuNBDDirect, p50, qemuD, bound{}),
		r(stageAck, "ordered_vs_passthrough_qd1", qd1, protectedOrdered, passthrough, iops, own, bound{}),
		r(stageLong, "protected_vs_passthrough_qd32_long", qd32, protected, passthrough, iops, own+", for as long as a long run", bound{}),
		r(stageAck, "sync_vs_passthrough_qd1", qd1, protectedSync, passthrough, iops, own, bound{}),
	}
}
