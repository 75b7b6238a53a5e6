package journal

import (
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/role"
)

// TestSettings: the newest are found whatever clocks say, damage and exchange are
// told, the checker knows them; a publisher may store some, a recovery reads them.
func TestSettings(t *testing.T) {
	st := mem.New()
	key := must[RecoveryKeyPair](t)(NewRecoveryKey())
	must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "d", Recipients: []Recipient{key.Recipient()}}))
	as := func(r role.Role) *Container {
		return must[*Container](t)(Open(t.Context(), role.New(st, r), key.Identity()))
	}
	c := as(role.Publisher)
	if b, _, err := c.Settings(t.Context()); b != nil || err != nil {
		t.Fatalf("%q, %v before there are any", b, err)
	}
	now := time.UnixMilli(1e12)
	for i, clock := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		at, err := c.PutSettings(t.Context(), []byte{byte(i)}, now.Add(clock))
		if err != nil {
			t.Fatal(err)
		}
		b, was, err := as(role.Recovery).Settings(t.Context())
		if err != nil || len(b) != 1 || b[0] != byte(i) || !was.Equal(at) {
			t.Errorf("%d is read as %v of %v: %v", i, b, was, err)
		}
	}
	if _, err := c.PutSettings(t.Context(), make([]byte, MaxSettings+1), now); !errs.Is(err, errs.Invalid) {
		t.Errorf("too large: %v", err)
	}
	if _, err := as(role.Recovery).PutSettings(t.Context(), []byte{1}, now); !errs.Is(err, errs.Denied) {
		t.Errorf("a recovery wrote: %v", err)
	}
	r, err := c.Fsck(t.Context(), FsckOptions{})
	if err != nil || len(r.Problems) != 0 {
		t.Errorf("fsck: %+v, %v", r, err)
	}
	// One copied under a later name is refused, and the checker says which.
	body, err := readDocument(t.Context(), st, settingsKey(now.UnixMilli()))
	if err != nil {
		t.Fatal(err)
	}
	later := settingsKey(now.Add(2 * time.Hour).UnixMilli())
	if err := st.Create(t.Context(), later, body); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Settings(t.Context()); !errs.Is(err, errs.Corrupt) {
		t.Errorf("old settings under a new name: %v", err)
	}
	if r, err := c.Fsck(t.Context(), FsckOptions{}); err != nil || len(r.Problems) != 1 || r.Problems[0].Object != later {
		t.Errorf("fsck: %+v, %v", r, err)
	}
}
