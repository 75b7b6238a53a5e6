package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// latency is a distribution's landmarks in microseconds, submission to
// completion.
type latency struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// load is what fio reports of one run.
type load struct {
	Seconds    float64  `json:"seconds"`
	IOs        int64    `json:"ios"`
	WriteBytes int64    `json:"write_bytes"`
	IOPS       float64  `json:"iops"`
	MBs        float64  `json:"mb_s"`
	Write      latency  `json:"write"`
	Read       *latency `json:"read,omitempty"`
}

// fioSide is one direction of a job in fio's JSON.
type fioSide struct {
	IOBytes  int64   `json:"io_bytes"`
	TotalIOs int64   `json:"total_ios"`
	ShortIOs int64   `json:"short_ios"`
	DropIOs  int64   `json:"drop_ios"`
	IOPS     float64 `json:"iops"`
	Bps      float64 `json:"bw_bytes"`
	Runtime  int64   `json:"runtime"` // ms
	Lat      struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"lat_ns"`
}

type fioReport struct {
	Jobs []struct {
		Error int     `json:"error"`
		Read  fioSide `json:"read"`
		Write fioSide `json:"write"`
	} `json:"jobs"`
}

// runFio puts a load on the export at socket for d.
func runFio(ctx context.Context, s *spawner, w workload, socket string, size int64, d time.Duration) (load, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d+fioGrace, fmt.Errorf("fio %s did not end %s after its time", w.name, fioGrace))
	defer cancel()
	// Its standard output also has messages; the report goes to a file.
	report := filepath.Join(s.logs, "fio.json")
	if _, err := s.run(ctx, "fio "+w.name, append(w.args(socket, size, d), "--output="+report)...); err != nil {
		return load{}, err
	}
	out, err := os.ReadFile(report)
	if err != nil {
		return load{}, err
	}
	l, err := parseFio(out, d, w.rw == randread.rw)
	if err != nil {
		return load{}, fmt.Errorf("fio %s: %w", w.name, err)
	}
	return l, nil
}

// parseFio reads fio's report and refuses one that does not prove d worth of
// successful I/O: fio ends normally when its server fails every request.
func parseFio(out []byte, d time.Duration, reads bool) (load, error) {
	var rep fioReport
	if err := json.Unmarshal(out, &rep); err != nil {
		return load{}, fmt.Errorf("report: %w", err)
	}
	if len(rep.Jobs) != 1 {
		return load{}, fmt.Errorf("report of %d jobs", len(rep.Jobs))
	}
	j := rep.Jobs[0]
	if j.Error != 0 {
		return load{}, fmt.Errorf("ended with error %d", j.Error)
	}
	if n := j.Read.ShortIOs + j.Read.DropIOs + j.Write.ShortIOs + j.Write.DropIOs; n != 0 {
		return load{}, fmt.Errorf("%d requests were short or dropped", n)
	}
	did := j.Write
	if reads {
		did = j.Read
	}
	if did.TotalIOs == 0 || did.IOBytes == 0 {
		return load{}, fmt.Errorf("did nothing")
	}
	ran := time.Duration(max(j.Write.Runtime, j.Read.Runtime)) * time.Millisecond
	if ran < d*9/10 {
		return load{}, fmt.Errorf("ran %s instead of %s", ran, d)
	}
	l := load{
		Seconds:    ran.Seconds(),
		IOs:        j.Read.TotalIOs + j.Write.TotalIOs,
		WriteBytes: j.Write.IOBytes,
		IOPS:       j.Read.IOPS + j.Write.IOPS,
		MBs:        (j.Read.Bps + j.Write.Bps) / 1e6,
	}
	var err error
	if j.Write.TotalIOs > 0 {
		if l.Write, err = j.Write.latency(); err != nil {
			return load{}, err
		}
	}
	if j.Read.TotalIOs > 0 {
		r, err := j.Read.latency()
		if err != nil {
			return load{}, err
		}
		l.Read = &r
	}
	return l, nil
}

func (s fioSide) latency() (latency, error) {
	var l latency
	for _, p := range []struct {
		key string
		to  *float64
	}{{"50.000000", &l.P50}, {"99.000000", &l.P99}, {"99.900000", &l.P999}} {
		ns, ok := s.Lat.Percentile[p.key]
		if !ok {
			return latency{}, fmt.Errorf("no percentile %s in the report", p.key)
		}
		*p.to = ns / 1000
	}
	return l, nil
}
