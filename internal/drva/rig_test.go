package drva

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/record"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; it is never a proof.
const patience = 3 * time.Minute

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
	return rand.New(rand.NewPCG(seed, 7))
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial() (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-time.After(patience):
		return nil, errors.New("nobody accepts")
	}
}

// rig is an appliance with its container and log, which survive its restarts.
type rig struct {
	t         testing.TB
	st        store.Store
	container *journal.Container
	key       journal.RecoveryKeyPair
	dir       string
	change    func(*Config)

	srv    *Server
	lis    *pipeListener
	cancel context.CancelFunc
	ended  chan error
}

func newRig(t testing.TB, st store.Store, change func(*Config)) *rig {
	t.Helper()
	if st == nil {
		st = mem.New()
	}
	key, err := journal.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := journal.Create(t.Context(), st, journal.CreateOptions{Name: "payroll", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, st: st, container: c, key: key, dir: t.TempDir(), change: change}
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start() {
	r.t.Helper()
	r.lis = newPipeListener()
	cfg := Config{Container: r.container, Host: "test", LogDir: r.dir, Quota: 128 << 20, LogFileSize: 16 << 20,
		Interval: time.Minute, Listener: r.lis, Logger: slog.New(slog.NewTextHandler(testWriter{r.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if os.Getenv("HOLDFAST_TEST_LOG") == "" {
		cfg.Logger = nil
	}
	if r.change != nil {
		r.change(&cfg)
	}
	srv, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.srv, r.cancel, r.ended = srv, cancel, make(chan error, 1)
	go func(ended chan error) { ended <- srv.Run(ctx) }(r.ended)
}

// stop ends the appliance, as a crash would as far as memory goes: what the
// log has not made durable is gone.
func (r *rig) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		r.t.Error("Run does not end")
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Log(string(p)); return len(p), nil }

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// host is a scripted host component: what it captured, what the DRVA told it.
type host struct {
	t     *testing.T
	hello wire.Hello
	rng   *rand.Rand

	mu       sync.Mutex
	cond     *sync.Cond
	nc       net.Conn
	live     bool
	next     dr.HostSeq
	durable  dr.HostSeq
	ring     []record.Record              // not durable; payloads kept
	all      map[dr.HostSeq]record.Record // every record ever captured
	place    map[dr.HostSeq]dr.Seq
	outside  bool // answers rounds negatively
	mute     bool // does not answer rounds
	welcome  wire.Welcome
	refused  *wire.Refuse
	received int // Acks
	hashes   map[uint32]*wire.HashAnswer
	closed   chan struct{}

	orders    []wire.TrackReason // in order; a Welcome's too
	throttles []wire.Throttle
	freeze    func(t wire.Type, vm dr.VMID) (wire.FreezeState, string) // nil: it does not answer
}

var hostCount byte

func newHost(t *testing.T, r *rig, rng *rand.Rand, ack dr.AckRule, sizes ...int64) *host {
	hostCount++
	h := &host{t: t, rng: rng, next: 1, all: map[dr.HostSeq]record.Record{}, place: map[dr.HostSeq]dr.Seq{}, hashes: map[uint32]*wire.HashAnswer{}}
	h.cond = sync.NewCond(&h.mu)
	h.hello = wire.Hello{Domain: r.container.Domain().ID, Host: dr.HostID{UUID: dr.NewUUID()},
		Name: fmt.Sprintf("host%d", hostCount), Nonce: rng.Uint64(), Ack: ack.String()}
	for i, size := range sizes {
		vm := dr.VMID{UUID: dr.NewUUID()}
		d := dr.Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: vm, Name: "disk0", Size: size}
		h.hello.VMs = append(h.hello.VMs, wire.HelloVM{
			Config: dr.VMConfig{ID: vm, Name: fmt.Sprintf("%s-vm%d", h.hello.Name, i), CPUs: 1, Disks: []dr.VMDisk{{ID: d.ID, Name: d.Name, Size: size}}},
			Disks:  []wire.HelloDisk{{Index: uint16(i), Disk: d}},
		})
	}
	return h
}

// connect attaches and replays. It fails with the DRVA's words when refused.
func (h *host) connect(r *rig) error {
	nc, err := r.lis.dial()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	hello := h.hello
	hello.First, hello.Next = h.next, h.next
	if len(h.ring) > 0 {
		hello.First = h.ring[0].HostSeq
	}
	f, err := wire.EncodeJSON(wire.TypeHello, &hello)
	if err != nil {
		return err
	}
	if _, err := nc.Write(f); err != nil {
		return err
	}
	t, body, err := readFrame(nc)
	if err != nil {
		nc.Close()
		return err
	}
	if t == wire.TypeRefuse {
		nc.Close()
		var m wire.Refuse
		if err := wire.DecodeJSON(body, &m); err != nil {
			return err
		}
		return m.Err("host.connect")
	}
	h.welcome = wire.Welcome{}
	if err := wire.DecodeJSON(body, &h.welcome); err != nil || t != wire.TypeWelcome {
		return fmt.Errorf("no Welcome but type %d: %w", t, err)
	}
	h.orders = append(h.orders, h.welcome.Track)
	h.forgetLocked(h.welcome.Durable)
	h.nc, h.closed, h.refused = nc, make(chan struct{}), nil
	go h.receive(nc, h.closed)
	for i := range h.ring {
		c := h.ring[i]
		c.Flags |= record.Replayed
		c.Seq = h.place[c.HostSeq]
		if err := sendRecords(nc, c); err != nil {
			return err
		}
	}
	if _, err := nc.Write(wire.Encode(wire.TypeReplayEnd, nil)); err != nil {
		return err
	}
	h.live = true
	return nil
}

// sync ends the first copy of disks the DRVA called unsynced, which this
// host's stream holds as a whole: they began as zeroes.
func (h *host) sync() {
	h.mu.Lock()
	unsynced := h.welcome.Unsynced
	h.mu.Unlock()
	for _, i := range unsynced {
		h.capture(record.Record{Kind: record.SyncEnd, Disk: i})
	}
	h.settle()
}

// capture puts records into the stream, each in a frame of its own.
func (h *host) capture(recs ...record.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range recs {
		r.HostSeq, r.Time = h.next, time.Now().UnixNano()
		h.next++
		h.ring = append(h.ring, r)
		h.all[r.HostSeq] = r
		if h.live && sendRecords(h.nc, r) != nil {
			h.live = false
		}
	}
}

// writes makes n random writes, zeroings and trims.
func (h *host) writes(n int) {
	for range n {
		h.capture(h.random())
	}
}

func (h *host) random() record.Record {
	d := &h.hello.VMs[h.rng.IntN(len(h.hello.VMs))].Disks[0]
	blocks := uint64(d.Disk.Size / dr.BlockSize)
	first := h.rng.Uint64N(blocks)
	count := min(1+h.rng.Uint64N(6), blocks-first)
	r := record.Record{Kind: record.Data, Disk: d.Index, Offset: first * dr.BlockSize, Length: uint32(count * dr.BlockSize)}
	switch h.rng.IntN(8) {
	case 0:
		r.Kind = record.Zero
	case 1:
		r.Kind = record.Discard
	default:
		r.Payload = make([]byte, r.Length)
		for i := 0; i < len(r.Payload); i += 8 {
			r.Payload[i] = byte(h.rng.Uint32())
			r.Payload[i+1] = byte(i >> 8)
		}
		r.CRC = record.Checksum(r.Payload)
	}
	return r
}

func sendRecords(nc net.Conn, recs ...record.Record) error {
	body := make([]byte, len(recs)*record.Size)
	var payload []byte
	for i := range recs {
		recs[i].Put(body[i*record.Size:])
		payload = append(payload, recs[i].Payload...)
	}
	hd := wire.Head{Type: wire.TypeRecords, Count: uint16(len(recs)), Body: uint32(len(body)), Payload: uint32(len(payload)), BodyCRC: record.Checksum(body)}
	f := make([]byte, wire.HeadSize, wire.HeadSize+len(body)+len(payload))
	hd.Put(f)
	_, err := nc.Write(append(append(f, body...), payload...))
	return err
}

func readFrame(nc net.Conn) (wire.Type, []byte, error) {
	var raw [wire.HeadSize]byte
	if _, err := io.ReadFull(nc, raw[:]); err != nil {
		return 0, nil, err
	}
	var hd wire.Head
	if err := hd.Parse(raw[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, hd.Body)
	if _, err := io.ReadFull(nc, body); err != nil {
		return 0, nil, err
	}
	return hd.Type, body, hd.CheckBody(body)
}

// receive takes in what the DRVA says. Answers are written by goroutines of
// their own: a pipe has no room.
func (h *host) receive(nc net.Conn, closed chan struct{}) {
	defer close(closed)
	var answers sync.WaitGroup
	defer answers.Wait()
	defer nc.Close()
	for {
		t, body, err := readFrame(nc)
		if err != nil {
			return
		}
		h.mu.Lock()
		switch t {
		case wire.TypeAck:
			var a wire.Ack
			if err := a.Parse(body); err != nil {
				h.t.Errorf("ack: %v", err)
			}
			h.ackLocked(&a)
		case wire.TypeHashAnswer:
			a, err := wire.ParseHashAnswer(body)
			if err != nil {
				h.t.Errorf("hash answer: %v", err)
			} else {
				h.hashes[a.ID] = a
			}
		case wire.TypeRefuse:
			h.refused = &wire.Refuse{}
			_ = wire.DecodeJSON(body, h.refused)
		}
		h.orderedLocked(t, body)
		mute, outside := h.mute, h.outside
		h.cond.Broadcast()
		h.mu.Unlock()
		if t == wire.TypeFreeze || t == wire.TypeThaw {
			answers.Go(func() { h.quiesce(nc, t, body) })
			continue
		}
		if t != wire.TypeHold && t != wire.TypeRelease && t != wire.TypeMark || mute {
			continue
		}
		round, err := wire.ParseRound(body)
		if err != nil {
			h.t.Errorf("round: %v", err)
		}
		answers.Go(func() { h.answer(nc, t, round, outside) })
	}
}

// orderedLocked notes what the DRVA wants besides rounds.
func (h *host) orderedLocked(t wire.Type, body []byte) {
	switch t {
	case wire.TypeTrack:
		m, err := wire.ParseTrack(body)
		if err != nil {
			h.t.Errorf("track: %v", err)
		}
		h.orders = append(h.orders, m.Reason)
	case wire.TypeThrottle:
		m, err := wire.ParseThrottle(body)
		if err != nil {
			h.t.Errorf("throttle: %v", err)
		}
		h.throttles = append(h.throttles, m)
	}
}

// order is the order in force.
func (h *host) order() wire.TrackReason {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.orders[len(h.orders)-1]
}

// quiesce answers Freeze and Thaw.
func (h *host) quiesce(nc net.Conn, t wire.Type, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answer := wire.TypeThawed
	round, err := wire.ParseRound(body)
	if t == wire.TypeFreeze {
		var m wire.Freeze
		m, err = wire.ParseFreeze(body)
		answer, round = wire.TypeFrozen, m.Round
	}
	if err != nil {
		h.t.Errorf("freeze or thaw: %v", err)
	}
	if h.freeze == nil {
		return
	}
	m := wire.FreezeReport{Round: round}
	for _, vm := range h.hello.VMs {
		state, why := h.freeze(t, vm.Config.ID)
		m.VMs = append(m.VMs, wire.FreezeVM{VM: vm.Config.ID, State: state, Reason: why})
	}
	frame, err := m.Append(nil, answer)
	if err != nil {
		h.t.Error(err)
	}
	_, _ = nc.Write(frame)
}

// modern offers all features.
func (h *host) modern() *host {
	h.hello.Features = []string{wire.FeatureFreeze, wire.FeatureThrottle, wire.FeatureTrack}
	return h
}

func (h *host) answer(nc net.Conn, t wire.Type, round wire.Round, outside bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case outside:
		_, _ = nc.Write(wire.Confirm{Round: round, Reason: wire.ReasonOutside}.Append(nil))
	case t == wire.TypeHold:
		_ = sendRecords(nc, record.Record{Kind: record.Marker, Offset: uint64(round)})
	default:
		_, _ = nc.Write(wire.Confirm{Round: round, OK: true}.Append(nil))
	}
}

func (h *host) ackLocked(a *wire.Ack) {
	h.received++
	for _, s := range a.Spans {
		for i := range s.Count {
			hs, seq := s.First+dr.HostSeq(i), s.Seq+dr.Seq(i)
			if was, ok := h.place[hs]; ok && was != seq && hs <= h.durable {
				h.t.Errorf("durable record %d moved from %d to %d", hs, was, seq)
			}
			h.place[hs] = seq
		}
	}
	h.forgetLocked(a.Durable)
}

func (h *host) forgetLocked(durable dr.HostSeq) {
	h.durable = max(h.durable, durable)
	for len(h.ring) > 0 && h.ring[0].HostSeq <= h.durable {
		h.ring = h.ring[1:]
	}
}

// settle waits until everything captured is durable.
func (h *host) settle() {
	h.t.Helper()
	eventually(h.t, "everything captured is durable", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.ring) == 0
	})
}

// disconnect cuts the link.
func (h *host) disconnect() {
	h.mu.Lock()
	nc, closed := h.nc, h.closed
	h.live = false
	h.mu.Unlock()
	if nc != nil {
		nc.Close()
		<-closed
	}
}

// image is a disk as the records below seq left it.
func (h *host) image(index uint16, below dr.Seq) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	img := make([]byte, h.hello.VMs[index].Disks[0].Disk.Size)
	for hs := dr.HostSeq(1); hs < h.next; hs++ {
		r := h.all[hs]
		if p := h.place[hs]; r.Disk != index || p == 0 || p >= below {
			continue
		}
		switch r.Kind {
		case record.Data:
			copy(img[r.Offset:], r.Payload)
		case record.Zero, record.Discard:
			clear(img[r.Offset : r.Offset+uint64(r.Length)])
		}
	}
	return img
}

// connected attaches a host or ends the test.
func connected(t *testing.T, h *host, r *rig) *host {
	t.Helper()
	if err := h.connect(r); err != nil {
		t.Fatalf("connect: %v, remedy: %s", err, errs.RemedyOf(err))
	}
	t.Cleanup(h.disconnect)
	return h
}

// connectAll attaches hosts at the same time: a restarted DRVA reads one
// host's replay only so far ahead of the others'.
func connectAll(t *testing.T, r *rig, hosts ...*host) {
	t.Helper()
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Go(func() {
			end := time.Now().Add(patience)
			for err := h.connect(r); err != nil; err = h.connect(r) {
				if time.Now().After(end) {
					t.Errorf("%s does not attach: %v", h.hello.Name, err)
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
