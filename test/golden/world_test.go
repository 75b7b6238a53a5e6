package golden

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

// seed is what all of them are made from.
const seed = 20261101

// began is when the first container is made.
var began = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// clock is the bubble's: both hands move alike.
type clock struct{}

func (clock) Wall() time.Time     { return time.Now() }
func (clock) Boot() time.Duration { return time.Since(began) + time.Hour }

// disk is a protected disk as the guest sees it now.
type disk struct {
	dr.CheckpointDisk
	content []byte
}

// version is what the records since the last object left of a block.
type version struct {
	seq  dr.Seq
	zero bool
}

// line is a timeline under one publisher.
type line struct {
	*world
	id     dr.TimelineID
	label  string
	pub    *journal.Publisher
	b      *segment.Builder
	seq    dr.Seq // newest record
	first  dr.Seq // of the next object
	cp     dr.CheckpointID
	disks  []*disk
	cell   map[dr.DiskID]map[uint32]version
	points []point
}

// world is a container being made.
type world struct {
	t   *testing.T
	rng *rand.Rand
	st  *mem.Store
	c   *journal.Container
	key journal.RecoveryKeyPair
	all []*line
}

// close ends the publishers, also of a maker that broke off.
func (w *world) close() {
	for _, l := range w.all {
		if l.pub != nil {
			check(w.t, l.pub.Close())
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	time.Sleep(max(time.Hour, time.Until(began)).Round(time.Hour))
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), st: mem.NewAt(time.Now)}
	var err error
	w.key, err = journal.NewRecoveryKey()
	check(t, err)
	phrase, err := journal.PassphraseRecipient(passphrase, "written in the clear in test/golden")
	check(t, err)
	w.c, err = journal.Create(t.Context(), w.st, journal.CreateOptions{Name: name, Recipients: []journal.Recipient{phrase, w.key.Recipient()}})
	check(t, err)
	return w
}

// newLine takes the first timeline over with disks of a VM each.
func (w *world) newLine(sizes ...int64) *line {
	w.t.Helper()
	l := &line{world: w, id: w.c.Domain().Timeline, label: "main", first: 1}
	for _, size := range sizes {
		l.disks = append(l.disks, &disk{
			CheckpointDisk: dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: size, Synced: true},
			content:        make([]byte, size),
		})
	}
	w.all = append(w.all, l)
	l.open()
	return l
}

// open takes the timeline over, from whoever published it before.
func (l *line) open() {
	l.t.Helper()
	if l.pub != nil {
		check(l.t, l.pub.Close())
	}
	var err error
	l.pub, err = l.c.OpenPublisher(l.t.Context(), journal.PublisherOptions{Timeline: l.id, Host: "golden", Clock: clock{}})
	check(l.t, err)
	l.b = l.c.NewBuilder(segment.BuilderOptions{})
	l.cell = make(map[dr.DiskID]map[uint32]version)
}

// configure stores the configuration of each disk's VM.
func (l *line) configure(name string) {
	l.t.Helper()
	l.seq++
	for i, d := range l.disks {
		cfg := dr.VMConfig{
			ID: d.VM, Name: name + string(rune('a'+i)), CPUs: 2, MemoryMiB: 512, Machine: "q35", Firmware: "uefi",
			Disks: []dr.VMDisk{{ID: d.ID, Name: "disk0", Size: d.Size, Bus: "virtio"}},
			NICs:  []dr.NIC{{MAC: "52:54:00:00:00:0" + string(rune('1'+i)), Model: "virtio-net-pci", Network: "production"}},
		}
		check(l.t, l.pub.PutMeta(l.t.Context(), d.VM, l.seq, cfg))
	}
}

// touch is one record's effect on count blocks of a disk from first.
func (l *line) touch(i int, first, count uint32, zero bool) {
	l.seq++
	d := l.disks[i]
	if l.cell[d.ID] == nil {
		l.cell[d.ID] = make(map[uint32]version)
	}
	for b := first; b < first+count && int64(b)*dr.BlockSize < d.Size; b++ {
		at := int64(b) * dr.BlockSize
		p := d.content[at:min(at+dr.BlockSize, d.Size)]
		clear(p)
		if !zero {
			l.fill(p, b == first && l.seq%16 == 5)
		}
		l.cell[d.ID][b] = version{l.seq, zero}
	}
}

// fill writes what compresses well, or noise.
func (l *line) fill(p []byte, noise bool) {
	word := byte(1 + l.rng.IntN(255))
	for i := range p {
		p[i] = word
		if noise || i%1024 == 0 {
			p[i] = byte(l.rng.Uint32())
		}
	}
}

// write does n records somewhere on the disks.
func (l *line) write(n int) {
	for range n {
		i := l.rng.IntN(len(l.disks))
		blocks := uint32((l.disks[i].Size + dr.BlockSize - 1) / dr.BlockSize)
		first := l.rng.Uint32N(blocks)
		if l.rng.IntN(2) == 0 {
			first %= min(blocks, 40) // written again and again
		}
		l.touch(i, first, 1+l.rng.Uint32N(6), l.rng.IntN(5) == 0)
	}
}

// block is block b of a disk, filled up with zeroes behind its end.
func (d *disk) block(b uint32) []byte {
	at := int64(b) * dr.BlockSize
	p := make([]byte, dr.BlockSize)
	copy(p, d.content[at:])
	return p
}

// pack puts the cell into the builder.
func (l *line) pack() {
	l.t.Helper()
	l.b.Reset()
	for _, d := range l.disks {
		cell := l.cell[d.ID]
		numbers := slices.Sorted(maps.Keys(cell))
		for i := 0; i < len(numbers); {
			v := cell[numbers[i]]
			if v.zero {
				n := l.zeros(numbers[i:], cell)
				check(l.t, l.b.AddZero(d.ID, uint64(numbers[i]), uint64(n), v.seq))
				i += n
				continue
			}
			chunk, mask, seq := numbers[i]/dr.BlocksPerChunk, uint16(0), dr.Seq(0)
			var data []byte
			for ; i < len(numbers) && numbers[i]/dr.BlocksPerChunk == chunk && !cell[numbers[i]].zero; i++ {
				mask |= 1 << (numbers[i] % dr.BlocksPerChunk)
				data = append(data, d.block(numbers[i])...)
				seq = max(seq, cell[numbers[i]].seq)
			}
			check(l.t, l.b.AddFrame(d.ID, chunk, mask, seq, data))
		}
	}
}

// zeros is how many of the numbers follow each other as zeroes of one record.
func (l *line) zeros(numbers []uint32, cell map[uint32]version) int {
	n := 1
	for n < len(numbers) && numbers[n] == numbers[0]+uint32(n) && cell[numbers[n]] == cell[numbers[0]] {
		n++
	}
	return n
}

// publish publishes what was written, with cp at its end unless it is nil;
// its zero fields are filled in.
func (l *line) publish(cp *dr.Checkpoint) dr.CheckpointID {
	l.t.Helper()
	l.pack()
	l.b.SetSeqs(l.first, l.seq)
	if cp != nil {
		l.cp++
		cp.ID, cp.Seq, cp.Time = l.cp, l.seq+1, time.Now()
		for _, d := range l.disks {
			cp.Disks = append(cp.Disks, d.CheckpointDisk)
		}
		l.b.SetCheckpoint(*cp)
		l.points = append(l.points, l.pointOf(cp))
	}
	q, err := l.pub.Publish(l.t.Context(), l.b)
	check(l.t, err)
	check(l.t, q.Wait(l.t.Context()))
	l.first, l.cell = l.seq+1, make(map[dr.DiskID]map[uint32]version)
	return l.cp
}

// pointOf is what the disks are now.
func (l *line) pointOf(cp *dr.Checkpoint) point {
	p := point{ID: cp.ID, Scope: cp.Scope, Tag: cp.Tag, Disks: make(map[string]image)}
	p.Recoverable, _ = cp.Recoverable()
	for _, d := range l.disks {
		sum := sha256.Sum256(d.content)
		p.Disks[d.ID.String()] = image{Size: d.Size, SHA256: hex.EncodeToString(sum[:])}
	}
	return p
}

// wait lets time pass for everybody.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// fork begins a line at a checkpoint that the parent took last.
func (l *line) fork(label string) *line {
	l.t.Helper()
	child := &line{world: l.world, label: label, seq: l.seq, first: l.seq + 1, cp: l.cp}
	var err error
	child.id, err = l.c.Fork(l.t.Context(), journal.ForkOptions{Parent: l.id, Checkpoint: l.cp, Label: label, By: "golden", Test: true})
	check(l.t, err)
	for _, d := range l.disks {
		child.disks = append(child.disks, &disk{CheckpointDisk: d.CheckpointDisk, content: slices.Clone(d.content)})
	}
	inherited := l.points[len(l.points)-1]
	child.points = []point{inherited}
	l.world.all = append(l.world.all, child)
	child.open()
	return child
}
