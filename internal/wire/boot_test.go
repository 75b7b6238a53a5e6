package wire

import (
	"reflect"
	"testing"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

var someBoot = BootTrace{VM: dr.VMID{UUID: dr.UUID{7}}, Trace: boottrace.Trace{Chunks: []boottrace.Chunk{
	{Disk: dr.DiskID{UUID: dr.UUID{1}}, Chunk: 0}, {Disk: dr.DiskID{UUID: dr.UUID{2}}, Chunk: 9000}, {Disk: dr.DiskID{UUID: dr.UUID{1}}, Chunk: 3}}}}

// TestBootTrace: it reads back; a VM that is none, a body that is cut off and one
// over its bound are refused.
func TestBootTrace(t *testing.T) {
	body := someBoot.Append(nil)[HeadSize:]
	got, err := ParseBootTrace(body)
	if err != nil || !reflect.DeepEqual(got, someBoot) {
		t.Fatalf("%+v, %v", got, err)
	}
	nobody := append(make([]byte, 16), body[16:]...)
	for name, b := range map[string][]byte{"empty": nil, "no trace": body[:16], "cut off": body[:len(body)-1], "no VM": nobody,
		"too much": append(body[:len(body):len(body)], 0), "huge": make([]byte, MaxBootTrace+1)} {
		if got, err := ParseBootTrace(b); !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.Corrupt) || !got.VM.IsZero() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzBootTrace(f *testing.F) {
	f.Add(someBoot.Append(nil)[HeadSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseBootTrace(b)
		if err != nil {
			return
		}
		if again, err := ParseBootTrace(x.Append(nil)[HeadSize:]); err != nil || !reflect.DeepEqual(again, x) {
			t.Fatalf("%+v becomes %+v, %v", x, again, err)
		}
	})
}
