package resync

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 3 * time.Minute // bounds every wait; never a proof
	diskSize = 24<<20 + 1536
)

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64() >> 33
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 3))
}

// pair is a host with one disk, its DRVA, and their container.
type pair struct {
	t         *testing.T
	dir       string
	st        store.Store
	container *journal.Container
	key       journal.RecoveryKeyPair
	logs      int // directories of replication logs used

	srv     *drva.Server
	address string
	stopSrv func()

	cfg      iofilter.Config
	disk     dr.DiskID
	path     string
	host     *iofilter.Filter
	stopHost func()
	guest    *nbd.Client
	dial     func(ctx context.Context) (net.Conn, error) // nil: straight to the DRVA

	mu      sync.Mutex
	touched map[int64]bool // blocks that may differ from the copy; guarded by mu
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v, remedy: %s", err, errs.RemedyOf(err))
	}
}

// newPair makes container and disk and starts nothing.
func newPair(t *testing.T, rng *rand.Rand) *pair {
	t.Helper()
	dir, err := os.MkdirTemp("", "resync-") // short: sockets
	must(t, err)
	p := &pair{t: t, dir: dir, st: mem.New(), touched: map[int64]bool{}}
	t.Cleanup(func() {
		p.endHost()
		p.endDRVA()
		must(t, os.RemoveAll(dir))
	})
	p.key, err = journal.NewRecoveryKey()
	must(t, err)
	p.container, err = journal.Create(t.Context(), p.st, journal.CreateOptions{Name: "resync", Recipients: []journal.Recipient{p.key.Recipient()}})
	must(t, err)
	p.disk = dr.DiskID{UUID: dr.NewUUID()}
	p.path = filepath.Join(dir, "disk.raw")
	f, err := os.Create(p.path)
	must(t, err)
	must(t, f.Truncate(diskSize))
	for off := int64(0); off < diskSize; off += dr.ChunkSize {
		if rng.IntN(3) > 0 {
			_, err := f.WriteAt(content(rng, int(min(dr.ChunkSize, diskSize-off))), off)
			must(t, err)
		}
	}
	must(t, f.Close())
	vm := dr.VMID{UUID: dr.NewUUID()}
	p.cfg = iofilter.Config{Domain: p.container.Domain().ID, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "node", RingBytes: 16 << 20,
		VMs: []iofilter.VM{{
			Config: dr.VMConfig{ID: vm, Name: "vm", CPUs: 1, Disks: []dr.VMDisk{{ID: p.disk, Name: "disk0"}}},
			Disks:  []iofilter.Disk{{ID: p.disk, Name: "disk0", Path: p.path, Socket: filepath.Join(dir, "disk.sock")}},
		}}}
	return p
}

// content is n bytes that do not compress to nothing, some of them zeroes.
func content(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for at := 0; at < n; at += dr.BlockSize {
		if rng.IntN(8) > 0 {
			b[at] = 1
			for i := at; i < min(at+dr.BlockSize, n)-8; i += 97 {
				b[i] = byte(rng.Uint32())
			}
		}
	}
	return b
}

func logger(t *testing.T, who string) *slog.Logger {
	if os.Getenv("HOLDFAST_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("who", who, "test", t.Name())
}

// startDRVA starts an appliance; with an empty log, if fresh.
func (p *pair) startDRVA(fresh bool) {
	p.t.Helper()
	if fresh {
		p.logs++
	}
	ln, err := net.Listen("unix", filepath.Join(p.dir, fmt.Sprintf("drva%d.sock", rand.Uint32())))
	must(p.t, err)
	p.address = ln.Addr().String()
	// Opened anew, as another machine would: the keys are those of today.
	p.container, err = journal.Open(p.t.Context(), p.st, p.key.Identity())
	must(p.t, err)
	p.srv, err = drva.New(drva.Config{Container: p.container, Host: "drva", LogDir: filepath.Join(p.dir, fmt.Sprintf("log%d", p.logs)),
		Quota: 256 << 20, LogFileSize: 16 << 20, Interval: drva.MinInterval, Listener: ln, Logger: logger(p.t, "drva")})
	must(p.t, err)
	p.stopSrv = running(p.t, p.srv.Run)
}

// running runs f until stopped.
func running(t *testing.T, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	return func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("does not end")
		}
	}
}

func (p *pair) endDRVA() {
	if p.stopSrv != nil {
		p.stopSrv()
		p.stopSrv = nil
	}
}

// startHost starts a host component, which knows nothing of an earlier one.
func (p *pair) startHost() {
	p.t.Helper()
	dial := p.dial
	if dial == nil {
		dial = p.dialDRVA
	}
	var err error
	p.host, err = iofilter.New(p.cfg, iofilter.Options{Dial: dial, Logger: logger(p.t, "host")})
	must(p.t, err)
	p.stopHost = running(p.t, p.host.Run)
	p.eventually("the disk is served", func() bool {
		p.guest, err = nbd.Dial(p.t.Context(), "unix", p.cfg.VMs[0].Disks[0].Socket, nbd.DialOptions{Export: "disk0"})
		return err == nil
	})
}

func (p *pair) dialDRVA(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", p.address)
}

func (p *pair) endHost() {
	if p.stopHost != nil {
		p.guest.Close()
		p.stopHost()
		p.stopHost = nil
		// Its tracking state is lost with it, what is beside the disk included.
		must(p.t, os.RemoveAll(p.cfg.VMs[0].Disks[0].Path+".holdfast"))
	}
}

func (p *pair) eventually(what string, ok func() bool) {
	p.t.Helper()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			if p.host != nil {
				p.t.Logf("host: %+v", p.host.Status())
			}
			if p.srv != nil {
				p.t.Logf("drva: %+v", p.srv.Status())
			}
			p.t.Fatalf("still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// synced waits until the DRVA has a complete copy.
func (p *pair) synced() {
	p.t.Helper()
	p.eventually("the disk is synced", func() bool {
		s, d := p.host.Status(), p.srv.Status()
		return s.State == iofilter.Streaming && s.Disks[0].DirtyBytes == 0 && s.Stream.Durable == s.Stream.Next-1 &&
			len(d.Disks) == 1 && d.Disks[0].State == "synced"
	})
}

// touch notes that a range may differ from the copy.
func (p *pair) touch(off, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for b := off / dr.BlockSize; b <= (off+n-1)/dr.BlockSize; b++ {
		p.touched[b] = true
	}
}

// begin forgets what was touched, and returns what the host has shipped so far.
func (p *pair) begin() iofilter.StreamStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.touched)
	return p.host.Status().Stream
}

// compared demands that all of the disk was compared since before, and no more
// shipped than what may differ, and a tenth.
func (p *pair) compared(before iofilter.StreamStatus) {
	p.t.Helper()
	s := p.host.Status().Stream
	compared, shipped := s.Compared-before.Compared, s.Shipped-before.Shipped
	p.mu.Lock()
	most := uint64(len(p.touched)) * dr.BlockSize
	p.mu.Unlock()
	p.t.Logf("compared %d, shipped %d, at most %d differ", compared, shipped, most)
	if compared < diskSize || shipped > most+most/10 {
		p.t.Errorf("compared %d of %d bytes, shipped %d where at most %d differ", compared, diskSize, shipped, most)
	}
}

// writes makes n random writes of the guest, beginning in blocks below most.
func (p *pair) writes(ctx context.Context, rng *rand.Rand, n int) error {
	for range n {
		off := rng.Int64N(diskSize - 64<<10)
		size := 1 + rng.Int64N(24<<10)
		if rng.IntN(2) == 0 {
			off, size = off&^4095, dr.BlockSize*(1+rng.Int64N(4))
		}
		var err error
		p.touch(off, size)
		switch rng.IntN(8) {
		case 0:
			err = p.guest.WriteZeroes(ctx, off, size, 0)
		case 1:
			err = p.guest.Trim(ctx, off, size, 0)
		default:
			_, err = p.guest.WriteAt(ctx, content(rng, int(size)), off, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// behind changes n blocks of the primary behind the host component's back: what
// it does while nothing protects it.
func (p *pair) behind(rng *rand.Rand, n int) {
	p.t.Helper()
	f, err := os.OpenFile(p.path, os.O_RDWR, 0)
	must(p.t, err)
	defer f.Close()
	for range n {
		block := rng.Int64N(diskSize / dr.BlockSize)
		b := content(rng, dr.BlockSize)
		p.touch(block*dr.BlockSize, dr.BlockSize)
		_, err := f.WriteAt(b, block*dr.BlockSize)
		must(p.t, err)
	}
}

// differs cuts a checkpoint, recovers the disk from the container alone and
// tells where it is not the primary; "" nowhere.
func (p *pair) differs() string {
	p.t.Helper()
	p.synced() // an acknowledged write is on its way to the DRVA
	ctx := p.t.Context()
	var cp dr.Checkpoint
	p.eventually("a recoverable checkpoint is cut", func() bool {
		var err error
		cp, err = p.srv.Checkpoint(ctx, "now")
		ok, _ := cp.Recoverable()
		return err == nil && ok && cp.Scope == dr.Group
	})
	p.eventually("it is published", func() bool {
		l := p.srv.Status().Checkpoints.LastPublished
		return l != nil && l.ID >= cp.ID
	})
	c, err := journal.Open(ctx, p.st, p.key.Identity())
	must(p.t, err)
	h, err := c.History(ctx, journal.HistoryOptions{})
	must(p.t, err)
	found, err := h.Find(fmt.Sprintf("#%d", cp.ID))
	must(p.t, err)
	img, err := h.Resolve(ctx, found)
	must(p.t, err)
	fs := durabletest.New(durabletest.Config{})
	must(p.t, fs.Mkdir("/out"))
	_, err = rocva.Full(ctx, c, img, []rocva.Target{{Disk: p.disk, Path: "/out/d.raw"}}, rocva.Options{FS: fs})
	must(p.t, err)
	got := make([]byte, diskSize)
	must(p.t, fs.Peek("/out/d.raw", got, 0))
	want, err := os.ReadFile(p.path)
	must(p.t, err)
	for at := 0; at < diskSize; at += dr.BlockSize {
		end := min(at+dr.BlockSize, diskSize)
		if !bytes.Equal(got[at:end], want[at:end]) {
			return fmt.Sprintf("block %d (chunk %d): %x… recovered, %x… on the primary", at/dr.BlockSize, at/dr.ChunkSize, got[at:at+8], want[at:at+8])
		}
	}
	return ""
}

// same demands that nothing differs.
func (p *pair) same() {
	p.t.Helper()
	if d := p.differs(); d != "" {
		p.t.Fatal(d)
	}
}
