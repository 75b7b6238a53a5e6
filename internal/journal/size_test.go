package journal

import (
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

// TestDiskEndsWhereItsVMSays: records cover whole blocks; a disk that ends
// inside one gets its size from the VM's configuration, and from nothing else.
func TestDiskEndsWhereItsVMSays(t *testing.T) {
	const whole = 1 << 20
	for _, c := range []struct{ said, want int64 }{
		{whole, whole},
		{whole - 512, whole - 512},
		{whole - dr.BlockSize + 1, whole - dr.BlockSize + 1},
		{whole - dr.BlockSize, whole},
		{whole + 512, whole},
		{0, whole},
		{-512, whole},
	} {
		con := newTestContainer(t, mem.New())
		p := must[*Publisher](t)(con.OpenPublisher(t.Context(), PublisherOptions{}))
		o := newOracle(seeded(t), whole)
		cell := o.write(3)
		o.checkpoint(cell)
		cfg := dr.VMConfig{ID: o.vm, Disks: []dr.VMDisk{{ID: o.disks[0], Size: c.said}}}
		check(t, p.PutMeta(t.Context(), o.vm, 1, cfg))
		q := must[*Pending](t)(p.Publish(t.Context(), cell.build(t, o, con.NewBuilder(segment.BuilderOptions{}))))
		check(t, q.Wait(t.Context()))
		p.Close()
		h := must[*History](t)(con.History(t.Context(), HistoryOptions{}))
		img := must[*Image](t)(h.Resolve(t.Context(), h.Checkpoints()[0]))
		if got := img.Disks[0].Size; got != c.want {
			t.Errorf("configured with %d bytes: recovered with %d, want %d", c.said, got, c.want)
		}
	}
}
