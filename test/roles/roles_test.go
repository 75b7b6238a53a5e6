package roles

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/role"
)

const (
	points   = 5
	diskSize = 1 << 20
)

// content is the disk's first chunk as of checkpoint n.
func content(n int) []byte { return bytes.Repeat([]byte{byte(n)}, dr.ChunkSize) }

// publish takes over the timeline and publishes one checkpoint.
func publish(t *testing.T, c *journal.Container, disk dr.CheckpointDisk, n int) {
	t.Helper()
	ctx := t.Context()
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{Host: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	vm := dr.VMConfig{ID: disk.VM, Name: "erp", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios",
		Disks: []dr.VMDisk{{ID: disk.ID, Name: "disk0", Size: diskSize, Bus: "virtio"}}}
	if err := p.PutMeta(ctx, vm.ID, dr.Seq(n), vm); err != nil {
		t.Fatal(err)
	}
	seq := dr.Seq(10 * n)
	b := c.NewBuilder(segment.BuilderOptions{})
	if err := b.AddFrame(disk.ID, 0, 0xFFFF, seq-1, content(n)); err != nil {
		t.Fatal(err)
	}
	b.SetSeqs(seq-5, seq)
	b.SetCheckpoint(dr.Checkpoint{ID: dr.CheckpointID(n), Seq: seq, Time: time.Unix(int64(1700000000+n), 0).UTC(),
		Scope: dr.Group, Disks: []dr.CheckpointDisk{disk}})
	q, err := p.Publish(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestLeastRights(t *testing.T) {
	ctx := t.Context()
	inner := mem.New()
	key, err := journal.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}

	// A container made, published to and taken over, without deleting.
	pub := role.New(inner, role.Publisher)
	c, err := journal.Create(ctx, pub, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	for op, n := range pub.Refused() {
		if op != role.Delete || n > 1 { // the trial's own leftover
			t.Errorf("creating: %s refused %d times", op, n)
		}
	}
	before := pub.Refused()[role.Delete]
	disk := dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: diskSize, Synced: true}
	for n := 1; n <= points; n++ {
		publish(t, c, disk, n)
	}
	if got := pub.Refused()[role.Delete]; got != before || len(pub.Refused()) > 1 {
		t.Errorf("a publisher tried more than its role may: %v", pub.Refused())
	}

	// Everything restored with read and list.
	rec := role.New(inner, role.Recovery)
	r, err := journal.Open(ctx, rec, key.Identity())
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.History(ctx, journal.HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(h.Checkpoints()); n != points {
		t.Fatalf("%d checkpoints", n)
	}
	for _, cp := range h.Checkpoints() {
		img, err := h.Resolve(ctx, cp)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "disk.raw")
		if _, err := rocva.Full(ctx, r, img, []rocva.Target{{Disk: disk.ID, Path: path}}, rocva.Options{}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || len(got) != diskSize || !bytes.Equal(got[:dr.ChunkSize], content(int(cp.ID))) {
			t.Errorf("checkpoint %d: disk differs (%v)", cp.ID, err)
		}
	}
	if got := rec.Refused(); len(got) != 0 {
		t.Errorf("a recovery tried more than its role may: %v", got)
	}
	// And with these rights nothing can be published.
	if _, err := r.OpenPublisher(ctx, journal.PublisherOptions{Host: "test"}); !errs.Is(err, errs.Denied) || rec.Refused()[role.Create] == 0 {
		t.Errorf("a publisher without rights: %v", err)
	}
}
