package iofilter

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// Legacy is what a Filter leaves to the next one: its sockets, which clients
// may go on connecting to, and the connections that were open. Whoever has it
// owns the descriptors in it.
type Legacy struct {
	Disks  []LegacyDisk
	Paused bool // the host is paused by a user, with all that comes to it
}

// LegacyDisk is one disk of a Legacy.
type LegacyDisk struct {
	ID       dr.DiskID
	Socket   string
	Listener *net.UnixListener
	Conns    []nbd.Handed
	Paused   bool // by a user
}

// Close lets go of a Legacy that nobody takes up: clients see their connections
// end.
func (l *Legacy) Close() error {
	var all error
	for i := range l.Disks {
		if ln := l.Disks[i].Listener; ln != nil {
			all = errors.Join(all, ln.Close())
		}
		for j := range l.Disks[i].Conns {
			all = errors.Join(all, l.Disks[i].Conns[j].Close())
		}
	}
	l.Disks = nil
	return all
}

// Release is Close for a Legacy that another process goes on with: the socket
// files stay.
func (l *Legacy) Release() error {
	for i := range l.Disks {
		if ln := l.Disks[i].Listener; ln != nil {
			ln.SetUnlinkOnClose(false)
		}
	}
	return l.Close()
}

// Disconnect lets go of the connections, and keeps the sockets: for a Legacy
// whose connections somebody else may have used. Clients connect again.
func (l *Legacy) Disconnect() error {
	var all error
	for i := range l.Disks {
		for j := range l.Disks[i].Conns {
			all = errors.Join(all, l.Disks[i].Conns[j].Close())
		}
		l.Disks[i].Conns = nil
	}
	return all
}

// Has reports whether a disk is in the Legacy.
func (l *Legacy) Has(id dr.DiskID, socket string) bool {
	return slices.ContainsFunc(l.Disks, func(d LegacyDisk) bool { return d.ID == id && d.Socket == socket })
}

// take returns the disk's part and takes it out, or nothing.
func (l *Legacy) take(c *Disk) (ln *net.UnixListener, conns []nbd.Handed) {
	if l == nil {
		return nil, nil
	}
	for i := range l.Disks {
		if d := &l.Disks[i]; d.ID == c.ID && d.Socket == c.Socket && d.Listener != nil {
			ln, conns = d.Listener, d.Conns
			d.Listener, d.Conns = nil, nil
			return ln, conns
		}
	}
	return nil, nil
}

// HandOver ends a running Filter for another one to go on, of this process or
// of one that is given the descriptors: guests' requests that were begun are
// completed and answered, later ones wait in their connections; what the stream
// holds goes to the DRVA, for limit at most; the primaries are closed, so that
// the other one can open them. Run returns nil then. The guests wait until the
// Legacy is taken up, by New, or closed.
//
// Errors: Unavailable (the Filter does not run, or operations in flight did not
// complete: nothing can be handed over, and Run ends with the same error).
func (f *Filter) HandOver(ctx context.Context, limit time.Duration) (*Legacy, error) {
	const op = "iofilter.HandOver"
	f.flushAhead()
	f.mu.Lock()
	if err := f.runsLocked(op); err != nil || f.handing != nil {
		f.mu.Unlock()
		return nil, errors.Join(err, errs.New(op, errs.Unavailable, f.cfg.Name, "the host component is not running, or being handed over"))
	}
	h := &handing{limit: limit, over: make(chan struct{})}
	f.handing = h
	for _, p := range f.ports {
		p.server.HandOver()
	}
	close(f.hand)
	f.mu.Unlock()
	select {
	case <-h.over:
		return h.legacy, h.err
	case <-ctx.Done():
		// It cannot be stopped any more; what comes of it is let go.
		go func() {
			<-h.over
			if h.legacy != nil {
				_ = h.legacy.Close()
			}
		}()
		return nil, errs.E(op, errs.Canceled, f.cfg.Name, context.Cause(ctx))
	}
}

// flushAhead flushes the primaries while guests are served: what is cached of
// their writes may take long to reach the disks, and would keep them waiting
// later. Nothing is protected or let go meanwhile.
func (f *Filter) flushAhead() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range f.ports {
		if p.file == nil {
			continue // what a hypervisor's export acknowledged it keeps
		}
		wg.Go(func() {
			if err := p.file.Flush(); err != nil {
				p.log.Warn("the primary cannot be flushed", "err", err)
			}
		})
	}
	wg.Wait()
}

// handing is a hand-over under way.
type handing struct {
	limit  time.Duration
	legacy *Legacy
	err    error
	over   chan struct{} // closed when legacy or err is there
}

// finish tells how it went. A port that did not halt has operations in flight
// that may still reach its disk: nothing is handed over then.
func (h *handing) finish(err error) {
	if err != nil {
		h.err = errors.Join(err, h.legacy.Close())
		h.legacy = nil
	}
	close(h.over)
}

// collect takes what the halted ports leave.
func (h *handing) collect(ports []*port, users pauses) {
	h.legacy = &Legacy{Paused: users.All}
	for _, p := range ports {
		d := LegacyDisk{ID: p.conf.ID, Socket: p.conf.Socket, Listener: p.ln, Conns: p.server.Handed()}
		d.Paused = users.has(d.ID)
		h.legacy.Disks = append(h.legacy.Disks, d)
		p.ln = nil // not ours to close any more
	}
}
