package drva

import (
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// cpuTime is the processor time of this process so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIngest streams frames of 64 records of 4 KiB over loopback TCP until
// they are durable; publishing runs beside it, as it does in production. CPU
// per byte is the figure to look at.
func BenchmarkIngest(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	r := newRig(b, nil, func(c *Config) { c.Listener, c.Quota, c.LogFileSize = ln, 1<<30, 0 })
	r.start()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	vm, id := dr.VMID{UUID: dr.NewUUID()}, dr.DiskID{UUID: dr.NewUUID()}
	hello, err := wire.EncodeJSON(wire.TypeHello, &wire.Hello{Domain: r.container.Domain().ID, Host: dr.HostID{UUID: dr.NewUUID()},
		Name: "bench", Nonce: 1, Ack: "async", First: 1, Next: 1, VMs: []wire.HelloVM{{Config: dr.VMConfig{ID: vm},
			Disks: []wire.HelloDisk{{Disk: dr.Disk{ID: id, VM: vm, Size: 1 << 30}}}}}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := nc.Write(append(hello, wire.Encode(wire.TypeReplayEnd, nil)...)); err != nil {
		b.Fatal(err)
	}
	var durable atomic.Uint64
	go func() {
		for {
			t, body, err := readFrame(nc)
			if err != nil {
				return
			}
			var a wire.Ack
			if t == wire.TypeAck && a.Parse(body) == nil {
				durable.Store(uint64(a.Durable))
			}
		}
	}()
	const records = 64
	body, payload := make([]byte, records*record.Size), make([]byte, records*dr.BlockSize)
	for i := range payload {
		payload[i] = byte(i / 64)
	}
	sum := record.Checksum(payload[:dr.BlockSize])
	sent := dr.HostSeq(0)
	b.SetBytes(records * dr.BlockSize)
	cpu := cpuTime(b)
	for b.Loop() {
		for i := range records {
			copy(payload[i*dr.BlockSize:], payload[:dr.BlockSize])
			sent++
			rec := record.Record{Kind: record.Data, Length: dr.BlockSize, HostSeq: sent, CRC: sum,
				Offset: uint64(sent*2654435761) % (1 << 30) &^ (dr.BlockSize - 1)}
			rec.Put(body[i*record.Size:])
		}
		hd := wire.Head{Type: wire.TypeRecords, Count: records, Body: uint32(len(body)), Payload: uint32(len(payload)), BodyCRC: record.Checksum(body)}
		var head [wire.HeadSize]byte
		hd.Put(head[:])
		bufs := net.Buffers{head[:], body, payload}
		if _, err := bufs.WriteTo(nc); err != nil {
			b.Fatal(err)
		}
	}
	for durable.Load() < uint64(sent) {
		time.Sleep(time.Millisecond)
	}
	used := cpuTime(b) - cpu
	b.ReportMetric(used.Seconds()*1e9/float64(uint64(sent)*dr.BlockSize), "cpu-ns/byte")
	r.stop()
}
