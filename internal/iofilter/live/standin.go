package live

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// standIn serves the primaries of a dead host component on the sockets it had,
// unprotected, until end is called. A hypervisor that lost its export connects
// again at once, and, refused, only a second later: now it is answered, and its
// guests go on before, and however long, they are taken off. A disk that is
// another process's already, or whose content the hypervisor has, is refused.
func (w *Watchdog) standIn(ctx context.Context, record *Record, log *slog.Logger) (end func()) {
	if w.Sockets == nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	var serving sync.WaitGroup
	held := w.Sockets.take(ctx)
	for _, e := range record.Entries() {
		for i := range e.Disks {
			d := &e.Disks[i]
			ln := held[d.Socket]
			if ln == nil || d.exported() {
				continue
			}
			serve, err := d.pass(ln, log)
			if err != nil {
				log.Warn("nobody answers in the place of the dead host component", "vm", e.Config.Name, "disk", d.Name, "err", err, "remedy", errs.RemedyOf(err))
				continue
			}
			delete(held, d.Socket)
			serving.Go(func() { serve(ctx) })
		}
	}
	for _, ln := range held {
		ln.Close()
	}
	return func() { stop(); serving.Wait() }
}

// pass opens a disk to be served without protection. Errors: those of
// nbd.OpenFile: Conflict, when somebody else has it.
func (d *EntryDisk) pass(ln *net.UnixListener, log *slog.Logger) (serve func(context.Context), err error) {
	f, err := nbd.OpenFile(d.Path, nbd.FileOptions{Direct: d.Direct})
	if err != nil {
		return nil, err
	}
	s, err := nbd.NewServer(nbd.Options{Logger: log, Exports: []nbd.Export{{Name: d.Name, Description: d.ID.String(), File: f}}})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func(ctx context.Context) {
		if err := s.Serve(ctx, ln); err != nil {
			log.Error("a disk's socket failed", "disk", d.Name, "err", err)
			return // operations may be in flight: the disk stays open
		}
		if err := f.Close(); err != nil {
			log.Error("a disk cannot be closed", "disk", d.Name, "err", err)
		}
	}, nil
}
