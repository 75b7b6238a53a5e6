package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// machine says where and when a run was made.
type machine struct {
	Kernel   string            `json:"kernel"`
	CPUs     int               `json:"cpus"`
	Model    string            `json:"cpu_model"`
	MemoryMB int64             `json:"memory_mb"`
	Go       string            `json:"go"`
	Peers    map[string]string `json:"peers"`
	Started  time.Time         `json:"started"`
	Load     []float64         `json:"load_averages"` // at the start
}

// raw is the content of the file of raw rows.
type raw struct {
	Machine machine     `json:"machine"`
	Size    int64       `json:"disk_bytes"`
	Rounds  int         `json:"rounds"`
	Seconds float64     `json:"seconds"`
	Long    float64     `json:"long_seconds"`
	Rows    []row       `json:"rows"`
	Notes   []string    `json:"notes"`
	Samples []rpoSample `json:"rpo_samples,omitempty"`
	Figures []rawFigure `json:"figures"`
}

// rpoSample is one look at how old the newest recoverable point is.
type rpoSample struct {
	Load    string    `json:"load"`
	At      time.Time `json:"at"`
	Seconds float64   `json:"rpo_s"`
}

// rawFigure is a figure with its spread.
type rawFigure struct {
	figure
	Want string  `json:"want"`
	Met  bool    `json:"met"`
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
	Note string  `json:"note,omitempty"`
}

// thisMachine describes the machine; peers are asked for their versions.
func (b *bench) thisMachine(ctx context.Context) (machine, error) {
	m := machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Started: time.Now().UTC(), Peers: map[string]string{}}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	m.Model = procField("/proc/cpuinfo", "model name")
	if _, err := fmt.Sscan(procField("/proc/meminfo", "MemTotal"), &m.MemoryMB); err != nil {
		return m, fmt.Errorf("memory size: %w", err)
	}
	m.MemoryMB /= 1024
	avg, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, err
	}
	m.Load = make([]float64, 3)
	if _, err := fmt.Sscan(string(avg), &m.Load[0], &m.Load[1], &m.Load[2]); err != nil {
		return m, fmt.Errorf("load average: %w", err)
	}
	for _, peer := range []string{"qemu-nbd", "nbdkit", "qemu-storage-daemon", "nbdcopy", "fio"} {
		out, err := b.sp.run(ctx, peer, peer, "--version")
		if err != nil {
			return m, fmt.Errorf("%w (make deps installs it)", err)
		}
		m.Peers[peer], _, _ = strings.Cut(string(out), "\n")
	}
	return m, nil
}

// procField returns the first value of a name in one of the kernel's tables.
func procField(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// save writes the results and, beside them, the raw rows and the table.
func (b *bench) save() error {
	if err := writeJSON(b.out, b.figures); err != nil {
		return err
	}
	r := raw{Machine: b.machine, Size: b.size, Rounds: b.rounds, Seconds: b.seconds.Seconds(), Long: b.long.Seconds(),
		Rows: b.rows, Notes: b.notes, Samples: b.samples}
	for _, f := range b.figures {
		r.Figures = append(r.Figures, rawFigure{f, f.want.String(), f.want.holds(f.Value), f.min, f.max, f.note})
	}
	base, ext := strings.TrimSuffix(b.out, filepath.Ext(b.out)), filepath.Ext(b.out)
	return errors.Join(writeJSON(base+"-raw"+ext, r), os.WriteFile(base+".md", b.markdown(), 0o644))
}

func writeJSON(path string, v any) error {
	j, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(j, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// head says in one line where, when and how the figures were made.
func (b *bench) head() string {
	return fmt.Sprintf("%s, %d CPUs (%s), %d MiB, Linux %s, %s; disks of %d MiB, %d rounds of %s, long runs %s; load average at the start %.2f",
		b.machine.Started.Format("2006-01-02 15:04 UTC"), b.machine.CPUs, b.machine.Model, b.machine.MemoryMB, b.machine.Kernel, b.machine.Go,
		b.size/mib, b.rounds, b.seconds, b.long, b.machine.Load[0])
}

// cells are the columns of a figure.
func (f figure) cells() []string {
	met := "-"
	if f.want.sign != "" {
		met = "no"
		if f.want.holds(f.Value) {
			met = "yes"
		}
	}
	spread := "-"
	if f.min != f.max {
		spread = fmt.Sprintf("%.3g-%.3g", f.min, f.max)
	}
	against := f.Against
	if f.note != "" {
		against += "; " + strings.ToUpper(f.note)
	}
	return []string{f.Name, fmt.Sprintf("%.3f", f.Value), f.Unit, spread, f.want.String(), met, against}
}

var columns = []string{"figure", "value", "unit", "spread", "goal", "met", "against"}

// table shows the figures to a person.
func (b *bench) table(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n", b.head())
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	for _, f := range b.figures {
		fmt.Fprintln(t, strings.Join(f.cells(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range b.notes {
		fmt.Fprintln(w, "note:", n)
	}
	return nil
}

// markdown is the table as docs/performance.md has it.
func (b *bench) markdown() []byte {
	var m strings.Builder
	fmt.Fprintf(&m, "%s.\n\n", b.head())
	line := func(cells []string) { fmt.Fprintf(&m, "| %s |\n", strings.Join(cells, " | ")) }
	line(columns)
	m.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	for _, f := range b.figures {
		line(f.cells())
	}
	for _, n := range b.notes {
		fmt.Fprintf(&m, "\n- %s", n)
	}
	m.WriteString("\n")
	return []byte(m.String())
}
