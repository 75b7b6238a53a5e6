package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

const (
	scriptedDisk = 256 * mib // size of each of its disks
	loadTick     = 2 * time.Millisecond
	framesWrites = 4 // writes of a frame, about 136 KiB
)

// scripted is what a DRVA sees of a host: a stream of writes over one
// connection, its marks and answers. It keeps no disks, and replays nothing.
type scripted struct {
	disks int
	nc    net.Conn

	mu   sync.Mutex // guards all below, and writing to nc
	next dr.HostSeq
	err  error

	// The frame being filled.
	recs    []record.Record
	payload []byte
	body    []byte
}

// newScripted attaches a host with disks, all of them zero and synced.
func newScripted(ctx context.Context, a *aloneDRVA, n, disks int) (*scripted, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", a.addr)
	if err != nil {
		return nil, err
	}
	h := &scripted{disks: disks, nc: nc, next: 1}
	hello := wire.Hello{Domain: a.open.Domain().ID, Host: dr.HostID{UUID: dr.NewUUID()}, Name: fmt.Sprintf("host%d", n), Nonce: rand.Uint64(),
		Ack: dr.Async.String(), First: 1, Next: 1, Features: []string{wire.FeatureTrack}}
	for i := range disks {
		vm := dr.VMID{UUID: dr.NewUUID()}
		id := dr.DiskID{UUID: dr.NewUUID()}
		hello.VMs = append(hello.VMs, wire.HelloVM{
			Config: dr.VMConfig{ID: vm, Name: fmt.Sprintf("vm%d-%d", n, i), CPUs: 1, Disks: []dr.VMDisk{{ID: id, Name: "disk0", Size: scriptedDisk}}},
			Disks:  []wire.HelloDisk{{Index: uint16(i), Disk: dr.Disk{ID: id, VM: vm, Name: "disk0", Size: scriptedDisk}}},
		})
	}
	frame, err := wire.EncodeJSON(wire.TypeHello, hello)
	if err != nil {
		return nil, err
	}
	if _, err := nc.Write(frame); err != nil {
		return nil, err
	}
	if t, _, err := readControlFrame(nc); err != nil || t != wire.TypeWelcome {
		return nil, fmt.Errorf("frame of type %d instead of a Welcome: %w", t, err)
	}
	go h.listen()
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := nc.Write(wire.Encode(wire.TypeReplayEnd, nil)); err != nil {
		return nil, err
	}
	for i := range disks {
		h.addLocked(record.Record{Kind: record.SyncEnd, Disk: uint16(i)})
	}
	h.flushLocked()
	return h, h.err
}

func readControlFrame(nc net.Conn) (wire.Type, []byte, error) {
	var raw [wire.HeadSize]byte
	if _, err := io.ReadFull(nc, raw[:]); err != nil {
		return 0, nil, err
	}
	var head wire.Head
	if err := head.Parse(raw[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, head.Body)
	_, err := io.ReadFull(nc, body)
	return head.Type, body, err
}

// listen answers rounds.
func (h *scripted) listen() {
	for {
		t, body, err := readControlFrame(h.nc)
		if err != nil {
			h.fail(err)
			return
		}
		h.mu.Lock()
		switch t {
		case wire.TypeHold:
			round, _ := wire.ParseRound(body)
			h.addLocked(record.Record{Kind: record.Marker, Offset: uint64(round)})
			h.flushLocked()
		case wire.TypeRelease, wire.TypeMark:
			round, _ := wire.ParseRound(body)
			h.writeLocked(wire.Confirm{Round: round, OK: true}.Append(nil))
		case wire.TypePing:
			h.writeLocked(wire.Encode(wire.TypePing, nil))
		case wire.TypeTrack:
			if h.err == nil && body[0] != 0 {
				h.err = fmt.Errorf("the DRVA has the host track: the load is beyond it")
			}
		}
		h.mu.Unlock()
	}
}

func (h *scripted) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
}

func (h *scripted) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

func (h *scripted) writeLocked(b []byte) {
	if h.err == nil {
		_, h.err = h.nc.Write(b)
	}
}

// addLocked puts a record into the frame, sending the frame when it is full. A
// marker takes no place in the stream.
func (h *scripted) addLocked(r record.Record) {
	if len(h.recs) == wire.MaxRecords || len(h.payload)+r.PaddedLen() > wire.MaxPayload {
		h.flushLocked()
	}
	if r.Kind != record.Marker {
		r.HostSeq = h.next
		h.next++
	}
	r.Time = time.Now().UnixNano()
	h.payload = append(h.payload, r.Payload...)
	h.recs = append(h.recs, r)
}

func (h *scripted) flushLocked() {
	if len(h.recs) == 0 {
		return
	}
	h.body = append(h.body[:0], make([]byte, wire.HeadSize+len(h.recs)*record.Size)...)
	for i := range h.recs {
		h.recs[i].Put(h.body[wire.HeadSize+i*record.Size:])
	}
	body := h.body[wire.HeadSize:]
	head := wire.Head{Type: wire.TypeRecords, Count: uint16(len(h.recs)), Body: uint32(len(body)), Payload: uint32(len(h.payload)), BodyCRC: record.Checksum(body)}
	head.Put(h.body)
	h.writeLocked(append(h.body, h.payload...))
	h.recs, h.payload = h.recs[:0], h.payload[:0]
}

// load writes at a rate, in sizes from 4 KiB to 64 KiB, to all disks.
func (h *scripted) load(ctx context.Context, rate float64, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	noise := make([]byte, 128<<10)
	for i := range noise {
		noise[i] = byte(rng.Uint32() & 0x3f) // compresses a little, as guests' data does
	}
	tick := time.NewTicker(loadTick)
	defer tick.Stop()
	began, sent := time.Now(), 0.0
	for h.failed() == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for sent < rate*time.Since(began).Seconds() && ctx.Err() == nil {
			h.mu.Lock() // for a frame at a time: rounds must not wait for the load
			for range framesWrites {
				n := (1 + rng.IntN(16)) * dr.BlockSize
				at := rng.IntN(len(noise) - n + 1)
				p := noise[at : at+n]
				h.addLocked(record.Record{Kind: record.Data, Disk: uint16(rng.IntN(h.disks)), Length: uint32(n),
					Offset: rng.Uint64N(scriptedDisk/dr.BlockSize-16) * dr.BlockSize, Payload: p, CRC: record.Checksum(p)})
				sent += float64(n)
			}
			h.flushLocked()
			err := h.err
			h.mu.Unlock()
			if err != nil {
				return
			}
		}
	}
}
