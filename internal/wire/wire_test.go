package wire

import (
	"bytes"
	"reflect"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// frame builds a records frame with n data records of one block and, if
// asked, a marker behind them.
func frame(n int, marker bool) (head, body, payload []byte) {
	for i := range n {
		p := bytes.Repeat([]byte{byte(i + 1)}, dr.BlockSize)
		r := record.Record{Kind: record.Data, Length: dr.BlockSize, Offset: uint64(i) * dr.BlockSize, HostSeq: dr.HostSeq(i + 1), CRC: record.Checksum(p)}
		body = append(body, make([]byte, record.Size)...)
		r.Put(body[i*record.Size:])
		payload = append(payload, p...)
	}
	if marker {
		r := record.Record{Kind: record.Marker, Offset: 7, HostSeq: dr.HostSeq(n + 1)}
		body = append(body, make([]byte, record.Size)...)
		r.Put(body[n*record.Size:])
		n++
	}
	h := Head{Type: TypeRecords, Count: uint16(n), Body: uint32(len(body)), Payload: uint32(len(payload)), BodyCRC: record.Checksum(body)}
	head = make([]byte, HeadSize)
	h.Put(head)
	return head, body, payload
}

func TestRecordsRoundTrip(t *testing.T) {
	head, body, payload := frame(5, true)
	var h Head
	if err := h.Parse(head); err != nil {
		t.Fatal(err)
	}
	recs, err := h.Records(body, payload, make([]record.Record, 0, MaxRecords))
	if err != nil {
		t.Fatal(err)
	}
	if len(recs) != 6 || recs[5].Kind != record.Marker || recs[4].Payload[0] != 5 {
		t.Fatalf("decoded %+v", recs)
	}
}

func TestRecordsRefusals(t *testing.T) {
	decode := func(head, body, payload []byte) error {
		var h Head
		if err := h.Parse(head); err != nil {
			return err
		}
		_, err := h.Records(body, payload, nil2())
		return err
	}
	head, body, payload := frame(3, false)
	payload[4096] ^= 1
	if err := decode(head, body, payload); !errs.Is(err, errs.Corrupt) {
		t.Errorf("flipped payload bit: %v", err)
	}
	head, body, payload = frame(3, false)
	body[70] ^= 1
	if err := decode(head, body, payload); !errs.Is(err, errs.Corrupt) {
		t.Errorf("flipped descriptor bit: %v", err)
	}
	for bit := range HeadSize * 8 {
		head, body, payload = frame(1, false)
		head[bit/8] ^= 1 << (bit % 8)
		if err := decode(head, body, payload); err == nil {
			t.Errorf("head bit %d flipped and not noticed", bit)
		}
	}
	_, body, payload = frame(2, false)
	mr := record.Record{Kind: record.Marker}
	mr.Put(body[:record.Size])
	h := Head{Type: TypeRecords, Count: 2, Body: uint32(len(body)), Payload: 4096, BodyCRC: record.Checksum(body)}
	if _, err := h.Records(body, payload[:4096], nil2()); !errs.Is(err, errs.Invalid) {
		t.Errorf("marker before the end: %v", err)
	}
	_, body, payload = frame(2, false)
	h = Head{Type: TypeRecords, Count: 2, Body: uint32(len(body)), Payload: 4096, BodyCRC: record.Checksum(body)}
	if _, err := h.Records(body, payload[:4096], nil2()); !errs.Is(err, errs.Invalid) {
		t.Errorf("records claim more payload: %v", err)
	}
	h.Payload = 3 * 4096
	if _, err := h.Records(body, append(payload, make([]byte, 4096)...), nil2()); !errs.Is(err, errs.Invalid) {
		t.Errorf("payload of nobody: %v", err)
	}
}

func nil2() []record.Record { return make([]record.Record, 0, MaxRecords) }

func TestHeadBounds(t *testing.T) {
	for name, h := range map[string]Head{
		"type 0":          {},
		"type unknown":    {Type: 99},
		"body too long":   {Type: TypeHello, Body: MaxBody + 1},
		"payload on ping": {Type: TypePing, Payload: 4096},
		"payload odd":     {Type: TypeRecords, Count: 1, Body: 64, Payload: 100},
		"payload long":    {Type: TypeRecords, Count: 1, Body: 64, Payload: MaxPayload + 4096},
		"no records":      {Type: TypeRecords},
		"too many":        {Type: TypeRecords, Count: 257, Body: 257 * 64},
		"count lies":      {Type: TypeRecords, Count: 2, Body: 64},
	} {
		var b [HeadSize]byte
		h.Put(b[:])
		var got Head
		if err := got.Parse(b[:]); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	a := Ack{Durable: 9, Spans: []Span{{First: 1, Seq: 5, Count: 2}, {First: 3, Seq: 90, Count: 7}}}
	b := a.Append(nil)
	var h Head
	if err := h.Parse(b); err != nil {
		t.Fatal(err)
	}
	var got Ack
	if err := got.Parse(b[HeadSize:]); err != nil || !reflect.DeepEqual(got, a) {
		t.Fatalf("ack: %+v, %v", got, err)
	}
	c := Confirm{Round: 12, OK: false, Reason: ReasonReleased}
	gc, err := ParseConfirm(c.Append(nil)[HeadSize:])
	if err != nil || gc != c {
		t.Fatalf("confirm: %+v, %v", gc, err)
	}
	hello := Hello{Domain: dr.DomainID{UUID: dr.NewUUID()}, Name: "h1", Nonce: ^uint64(0), First: 3, Next: 9,
		VMs: []HelloVM{{Config: dr.VMConfig{Name: "vm"}, Disks: []HelloDisk{{Index: 1}}}}}
	f, err := EncodeJSON(TypeHello, hello)
	if err != nil {
		t.Fatal(err)
	}
	var gh Hello
	if err := DecodeJSON(f[HeadSize:], &gh); err != nil || !reflect.DeepEqual(gh, hello) {
		t.Fatalf("hello: %+v, %v", gh, err)
	}
}

func TestRecordsDoesNotAllocate(t *testing.T) {
	head, body, payload := frame(16, true)
	recs := make([]record.Record, 0, MaxRecords)
	var h Head
	n := testing.AllocsPerRun(50, func() {
		_ = h.Parse(head)
		recs, _ = h.Records(body, payload, recs)
	})
	if n != 0 {
		t.Fatalf("%v allocations a frame", n)
	}
}

func FuzzFrame(f *testing.F) {
	head, body, payload := frame(2, true)
	f.Add(append(append(head, body...), payload...))
	f.Add((&Ack{Durable: 1, Spans: []Span{{1, 2, 3}}}).Append(nil))
	f.Add(Confirm{Round: 1}.Append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		var h Head
		if h.Parse(in) != nil {
			return
		}
		rest := in[HeadSize:]
		if len(rest) < int(h.Body)+int(h.Payload) {
			return
		}
		b, p := rest[:h.Body], rest[h.Body:h.Body+h.Payload]
		switch h.Type {
		case TypeRecords:
			recs, err := h.Records(b, p, nil2())
			if err == nil && len(recs) != int(h.Count) {
				t.Fatalf("%d of %d records and no error", len(recs), h.Count)
			}
		case TypeAck:
			var a Ack
			_ = a.Parse(b)
		case TypeConfirm:
			_, _ = ParseConfirm(b)
		case TypeHold, TypeRelease, TypeMark:
			_, _ = ParseRound(b)
		default:
			var hello Hello
			_ = DecodeJSON(b, &hello)
		}
	})
}

// TestHelloWithoutSidecar: what hosts and DRVAs said before there were sidecars
// still means the same.
func TestHelloWithoutSidecar(t *testing.T) {
	const hello = `{"domain":"00000000-0000-0000-0000-000000000001","host":"00000000-0000-0000-0000-000000000002","name":"h1","nonce":7,"ack":"async",` +
		`"vms":[{"config":{"id":"00000000-0000-0000-0000-000000000003","name":"vm"},"disks":[{"index":1,"disk":{"id":"00000000-0000-0000-0000-000000000004","vm":"00000000-0000-0000-0000-000000000003","name":"d","size":4096}}]}],"first":3,"next":9}`
	var h Hello
	if err := DecodeJSON([]byte(hello), &h); err != nil {
		t.Fatal(err)
	}
	if d := h.VMs[0].Disks[0]; h.Nonce != 7 || h.First != 3 || d.Index != 1 || d.Disk.Size != 4096 || d.Resume != nil {
		t.Errorf("%+v", h)
	}
	var w Welcome
	if err := DecodeJSON([]byte(`{"session":4,"durable":5,"known":true,"unsynced":[1,2]}`), &w); err != nil {
		t.Fatal(err)
	}
	if w.Session != 4 || len(w.Unsynced) != 2 || w.Resumed != nil {
		t.Errorf("%+v", w)
	}
}
