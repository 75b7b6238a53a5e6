package journal

import (
	"bytes"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/role"
)

// TestTraces: the newest is found, none under another VM's name, what was
// exchanged is refused; a publisher may store one, a recovery reads it.
func TestTraces(t *testing.T) {
	st := mem.New()
	key := must[RecoveryKeyPair](t)(NewRecoveryKey())
	must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "d", Recipients: []Recipient{key.Recipient()}}))
	as := func(r role.Role) *Container {
		return must[*Container](t)(Open(t.Context(), role.New(st, r), key.Identity()))
	}
	c := as(role.Publisher)
	vm, other := dr.VMID{UUID: dr.NewUUID()}, dr.VMID{UUID: dr.NewUUID()}
	put := func(c *Container, seq dr.Seq, trace string) error {
		return c.PutTrace(t.Context(), c.Domain().Timeline, vm, seq, []byte(trace))
	}
	for _, seq := range []dr.Seq{5, 300, 7} {
		if err := put(c, seq, "trace of "+string(rune('0'+seq%10))); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(c, 300, "another"); err != nil {
		t.Fatalf("the second trace of a checkpoint: %v", err)
	}
	reader := as(role.Recovery)
	if err := put(reader, 8, "x"); !errs.Is(err, errs.Denied) {
		t.Errorf("a recovery stores: %v", err)
	}
	if got := must[[]byte](t)(reader.Trace(t.Context(), vm)); string(got) != "trace of 0" {
		t.Errorf("newest is %q", got)
	}
	if got := must[[]byte](t)(reader.Trace(t.Context(), other)); got != nil {
		t.Errorf("another VM has %q", got)
	}
	if err := put(c, 0, ""); !errs.Is(err, errs.Invalid) {
		t.Errorf("no seq: %v", err)
	}
	if err := put(c, 9, string(make([]byte, MaxTrace+1))); !errs.Is(err, errs.Invalid) {
		t.Errorf("too large: %v", err)
	}
	report := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{}))
	if len(report.Problems) != 0 {
		t.Errorf("fsck: %v", report.Problems)
	}
	var older []byte
	st.Damage(traceKey(vm, 7), func(b []byte) []byte { older = bytes.Clone(b); return b })
	st.Damage(traceKey(vm, 300), func([]byte) []byte { return older })
	if _, err := reader.Trace(t.Context(), vm); !errs.Is(err, errs.Corrupt) {
		t.Errorf("exchanged: %v", err)
	}
	if report = must[*Report](t)(c.Fsck(t.Context(), FsckOptions{})); len(report.Problems) != 1 {
		t.Errorf("fsck of an exchanged trace: %v", report.Problems)
	}
}
