package drva

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// readBoot reads what a host's VM has read while it booted, and has it stored.
// It is advice: what does not fit this host's VMs, or comes while much of it
// waits, is let go.
func (s *Server) readBoot(c *conn, in *bufio.Reader, h *wire.Head) error {
	if h.Body > uint32(wire.MaxBootTrace) {
		return errs.E("drva.read", errs.Invalid, "link", fmt.Errorf("a boot trace of %d bytes", h.Body))
	}
	body := make([]byte, h.Body)
	if _, err := io.ReadFull(in, body); err != nil {
		return err
	}
	if err := h.CheckBody(body); err != nil {
		return err
	}
	t, err := wire.ParseBootTrace(body)
	if err != nil {
		return err
	}
	for _, k := range t.Trace.Chunks {
		if c.disks[k.Disk] != t.VM {
			s.log.Warn("a boot trace names a disk that is not the VM's", "host", c.name, "vm", t.VM.String(), "disk", k.Disk.String())
			return nil
		}
	}
	select {
	case s.boots <- t:
	default:
		s.log.Debug("a boot trace is let go: others wait for the store", "vm", t.VM.String())
	}
	return nil
}

// disksOf are the disks that a Hello names, and whose they are.
func disksOf(h *wire.Hello) map[dr.DiskID]dr.VMID {
	out := map[dr.DiskID]dr.VMID{}
	for i := range h.VMs {
		for _, d := range h.VMs[i].Disks {
			out[d.Disk.ID] = h.VMs[i].Config.ID
		}
	}
	return out
}

// keepBoots stores boot traces until ctx ends. One that cannot be stored is let
// go: nobody's point rests on it.
func (s *Server) keepBoots(ctx context.Context, timeline dr.TimelineID) error {
	kept := map[dr.VMID]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-s.boots:
			if at, known := kept[t.VM]; known && time.Since(at) < bootEvery {
				continue
			}
			if err := s.keepBoot(ctx, timeline, &t); err == nil {
				kept[t.VM] = time.Now()
			} else if ctx.Err() == nil {
				s.log.Warn("a boot trace is not kept", "vm", t.VM.String(), "err", err)
			}
		}
	}
}

// keepBoot stores one trace, under the newest record the container has.
func (s *Server) keepBoot(ctx context.Context, timeline dr.TimelineID, t *wire.BootTrace) error {
	for s.shipped.published.Load() == 0 { // a domain whose first VM has just booted
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(cutRetry):
		}
	}
	seq, trace := dr.Seq(s.shipped.published.Load()), t.Trace.Encode()
	err := s.retry(ctx, "store a boot trace", func() error {
		return s.cfg.Container.PutTrace(ctx, timeline, t.VM, seq, trace)
	})
	if err == nil {
		s.log.Info("a boot trace is kept", "vm", t.VM.String(), "chunks", len(t.Trace.Chunks))
	}
	return err
}
