package instant

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// objectChunks is how many chunks one published object holds: 8 MiB before
// compression, about what an initial sync makes.
const objectChunks = 128

// Secret opens the containers that Publish makes.
const Secret = "correct horse battery"

// Publish makes a container in st with one checkpoint: of each VM the only disk,
// as its image is.
func Publish(ctx context.Context, st store.Store, vms []dr.VMConfig, images []string) error {
	who, err := journal.PassphraseRecipient(Secret, "the usual")
	if err != nil {
		return err
	}
	c, err := journal.Create(ctx, st, journal.CreateOptions{Name: "instant", Recipients: []journal.Recipient{who}})
	if err != nil {
		return err
	}
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{})
	if err != nil {
		return err
	}
	defer p.Close()
	w := &publishing{c: c, p: p, seq: 1}
	cp := dr.Checkpoint{ID: 1, Time: time.Now(), Scope: dr.Group}
	for i, vm := range vms {
		if err := p.PutMeta(ctx, vm.ID, 1, vm); err != nil {
			return err
		}
		d := vm.Disks[0]
		if err := w.image(ctx, d.ID, images[i]); err != nil {
			return err
		}
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: d.ID, VM: vm.ID, Size: d.Size, Synced: true})
	}
	cp.Seq = w.seq
	return w.publish(ctx, &cp)
}

type publishing struct {
	c   *journal.Container
	p   *journal.Publisher
	b   *segment.Builder
	n   int // chunks in b
	seq dr.Seq
}

// image adds an image; what it has as zeroes is left out.
func (w *publishing) image(ctx context.Context, id dr.DiskID, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, dr.ChunkSize)
	for chunk := uint32(0); ; chunk++ {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			clear(buf[n:])
			if err := w.chunk(ctx, id, chunk, buf); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (w *publishing) chunk(ctx context.Context, id dr.DiskID, chunk uint32, b []byte) error {
	var mask uint16
	var data []byte
	for i := range dr.BlocksPerChunk {
		block := b[i*dr.BlockSize:][:dr.BlockSize]
		for _, v := range block {
			if v != 0 {
				mask |= 1 << i
				data = append(data, block...)
				break
			}
		}
	}
	if mask == 0 {
		return nil
	}
	if w.b == nil {
		w.b = w.c.NewBuilder(segment.BuilderOptions{})
	}
	if err := w.b.AddFrame(id, chunk, mask, w.seq, data); err != nil {
		return err
	}
	if w.n++; w.n < objectChunks {
		return nil
	}
	return w.publish(ctx, nil)
}

func (w *publishing) publish(ctx context.Context, cp *dr.Checkpoint) error {
	if w.b == nil {
		w.b = w.c.NewBuilder(segment.BuilderOptions{})
	}
	w.b.SetSeqs(w.seq, w.seq)
	w.seq++
	if cp != nil {
		cp.Seq = w.seq
		w.b.SetCheckpoint(*cp)
	}
	q, err := w.p.Publish(ctx, w.b)
	w.b, w.n = nil, 0
	if err != nil {
		return err
	}
	return q.Wait(ctx)
}

// Late is a store whose every answer to a read takes Delay longer.
type Late struct {
	store.Store
	Delay time.Duration
}

// ReadRange implements store.Store.
func (s Late) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	select {
	case <-time.After(s.Delay):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return s.Store.ReadRange(ctx, key, p, off)
}
