package drva

import (
	"bytes"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// TestGarbageNeverHurts: whatever a peer sends, others are served on.
func TestGarbageNeverHurts(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	good := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	good.sync()
	for i := range 60 {
		bad := newHost(t, r, rng, dr.Async, 1<<20)
		if i%3 > 0 {
			if err := bad.connect(r); err != nil {
				t.Fatal(err)
			}
			bad.sync()
		} else {
			nc, err := r.lis.dial()
			if err != nil {
				t.Fatal(err)
			}
			bad.nc, bad.closed = nc, make(chan struct{})
			go bad.receive(nc, bad.closed)
		}
		bad.mu.Lock()
		_ = bad.nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = bad.nc.Write(garbage(bad, i))
		bad.mu.Unlock()
		bad.disconnect()
		for _, vm := range bad.hello.VMs {
			eventually(t, "the VM is gone", func() bool {
				err := r.srv.Forget(t.Context(), vm.Config.ID)
				return err == nil || errs.Is(err, errs.NotFound)
			})
		}
	}
	good.writes(20)
	good.settle()
	if cp := r.checkpoint("still"); cp.Scope != dr.Group {
		t.Errorf("%v, missing %v", cp.Scope, cp.Missing)
	}
	r.stop()
	r.compare(good)
}

// garbage is one hostile frame.
func garbage(h *host, i int) []byte {
	rng := h.rng
	rec := h.random()
	rec.HostSeq = h.next
	switch i % 10 {
	case 0:
		rec.Disk = uint16(1 + rng.IntN(1000))
	case 1:
		rec.Offset = 1 << 40
	case 2:
		rec.Kind, rec.Payload, rec.Length = record.Kind(4+rng.IntN(10)), nil, 0
	case 3:
		rec.HostSeq = dr.HostSeq(rng.Uint64())
	case 4:
		rec.Kind, rec.Payload, rec.Length, rec.Flags = record.Meta, nil, 0, record.FromSync
	case 5:
		rec.HostSeq = 1
	case 6:
		rec.Seq, rec.Flags = dr.Seq(rng.Uint64()), record.Replayed
	case 7:
		return wire.Confirm{Round: wire.Round(rng.Uint64()), OK: true}.Append(nil)
	case 8:
		b := make([]byte, 500)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	case 9:
		return wire.Encode(wire.TypeWelcome, bytes.Repeat([]byte{'{'}, rng.IntN(4000)))
	}
	body := make([]byte, record.Size)
	rec.Put(body)
	hd := wire.Head{Type: wire.TypeRecords, Count: 1, Body: record.Size, Payload: uint32(len(rec.Payload)), BodyCRC: record.Checksum(body)}
	f := make([]byte, wire.HeadSize)
	hd.Put(f)
	return append(append(f, body...), rec.Payload...)
}
