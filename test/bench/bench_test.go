package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseCPU(t *testing.T) {
	stat := "42 (odd) name) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 7 7 20 0 4 0 1000 1 2"
	got, err := parseCPU(stat)
	if err != nil || got != 2*time.Second {
		t.Errorf("got %v, %v, want 2s", got, err)
	}
	for _, bad := range []string{"", "42 (x) S 1", "42 (x) S 1 42 42 0 -1 4194560 900 0 0 0 many 50 7"} {
		if _, err := parseCPU(bad); err == nil {
			t.Errorf("parseCPU(%q) succeeded", bad)
		}
	}
}

// fioText is a report of fio with the parts the bench reads.
func fioText(jobError, ios, short, runtime string) []byte {
	return []byte(`{"jobs":[{"error":` + jobError + `,"read":{"total_ios":0},"write":{"total_ios":` + ios + `,"io_bytes":8192,
		"short_ios":` + short + `,"iops":2000,"bw_bytes":8192000,"runtime":` + runtime + `,
		"lat_ns":{"percentile":{"50.000000":7000,"99.000000":9000,"99.900000":11000}}}}]}`)
}

func TestParseFio(t *testing.T) {
	l, err := parseFio(fioText("0", "2", "0", "1000"), time.Second, false)
	if err != nil {
		t.Fatal(err)
	}
	if l.IOs != 2 || l.IOPS != 2000 || l.Write != (latency{7, 9, 11}) || l.Read != nil || l.WriteBytes != 8192 {
		t.Errorf("got %+v", l)
	}
	for name, text := range map[string][]byte{
		"error":        fioText("5", "2", "0", "1000"),
		"no I/O":       fioText("0", "0", "0", "1000"),
		"short I/O":    fioText("0", "2", "1", "1000"),
		"ended early":  fioText("0", "2", "0", "100"),
		"no job":       []byte(`{"jobs":[]}`),
		"not JSON":     []byte("fio: connected"),
		"no latencies": bytes.ReplaceAll(fioText("0", "2", "0", "1000"), []byte("99.9"), []byte("98.9")),
	} {
		if _, err := parseFio(text, time.Second, false); err == nil {
			t.Errorf("%s: report accepted", name)
		}
	}
}

func TestJudgeSample(t *testing.T) {
	for _, c := range []struct {
		changed int
		written int64
		ok      bool
	}{
		{100, gib / 10, true},
		{60, gib / 10, true},
		{20, gib / 10, false}, // a fifth of the writes arrived
		{0, gib / 10, false},
		{1000, 5 * gib, true},
		{0, gib / 1000, true}, // too little to judge
	} {
		if err := judgeSample(c.changed, 1000, c.written, gib); (err == nil) != c.ok {
			t.Errorf("%d changed after %d bytes: %v", c.changed, c.written, err)
		}
	}
}

func TestSamplerSeesWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	const size = 64 * mib
	if err := makeDisk(t.Context(), path, size, true); err != nil {
		t.Fatal(err)
	}
	s, err := newSampler(path, size, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.check(size/2, size); err == nil {
		t.Error("an untouched disk passes for one half written")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, size/2), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.check(size/2, size); err != nil {
		t.Error(err)
	}
}

func TestSameContent(t *testing.T) {
	a := bytes.Repeat([]byte{1, 2, 3, 4}, 3*mib/4)
	b := bytes.Clone(a)
	if err := sameContent(t.Context(), int64(len(a)), bytes.NewReader(a), bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
	b[2*mib+17] ^= 1
	err := sameContent(t.Context(), int64(len(a)), bytes.NewReader(a), bytes.NewReader(b))
	if !errors.Is(err, errDiffer) || !strings.Contains(err.Error(), "2097169") {
		t.Errorf("got %v, want a difference at byte 2097169", err)
	}
	if err := sameContent(t.Context(), int64(len(a)), bytes.NewReader(a), bytes.NewReader(b[:mib])); err == nil {
		t.Error("a short disk passes for a whole one")
	}
}

func TestRatioIsMedianOfRounds(t *testing.T) {
	at := func(round int, target string, iops float64) row {
		return row{Round: round, Target: target, Workload: "qd1", load: load{IOPS: iops}}
	}
	rows := []row{
		at(0, "a", 10), at(0, "b", 10),
		at(1, "b", 100), at(1, "a", 300),
		at(2, "a", 20), at(2, "b", 10),
		at(3, "a", 5), // its peer is missing
		at(0, "c", 99),
	}
	r := ratio{name: "x", num: pair{"a", "qd1"}, den: pair{"b", "qd1"}, of: iops}
	f, err := r.compute(rows)
	if err != nil || f.Value != 2 || f.min != 1 || f.max != 3 {
		t.Errorf("got %+v, %v; want 2 (1 to 3)", f, err)
	}
	if f.note != "" {
		t.Errorf("note %q", f.note)
	}
	rows[0].Tracked = true
	if f, err := r.compute(rows); err != nil || !strings.Contains(f.note, "1 of 4") {
		t.Errorf("tracking in one run is noted as %q, %v", f.note, err)
	}
	if _, err := r.compute(rows[7:]); err == nil {
		t.Error("a ratio of nothing was computed")
	}
}

func TestScheduleTurnsRound(t *testing.T) {
	need := map[pair]bool{{"a", "qd1"}: true, {"b", "qd1"}: true, {"a", "64k"}: true}
	names := func(round int) string {
		var s []string
		for _, x := range schedule(need, []workload{qd1, seq64, mix}, []target{{name: "a"}, {name: "b"}, {name: "c"}}, round) {
			s = append(s, x.target.name+"/"+x.workload.name)
		}
		return strings.Join(s, " ")
	}
	if got, want := names(0), "a/qd1 b/qd1 a/64k"; got != want {
		t.Errorf("round 0: %s, want %s", got, want)
	}
	if got, want := names(1), "a/64k b/qd1 a/qd1"; got != want {
		t.Errorf("round 1: %s, want %s", got, want)
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		b    bound
		v    float64
		want bool
	}{
		{bound{}, 0, true}, {bound{">=", 1}, 1, true}, {bound{">=", 1}, 0.99, false}, {bound{"<=", 1}, 1.01, false},
		{bound{">", 80}, 80, false}, {bound{"<", 6}, 5.9, true}, {bound{"=", 0}, 0, true}, {bound{"=", 0}, 0.1, false},
	} {
		if got := c.b.holds(c.v); got != c.want {
			t.Errorf("%v holds for %g: %v", c.b, c.v, got)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-size", "1GiB", "-rounds", "2", "-seconds", "0.5"})
	if err != nil || o.size != gib || o.rounds != 2 || o.seconds != time.Second/2 {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-size", "1"}, {"-size", "3MiB"}, {"-rounds", "0"}, {"-seconds", "0"}, {"-only", "("}, {"more"}} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// TestOneBenchAtATime: the second is refused while the first holds the
// directory, and a killed one's leftovers go.
func TestOneBenchAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "build", "bench.tmp")
	dir, release, err := claimDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := claimDir(path); err == nil {
		t.Error("two benches at a time")
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestChildren: a child ends on request and is known to have ended.
func TestChildren(t *testing.T) {
	sp := newSpawner(t.TempDir())
	p, err := sp.start("sleeper", "sleep", "600")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.alive(); err != nil {
		t.Error(err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if err := p.alive(); err == nil {
		t.Error("a stopped child is alive")
	}
	q, err := sp.start("failing", "sh", "-c", "echo no disk >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	<-q.done
	if err := q.alive(); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("got %v, want what the child said", err)
	}
}
