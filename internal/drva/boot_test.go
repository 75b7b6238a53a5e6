package drva

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/wire"
)

// bootsRefused is a store that takes no boot traces while shut.
type bootsRefused struct {
	store.Store
	shut    atomic.Bool
	refused atomic.Int64
}

func (s *bootsRefused) Create(ctx context.Context, key string, body []byte) error {
	if s.shut.Load() && len(key) > 5 && key[:5] == "meta/" {
		s.refused.Add(1)
		return errs.New("store.Create", errs.Denied, key, "no")
	}
	return s.Store.Create(ctx, key, body)
}

// tell sends a boot trace of the host's first VM.
func (h *host) tell(t *testing.T, vm dr.VMID, disk dr.DiskID, chunks ...uint32) {
	t.Helper()
	var tr boottrace.Trace
	for _, c := range chunks {
		tr.Chunks = append(tr.Chunks, boottrace.Chunk{Disk: disk, Chunk: c})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.nc.Write(wire.BootTrace{VM: vm, Trace: tr}.Append(nil)); err != nil {
		t.Fatal(err)
	}
}

// TestBootTracesAreKept: a trace that a host tells is found in the container
// under its VM; one that names a disk which is not the VM's, and a second one of
// the same day, are not kept; a store that refuses it costs no protection; and a
// frame that is none ends the connection, not the appliance.
func TestBootTracesAreKept(t *testing.T) {
	rng := seeded(t)
	st := &bootsRefused{Store: mem.New()}
	r := newRig(t, st, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20, 1<<20).modern(), r)
	if !slices.Contains(h.welcome.Features, wire.FeatureBoot) {
		t.Fatalf("the DRVA offers %v", h.welcome.Features)
	}
	h.sync()
	r.checkpoint("first")
	vm, disk := h.hello.VMs[0].Config.ID, h.hello.VMs[0].Disks[0].Disk.ID
	other := h.hello.VMs[len(h.hello.VMs)-1]
	stored := func(vm dr.VMID) (n int) {
		b, err := r.container.Trace(t.Context(), vm)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			return 0
		}
		tr, err := boottrace.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		return len(tr.Chunks)
	}
	st.shut.Store(true)
	h.tell(t, vm, disk, 9)
	eventually(t, "the store is asked", func() bool { return st.refused.Load() == 1 })
	st.shut.Store(false)
	h.tell(t, vm, other.Disks[0].Disk.ID, 0, 1, 2, 3)
	h.tell(t, vm, disk, 0, 5, 3)
	eventually(t, "it is kept", func() bool { return stored(vm) == 3 })
	h.tell(t, vm, disk, 1)
	h.tell(t, other.Config.ID, other.Disks[0].Disk.ID, 0, 1)
	eventually(t, "the other VM's is kept", func() bool { return stored(other.Config.ID) == 2 })
	if n := stored(vm); n != 3 {
		t.Errorf("%d chunks: the second of a day was kept", n)
	}
	for _, body := range [][]byte{nil, make([]byte, 100), make([]byte, wire.MaxBootTrace+1)} {
		if _, err := h.nc.Write(wire.Encode(wire.TypeBootTrace, body)); err != nil && body == nil {
			t.Fatal(err)
		}
		eventually(t, "the connection ends", func() bool { return !h.isLive(h.nc) })
		connectAll(t, r, h)
	}
	h.writes(5)
	h.settle()
	r.checkpoint("last")
	r.stop()
	r.compare(h)
}

// isLive reports whether the connection is the host's and still open.
func (h *host) isLive(nc net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.closed:
		return false
	default:
		return h.nc == nc
	}
}
