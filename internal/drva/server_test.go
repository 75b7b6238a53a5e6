package drva

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/record"
	"holdfast/internal/replog"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// history reads what the container tells.
func (r *rig) history() *journal.History {
	r.t.Helper()
	h, err := r.container.History(r.t.Context(), journal.HistoryOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	if p := h.Problems(); len(p) > 0 {
		r.t.Fatalf("history has problems: %v", p)
	}
	return h
}

// rehydrate builds the disks of a checkpoint from the container alone.
func (r *rig) rehydrate(h *journal.History, cp journal.CheckpointInfo) map[dr.DiskID][]byte {
	r.t.Helper()
	img, err := h.Resolve(r.t.Context(), cp)
	if err != nil {
		r.t.Fatalf("checkpoint %d: %v", cp.ID, err)
	}
	out := map[dr.DiskID][]byte{}
	for _, d := range img.Disks {
		out[d.ID] = make([]byte, d.Size)
	}
	for _, o := range img.Objects {
		obj, err := r.container.OpenSized(r.t.Context(), o.Ref, o.Size)
		if err != nil {
			r.t.Fatal(err)
		}
		entries, err := obj.Entries(img, &o)
		if err != nil {
			r.t.Fatal(err)
		}
		for k, p := range o.Frames {
			e := entries[k]
			sealed := make([]byte, e.Stored)
			if err := obj.ReadAt(r.t.Context(), sealed, int64(e.Offset)); err != nil {
				r.t.Fatal(err)
			}
			blocks, err := obj.OpenFrame(nil, e, sealed, true)
			if err != nil {
				r.t.Fatal(err)
			}
			disk, n := out[img.Disks[p.Disk].ID], 0
			for i := range dr.BlocksPerChunk {
				if e.Mask&(1<<i) == 0 {
					continue
				}
				if p.Take&(1<<i) != 0 {
					off := int(e.Chunk)*dr.ChunkSize + i*dr.BlockSize
					copy(disk[off:], blocks[n*dr.BlockSize:(n+1)*dr.BlockSize])
				}
				n++
			}
		}
	}
	return out
}

// compare checks every recoverable checkpoint of the container against the
// hosts' own memory and returns how many there are.
func (r *rig) compare(hosts ...*host) int {
	r.t.Helper()
	hist := r.history()
	n := 0
	for _, cp := range hist.Checkpoints() {
		if !cp.Recoverable {
			continue
		}
		n++
		got := r.rehydrate(hist, cp)
		for _, h := range hosts {
			for i := range h.hello.VMs {
				d := h.hello.VMs[i].Disks[0].Disk
				if _, there := got[d.ID]; !there {
					continue
				}
				if want := h.image(uint16(i), cp.Seq); !bytes.Equal(got[d.ID], want) {
					r.t.Errorf("checkpoint %d at %d: disk %s of %s differs at byte %d", cp.ID, cp.Seq, d.ID, h.hello.Name, firstDiff(got[d.ID], want))
				}
			}
		}
	}
	return n
}

func firstDiff(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// checkpoint cuts one and waits until it is published.
func (r *rig) checkpoint(tag string) dr.Checkpoint {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var cp dr.Checkpoint
	var err error
	eventually(r.t, "a checkpoint is cut", func() bool {
		cp, err = r.srv.Checkpoint(ctx, tag)
		if err != nil && !errs.Is(err, errs.Unavailable) {
			r.t.Fatal(err)
		}
		return err == nil
	})
	eventually(r.t, "the checkpoint is published", func() bool {
		p := r.srv.Status().Checkpoints.LastPublished
		return p != nil && p.ID >= cp.ID
	})
	return cp
}

func TestPublishedCheckpointsHoldExactlyTheRecordsBefore(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	a := connected(t, newHost(t, r, rng, dr.Async, 4<<20, 1<<20), r)
	b := connected(t, newHost(t, r, rng, dr.Async, 8<<20), r)
	a.sync()
	b.sync()
	groups := 0
	for range 12 {
		a.writes(rng.IntN(40))
		b.writes(rng.IntN(40))
		a.writes(rng.IntN(10))
		if cp := r.checkpoint("tag"); cp.Scope == dr.Group {
			groups++
		}
	}
	a.settle()
	b.settle()
	r.stop()
	if n := r.compare(a, b); n < 10 || groups < 10 {
		t.Errorf("%d recoverable checkpoints, %d of them group: too few for a proof", n, groups)
	}
}

func TestRestartLosesNothingAndRepeatsNothing(t *testing.T) {
	rng := seeded(t)
	for _, ack := range []dr.AckRule{dr.Async, dr.Ordered} {
		t.Run(ack.String(), func(t *testing.T) {
			r := newRig(t, nil, func(c *Config) { c.LogFileSize = 32 << 20 }) // nothing is recycled: places can be read
			r.start()
			a := newHost(t, r, rng, ack, 4<<20)
			b := newHost(t, r, rng, ack, 2<<20)
			connected(t, a, r)
			connected(t, b, r)
			a.sync()
			b.sync()
			for life := range 8 {
				a.writes(rng.IntN(60))
				b.writes(rng.IntN(60))
				if life%2 == 0 {
					r.checkpoint("before")
				}
				a.writes(rng.IntN(30))
				r.stop() // whatever is on its way is lost
				a.disconnect()
				b.disconnect()
				a.writes(rng.IntN(60)) // captured without link
				b.writes(rng.IntN(60))
				r.start()
				connectAll(t, r, b, a)
				for _, h := range []*host{b, a} {
					if len(h.welcome.Unsynced) > 0 || !h.welcome.Known {
						t.Fatalf("life %d: a host that kept everything is told %+v", life, h.welcome)
					}
				}
				a.settle()
				b.settle()
			}
			if cp := r.checkpoint("end"); cp.Scope != dr.Group {
				t.Errorf("checkpoint after the last restart is %v, missing %v", cp.Scope, cp.Missing)
			}
			r.stop()
			r.readPlaces(a, b)
			if n := r.compare(a, b); n < 5 {
				t.Errorf("only %d recoverable checkpoints", n)
			}
			checkPlaces(t, a, b)
			a.disconnect()
			b.disconnect()
		})
	}
}

// readPlaces completes what the hosts know of their records' places from the
// log: a host that was told "durable" at its reconnect never hears the place.
// What it was told must agree.
func (r *rig) readPlaces(hosts ...*host) {
	r.t.Helper()
	h := r.history()
	rl, err := replog.Open(r.t.Context(), replog.Options{Dir: r.dir, FS: durable.OS{}, Domain: r.container.Domain().ID,
		Timeline: h.Timeline(), Epoch: 1 << 20, Quota: 128 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer rl.Close()
	if f := rl.Recovered().First; f != 1 {
		r.t.Fatalf("the log begins at %d", f)
	}
	rd, err := rl.NewReader(0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rd.Close()
	for {
		recs, err := rd.TryNext()
		if err != nil {
			r.t.Fatal(err)
		}
		if len(recs) == 0 {
			return
		}
		for _, x := range recs {
			for _, h := range hosts {
				if x.Session != h.welcome.Session || x.HostSeq == 0 {
					continue
				}
				if was := h.place[x.HostSeq]; was != 0 && was != x.Seq {
					r.t.Errorf("record %d of %s was told place %d and lies at %d", x.HostSeq, h.hello.Name, was, x.Seq)
				}
				h.place[x.HostSeq] = x.Seq
			}
		}
	}
}

// checkPlaces: every record has one place, no place holds two.
func checkPlaces(t *testing.T, hosts ...*host) {
	t.Helper()
	owner := map[dr.Seq]string{}
	for _, h := range hosts {
		last := dr.Seq(0)
		for hs := dr.HostSeq(1); hs < h.next; hs++ {
			p := h.place[hs]
			if p == 0 || owner[p] != "" || p <= last {
				t.Errorf("record %d of %s has place %d, after %d; %q has it too", hs, h.hello.Name, p, last, owner[p])
			}
			owner[p], last = h.hello.Name, p
		}
	}
}

// gateStore lets Creates through or makes them wait.
type gateStore struct {
	store.Store
	mu   sync.Mutex
	shut bool
	open chan struct{}
}

func (g *gateStore) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if shut == g.shut {
		return
	}
	g.shut = shut
	if shut {
		g.open = make(chan struct{})
	} else {
		close(g.open)
	}
}

func (g *gateStore) Create(ctx context.Context, key string, body []byte) error {
	g.mu.Lock()
	shut, open := g.shut, g.open
	g.mu.Unlock()
	if shut {
		select {
		case <-open:
		case <-ctx.Done():
			return errs.E("gateStore.Create", errs.Canceled, key, ctx.Err())
		}
	}
	return g.Store.Create(ctx, key, body)
}

func TestQuotaStopsCaptureAndDrainsAgain(t *testing.T) {
	rng := seeded(t)
	st := &gateStore{Store: mem.New()}
	r := newRig(t, st, func(c *Config) { c.Quota = 64 << 20 })
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 64<<20), r)
	h.sync()
	r.checkpoint("first")
	st.set(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		big := record.Record{Kind: record.Data, Length: 1 << 20, Payload: make([]byte, 1<<20)}
		for i := range 80 {
			big.Offset = uint64(i%64) << 20
			big.Payload[0] = byte(i)
			c := big
			c.Payload = bytes.Clone(big.Payload)
			c.CRC = record.Checksum(c.Payload)
			h.capture(c)
		}
	}()
	eventually(t, "the log is full", func() bool { return r.srv.Status().State == "full" })
	if _, err := r.srv.Checkpoint(t.Context(), "now"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("checkpoint with a full log: %v, want unavailable", err)
	}
	if s := r.srv.Status(); len(s.Errors) == 0 || s.Errors[len(s.Errors)-1].Remedy == "" {
		t.Errorf("a full log is no error with a remedy: %+v", s.Errors)
	}
	st.set(false)
	<-done
	h.settle()
	r.checkpoint("last")
	r.stop()
	if r.compare(h) < 2 {
		t.Error("too few checkpoints")
	}
}

func TestFencedStopsForGood(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	h.sync()
	r.checkpoint("mine")
	other, err := r.container.OpenPublisher(t.Context(), journal.PublisherOptions{Host: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	h.writes(3)
	if _, err := r.srv.Checkpoint(t.Context(), "too late"); err != nil && !errs.Is(err, errs.Canceled) {
		t.Fatal(err)
	}
	select {
	case err = <-r.ended:
	case <-time.After(patience):
		t.Fatal("Run goes on")
	}
	r.cancel()
	r.cancel = nil
	if !errs.Is(err, errs.Fenced) || errs.RemedyOf(err) == "" {
		t.Errorf("Run: %v (remedy %q), want fenced", err, errs.RemedyOf(err))
	}
	if s := r.srv.Status(); s.State != "stopped" || s.Publisher.Stopped == "" {
		t.Errorf("status after fencing: %+v", s)
	}
}

func TestLostLogContinuesTheHistoryUnsynced(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	h.sync()
	h.writes(20)
	before := r.checkpoint("before")
	h.settle()
	r.stop()
	h.disconnect()
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "host attaches", func() bool { return h.connect(r) == nil })
	if h.welcome.Known || len(h.welcome.Unsynced) != 1 {
		t.Errorf("after the log was lost: %+v", h.welcome)
	}
	cp := r.checkpoint("after")
	if cp.ID <= before.ID || cp.Seq <= before.Seq || cp.Scope != dr.Partial {
		t.Errorf("checkpoint %d at %d is %v, after %d at %d", cp.ID, cp.Seq, cp.Scope, before.ID, before.Seq)
	}
	if ok, _ := cp.Recoverable(); ok {
		t.Error("a checkpoint without baseline is offered")
	}
	h.capture(record.Record{Kind: record.Zero, Flags: record.FromSync, Length: 1 << 20})
	h.sync()
	h.settle()
	if cp := r.checkpoint("synced"); cp.Scope != dr.Group {
		t.Errorf("after the sync: %v, missing %v", cp.Scope, cp.Missing)
	}
	r.history()
}

func TestCheckpointNumbersRiseWhenAFreshLogRestarts(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	h.sync()
	h.writes(20)
	r.checkpoint("first")
	before := r.checkpoint("before")
	r.stop()
	h.disconnect()
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	// The new log gets the domain's disk, and no checkpoint before the restart.
	r.start()
	eventually(t, "host attaches", func() bool { return h.connect(r) == nil })
	h.settle()
	r.stop()
	h.disconnect()
	r.start()
	eventually(t, "host attaches", func() bool { return h.connect(r) == nil })
	if cp := r.checkpoint("after"); cp.ID <= before.ID {
		t.Errorf("checkpoint %d after checkpoint %d", cp.ID, before.ID)
	}
	r.history()
}

func TestRefusals(t *testing.T) {
	rng := seeded(t)
	var allowed dr.HostID
	r := newRig(t, nil, func(c *Config) {
		c.Authenticate = func(net.Conn) (dr.HostID, error) { return allowed, nil }
	})
	r.start()
	a := newHost(t, r, rng, dr.Async, 1<<20)
	allowed = a.hello.Host
	connected(t, a, r)
	for name, x := range map[string]struct {
		change func(*host)
		want   errs.Kind
	}{
		"wrong domain":     {func(h *host) { h.hello.Domain.UUID = dr.NewUUID() }, errs.Invalid},
		"another's name":   {func(h *host) { h.hello.Host.UUID = dr.NewUUID() }, errs.Denied},
		"unknown ack rule": {func(h *host) { h.hello.Ack = "maybe" }, errs.Invalid},
		"index twice":      {func(h *host) { h.hello.VMs = append(h.hello.VMs, h.hello.VMs[0]) }, errs.Invalid},
		"disk of another":  {func(h *host) { h.hello.VMs[0].Disks[0].Disk.VM.UUID = dr.NewUUID() }, errs.Invalid},
		"no size":          {func(h *host) { h.hello.VMs[0].Disks[0].Disk.Size = 0 }, errs.Invalid},
		"a live host's disk": {func(h *host) {
			h.hello.VMs = a.hello.VMs
		}, errs.Conflict},
	} {
		b := newHost(t, r, rng, dr.Async, 1<<20)
		allowed = b.hello.Host
		x.change(b)
		err := b.connect(r)
		if !errs.Is(err, x.want) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v (remedy %q), want %v", name, err, errs.RemedyOf(err), x.want)
		}
		b.disconnect()
	}
	a.writes(3)
	a.settle() // the live host was not disturbed
}

func TestReconnectReplacesTheOldConnection(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	h.sync()
	h.writes(10)
	old, closed := h.nc, h.closed
	if err := h.connect(r); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("the old connection lives on")
	}
	old.Close()
	h.writes(10)
	h.settle()
	if cp := r.checkpoint("x"); cp.Scope != dr.Group {
		t.Errorf("%v, missing %v", cp.Scope, cp.Missing)
	}
	checkPlaces(t, h)
	r.stop()
	r.compare(h)
}

func TestOutsideAndSilentHostsMakePartialCheckpoints(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, func(c *Config) { c.Limits.ConfirmLimit = time.Second })
	r.start()
	a := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	b := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	a.sync()
	b.sync()
	r.checkpoint("warm")
	for name, set := range map[string]func(bool){
		"outside": func(on bool) { b.outside = on },
		"mute":    func(on bool) { b.mute = on },
	} {
		b.mu.Lock()
		set(true)
		b.mu.Unlock()
		if cp := r.checkpoint(name); cp.Scope != dr.Partial || len(cp.Missing) != 1 || cp.Missing[0] != b.hello.VMs[0].Config.ID {
			t.Errorf("%s: %v, missing %v", name, cp.Scope, cp.Missing)
		}
		b.mu.Lock()
		set(false)
		b.mu.Unlock()
		if cp := r.checkpoint("again"); cp.Scope != dr.Group {
			t.Errorf("after %s: %v, missing %v", name, cp.Scope, cp.Missing)
		}
	}
	b.disconnect()
	if cp := r.checkpoint("gone"); cp.Scope != dr.Partial || len(cp.Missing) != 1 {
		t.Errorf("host gone: %v, missing %v", cp.Scope, cp.Missing)
	}
	if err := r.srv.Forget(t.Context(), a.hello.VMs[0].Config.ID); !errs.Is(err, errs.Conflict) {
		t.Errorf("forgetting a live VM: %v", err)
	}
	eventually(t, "the VM is forgotten", func() bool { return r.srv.Forget(t.Context(), b.hello.VMs[0].Config.ID) == nil })
	if cp := r.checkpoint("without"); cp.Scope != dr.Group || len(cp.Disks) != 1 {
		t.Errorf("forgotten: %v, %d disks, missing %v", cp.Scope, len(cp.Disks), cp.Missing)
	}
}

func TestIdleDomainPublishesOnlyHeartbeats(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, func(c *Config) { c.Interval, c.Heartbeat = time.Second, 3*time.Second })
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20), r)
	h.sync()
	h.writes(5)
	r.checkpoint("start")
	first := r.srv.Status()
	eventually(t, "four more checkpoints", func() bool { return r.srv.Status().Checkpoints.Taken >= first.Checkpoints.Taken+4 })
	s := r.srv.Status()
	if n := s.Objects - first.Objects; n > 2 {
		t.Errorf("%d objects for an idle domain", n)
	}
	eventually(t, "RPO follows", func() bool { s := r.srv.Status(); return s.RPO >= 0 && s.RPO < 2 })
	eventually(t, "a heartbeat", func() bool { return r.srv.Status().Objects > first.Objects })
	r.stop()
	r.compare(h)
}

// TestQuietAfterFullObjects: a burst that ends with an object that was full, and
// so has no checkpoint, is in the next checkpoint and not only in a heartbeat's;
// after a restart too.
func TestQuietAfterFullObjects(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, func(c *Config) { c.Interval = 2 * time.Second })
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 32<<20), r)
	h.sync()
	r.checkpoint("start")
	covered := func() bool {
		h.mu.Lock()
		last := h.place[h.next-1]
		h.mu.Unlock()
		p := r.srv.Status().Checkpoints.LastPublished
		return last != 0 && p != nil && p.Seq >= last
	}
	h.flood(objectBlocks * dr.BlockSize >> 20)
	h.settle()
	eventually(t, "a checkpoint covers the burst", covered)
	h.flood(objectBlocks * dr.BlockSize >> 20)
	h.settle()
	r.stop()
	r.start()
	eventually(t, "the host is back", func() bool { return h.connect(r) == nil })
	eventually(t, "a checkpoint covers what the run before published", covered)
	r.stop()
	r.compare(h)
}

func TestStatusTellsEverything(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, nil)
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Sync, 1<<20), r)
	h.sync()
	h.writes(10)
	h.settle()
	r.checkpoint("x")
	eventually(t, "status is fresh", func() bool {
		s := r.srv.Status()
		return s.State == "serving" && len(s.Hosts) == 1 && s.Hosts[0].State == "live" && len(s.Disks) == 1 && s.Disks[0].State == "synced"
	})
	s := r.srv.Status()
	if s.BytesIn == 0 || s.BytesStored == 0 || s.Records < 10 || s.Log.Quota == 0 || s.Log.Used == 0 || !s.Publisher.Open || s.Checkpoints.Group == 0 || s.RPO < 0 {
		t.Errorf("status lacks something: %+v", s)
	}
	b, err := json.Marshal(s)
	if err != nil || !bytes.Contains(b, []byte(`"rpo_seconds"`)) {
		t.Errorf("%s, %v", b, err)
	}
}
