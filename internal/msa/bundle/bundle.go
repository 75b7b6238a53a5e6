package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/runs"
)

// Bounds of a bundle.
const (
	// rows bounds the newest rows of each kind.
	rows = 1000
	// maxPart bounds one file, bytes: what is more is cut, and said so.
	maxPart = 32 << 20
)

// Options say what a bundle is of.
type Options struct {
	DB      *db.DB
	Release string
	// Metrics returns what Prometheus would be told; nil: nothing.
	Metrics func() ([]byte, error)
}

// part is one file of a bundle.
type part struct {
	name string
	make func(ctx context.Context, tx *db.Tx) ([]byte, error)
}

// Write writes a bundle: a gzipped tar archive. A file that could not be made says why,
// in its place: a bundle is wanted when something is wrong. Kinds: those of w.
func Write(ctx context.Context, w io.Writer, o Options) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, p := range o.parts() {
		var b []byte
		err := o.DB.View(ctx, func(tx *db.Tx) (err error) { b, err = p.make(ctx, tx); return err })
		if err != nil {
			b = append(b, "\nnot complete: "+err.Error()+"\n"...)
		}
		if len(b) > maxPart {
			b = append(b[:maxPart], "\ncut\n"...)
		}
		b = Scrub(b)
		if err := t.WriteHeader(&tar.Header{Name: "holdfast/" + p.name, Mode: 0o600, Size: int64(len(b)), ModTime: time.Unix(0, 0)}); err != nil {
			return errs.E("bundle.Write", errs.Unavailable, p.name, err)
		}
		if _, err := t.Write(b); err != nil {
			return errs.E("bundle.Write", errs.Unavailable, p.name, err)
		}
	}
	if err := t.Close(); err != nil {
		return errs.E("bundle.Write", errs.Unavailable, "", err)
	}
	if err := z.Close(); err != nil {
		return errs.E("bundle.Write", errs.Unavailable, "", err)
	}
	return nil
}

// parts are the files, in their order.
func (o *Options) parts() []part {
	return []part{
		{"version.json", o.version},
		{"configuration.yaml", func(ctx context.Context, tx *db.Tx) ([]byte, error) {
			all, err := catalog.All(ctx, tx)
			if err != nil {
				return nil, err
			}
			return file.Export(all)
		}},
		{"inventories.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) { return inventory.Sites(ctx, tx) })},
		{"placeholders.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) { return inventory.Placeholders(ctx, tx, "", "") })},
		{"alarms.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) {
			list, _, err := alarm.List(ctx, tx, true, alarm.Cursor{}, rows)
			return list, err
		})},
		{"events.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) {
			list, _, err := alarm.Events(ctx, tx, "", rows)
			return list, err
		})},
		{"outlets.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) { return alarm.Outlets(ctx, tx) })},
		{"runs.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) { return runs.List(ctx, tx, "", 0, rows) })},
		{"questions.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) { return runs.Questions(ctx, tx, "", rows) })},
		{"changes.json", asJSON(func(ctx context.Context, tx *db.Tx) (any, error) {
			f, err := catalog.Since(ctx, tx, 0, "", 1)
			if err != nil {
				return nil, err
			}
			f, err = catalog.Since(ctx, tx, max(0, f.Last-rows), "", rows)
			return f.Changes, err
		})},
		{"metrics.txt", func(context.Context, *db.Tx) ([]byte, error) {
			if o.Metrics == nil {
				return nil, nil
			}
			return o.Metrics()
		}},
		{"goroutines.txt", func(context.Context, *db.Tx) ([]byte, error) {
			var b bytes.Buffer
			err := pprof.Lookup("goroutine").WriteTo(&b, 1)
			return b.Bytes(), err
		}},
	}
}

func asJSON(f func(ctx context.Context, tx *db.Tx) (any, error)) func(context.Context, *db.Tx) ([]byte, error) {
	return func(ctx context.Context, tx *db.Tx) ([]byte, error) {
		v, err := f(ctx, tx)
		if err != nil {
			return nil, err
		}
		return json.MarshalIndent(v, "", "  ")
	}
}

// version says which program this is, and on what it runs.
func (o *Options) version(_ context.Context, tx *db.Tx) ([]byte, error) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	modules := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			modules[m.Path] = m.Version
		}
	}
	return json.MarshalIndent(map[string]any{
		"release": o.Release, "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH, "processors": runtime.NumCPU(),
		"goroutines": runtime.NumGoroutine(), "heap_bytes": mem.HeapAlloc, "database": o.DB.Name(), "now": db.Time(tx.Now()), "modules": modules,
	}, "", "  ")
}
