package wire

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// bodyOf checks a frame's head and returns its body.
func bodyOf(t *testing.T, frame []byte, want Type) []byte {
	t.Helper()
	var h Head
	if err := h.Parse(frame); err != nil || h.Type != want {
		t.Fatalf("head of type %d: %v", h.Type, err)
	}
	return frame[HeadSize:]
}

func TestFreezeRoundTrip(t *testing.T) {
	f := Freeze{Round: 1 << 40, Limit: 10 * time.Second}
	if got, err := ParseFreeze(bodyOf(t, f.Append(nil), TypeFreeze)); err != nil || got != f {
		t.Fatalf("%+v, %v", got, err)
	}
	r := FreezeReport{Round: 7, VMs: []FreezeVM{
		{VM: dr.VMID{UUID: dr.NewUUID()}, State: FreezeHeld},
		{VM: dr.VMID{UUID: dr.NewUUID()}, Reason: "the agent does not answer"},
		{VM: dr.VMID{UUID: dr.NewUUID()}, State: FreezeExempt, Reason: "powered off"},
	}}
	for _, typ := range []Type{TypeFrozen, TypeThawed} {
		b, err := r.Append(nil, typ)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseFreezeReport(bodyOf(t, b, typ)); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

func TestTheLargestFreezeReportFits(t *testing.T) {
	r := FreezeReport{Round: ^Round(0)}
	for range MaxFreezeVMs {
		r.VMs = append(r.VMs, FreezeVM{VM: dr.VMID{UUID: dr.NewUUID()}, Reason: strings.Repeat("<é", 2*MaxFreezeReason)})
	}
	b, err := r.Append(nil, TypeFrozen)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseFreezeReport(bodyOf(t, b, TypeFrozen))
	if err != nil || len(got.VMs) != MaxFreezeVMs || len(got.VMs[0].Reason) > MaxFreezeReason || strings.Contains(got.VMs[0].Reason, "\uFFFD") {
		t.Fatalf("%d VMs, %v", len(got.VMs), err)
	}
	r.VMs = append(r.VMs, r.VMs[0])
	if _, err := r.Append(nil, TypeFrozen); !errs.Is(err, errs.Invalid) {
		t.Fatalf("one too many: %v", err)
	}
}

func TestFreezeRefusals(t *testing.T) {
	ok := Freeze{Round: 1, Limit: time.Second}.Append(nil)[HeadSize:]
	long := Freeze{Round: 1, Limit: time.Hour}.Append(nil)[HeadSize:]
	odd := append([]byte(nil), ok...)
	odd[12] = 1
	for name, b := range map[string][]byte{"empty": nil, "short": ok[:15], "no limit": make([]byte, 16), "an hour": long, "reserved": odd} {
		if _, err := ParseFreeze(b); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	vm := `{"vm":"` + dr.NewUUID().String() + `"}`
	for name, b := range map[string]string{
		"not JSON": "x", "no VM": `{"vms":[{}]}`, "twice": `{"vms":[` + vm + "," + vm + `]}`,
		"state": `{"vms":[` + strings.Replace(vm, "}", `,"state":9}`, 1) + `]}`,
		"long":  `{"vms":[` + strings.Replace(vm, "}", `,"reason":"`+strings.Repeat("x", 257)+`"}`, 1) + `]}`,
		"huge":  strings.Repeat(" ", MaxFreezeReport+1),
	} {
		if _, err := ParseFreezeReport([]byte(b)); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPaceRoundTripAndRefusals(t *testing.T) {
	th := Throttle{Rate: 50 << 20, Delay: 20 * time.Millisecond}
	body := bodyOf(t, th.Append(nil), TypeThrottle)
	if got, err := ParseThrottle(body); err != nil || got != th {
		t.Fatalf("%+v, %v", got, err)
	}
	long := Throttle{Rate: 1, Delay: 2 * time.Second}.Append(nil)[HeadSize:]
	for name, b := range map[string][]byte{"empty": nil, "short": body[:15], "two seconds": long} {
		if _, err := ParseThrottle(b); !errs.Is(err, errs.Invalid) {
			t.Errorf("throttle, %s: %v", name, err)
		}
	}
	for r := TrackNone; r <= maxTrackReason; r++ {
		if got, err := ParseTrack(bodyOf(t, Track{r}.Append(nil), TypeTrack)); err != nil || got.Reason != r || strings.Contains(r.String(), "unknown") {
			t.Fatalf("track %d: %+v, %v", r, got, err)
		}
	}
	for name, b := range map[string][]byte{"empty": nil, "short": make([]byte, 7), "reason": {9, 0, 0, 0, 0, 0, 0, 0}, "reserved": {1, 0, 0, 0, 0, 0, 0, 1}} {
		if _, err := ParseTrack(b); !errs.Is(err, errs.Invalid) {
			t.Errorf("track, %s: %v", name, err)
		}
	}
}

// TestOldBoxesReadNewGreetings: what this version adds to Hello and Welcome is
// left out when there is nothing to say, and an old greeting means "none".
func TestOldBoxesReadNewGreetings(t *testing.T) {
	b, err := EncodeJSON(TypeWelcome, &Welcome{})
	if err != nil || strings.Contains(string(b), "features") || strings.Contains(string(b), "track") {
		t.Fatalf("%s, %v", b, err)
	}
	var h Hello
	if err := DecodeJSON([]byte(`{"name":"old"}`), &h); err != nil || h.Features != nil {
		t.Fatalf("%+v, %v", h, err)
	}
}

func FuzzFreeze(f *testing.F) {
	f.Add(Freeze{Round: 1, Limit: time.Second}.Append(nil)[HeadSize:])
	b, _ := FreezeReport{Round: 1, VMs: []FreezeVM{{VM: dr.VMID{UUID: dr.UUID{1}}, State: FreezeHeld}}}.Append(nil, TypeFrozen)
	f.Add(b[HeadSize:])
	f.Add(Throttle{Rate: 9, Delay: time.Millisecond}.Append(nil)[HeadSize:])
	f.Add(Track{TrackLogFull}.Append(nil)[HeadSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := ParseFreeze(b); err == nil {
			if again, err := ParseFreeze(x.Append(nil)[HeadSize:]); err != nil || again != x {
				t.Fatalf("freeze %+v becomes %+v, %v", x, again, err)
			}
		}
		if x, err := ParseThrottle(b); err == nil {
			if again, err := ParseThrottle(x.Append(nil)[HeadSize:]); err != nil || again != x {
				t.Fatalf("throttle %+v becomes %+v, %v", x, again, err)
			}
		}
		if x, err := ParseTrack(b); err == nil {
			if again, err := ParseTrack(x.Append(nil)[HeadSize:]); err != nil || again != x {
				t.Fatalf("track %+v becomes %+v, %v", x, again, err)
			}
		}
		x, err := ParseFreezeReport(b)
		if err != nil {
			return
		}
		frame, err := x.Append(nil, TypeThawed)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseFreezeReport(frame[HeadSize:]); err != nil || len(again.VMs) != len(x.VMs) {
			t.Fatalf("report %+v becomes %+v, %v", x, again, err)
		}
	})
}
