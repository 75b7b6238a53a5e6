package journal

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// smallHistory is three reigns of a small domain, with a stored configuration.
func smallHistory(t *testing.T, rng *rand.Rand) (*mem.Store, *oracle) {
	t.Helper()
	st := mem.New()
	phrase := must[Recipient](t)(PassphraseRecipient("a long passphrase", "the usual"))
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "d", Recipients: []Recipient{testKey.Recipient(), phrase}}))
	o := newOracle(rng, 3*dr.ChunkSize, dr.ChunkSize+dr.BlockSize)
	for range 3 {
		p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
		if err := p.PutMeta(t.Context(), o.vm, o.seq+1, dr.VMConfig{ID: o.vm, Name: "v"}); err != nil {
			t.Fatal(err)
		}
		p.Close()
		publishCells(t, c, o, 3, 4)
	}
	return st, o
}

func keysOf(t *testing.T, st store.Store) (out []store.Info) {
	t.Helper()
	if err := listAll(t.Context(), st, "", "", func(in store.Info) bool { out = append(out, in); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

// outcome is what a damaged container still gives.
type outcome struct {
	opened      bool
	recoverable int
	refused     int // offered by the history, found damaged while being read
	reported    bool
}

// look opens a damaged container and fails the test if it gives wrong bytes
// or if a deep check's words do not fit what can be recovered.
func look(t *testing.T, st store.Store, o *oracle, what string) (out outcome) {
	t.Helper()
	ctx := t.Context()
	c, err := Open(ctx, st, testKey.Identity())
	if err != nil {
		mustBlame(t, what, err)
		return outcome{reported: true}
	}
	out.opened = true
	h, err := c.History(ctx, HistoryOptions{})
	if err != nil {
		mustBlame(t, what, err)
		out.reported = true
		return out
	}
	report := must[*Report](t)(c.Fsck(ctx, FsckOptions{Mode: FsckDeep}))
	out.reported = !report.Clean
	for _, cp := range h.Checkpoints() {
		if !cp.Recoverable {
			if cp.Why == "" {
				t.Fatalf("%s: checkpoint %d is not recoverable for no reason", what, cp.ID)
			}
			continue
		}
		touched := touches(report, cp.ID)
		err := o.compare(ctx, c, h, cp)
		switch {
		case err == nil && touched:
			t.Fatalf("%s: fsck says that checkpoint %d is touched, and it is whole", what, cp.ID)
		case err == nil:
			out.recoverable++
		case strings.Contains(err.Error(), "differs"):
			t.Fatalf("%s: WRONG BYTES: %v", what, err)
		default:
			mustBlame(t, what, err)
			out.refused++
			if !touched && !strings.Contains(err.Error(), prefixMeta) {
				t.Fatalf("%s: checkpoint %d cannot be rebuilt (%v) and fsck does not say so: %+v", what, cp.ID, err, report.Problems)
			}
		}
	}
	return out
}

func touches(r *Report, id dr.CheckpointID) bool {
	for _, p := range r.Problems {
		if p.Touched.Count > 0 && p.Touched.First <= id && id <= p.Touched.Last {
			return true
		}
	}
	return false
}

func mustBlame(t *testing.T, what string, err error) {
	t.Helper()
	switch errs.KindOf(err) {
	case errs.Corrupt, errs.Invalid, errs.NotFound, errs.Denied:
		return
	}
	t.Fatalf("%s: damage is reported as %v: %v", what, errs.KindOf(err), err)
}

func TestEveryDamageIsDetected(t *testing.T) {
	rng := seeded(t)
	st, o := smallHistory(t, rng)
	if out := look(t, st, o, "no damage"); out.reported || out.recoverable != 9 {
		t.Fatalf("the undamaged container: %+v", out)
	}
	flips := envInt(t, "HOLDFAST_FLIPS", 4)
	cases, refused, offered := 0, 0, 0
	for _, in := range keysOf(t, st) {
		damages := map[string]func([]byte) []byte{
			"emptied":  func([]byte) []byte { return nil },
			"halved":   func(b []byte) []byte { return b[:len(b)/2] },
			"cut by 1": func(b []byte) []byte { return b[:len(b)-1] },
			"grown":    func(b []byte) []byte { return append(b, 0) },
			"zeroed":   func(b []byte) []byte { clear(b); return b },
		}
		for range flips {
			bit := rng.IntN(int(in.Size) * 8)
			damages["bit "+strconv.Itoa(bit)] = func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b }
		}
		for name, change := range damages {
			var whole []byte
			st.Damage(in.Key, func(b []byte) []byte { whole = append(whole, b...); return change(b) })
			out := look(t, st, o, in.Key+" "+name)
			if !out.reported {
				t.Fatalf("%s %s: not reported", in.Key, name)
			}
			cases++
			refused += out.refused
			offered += out.recoverable
			st.Damage(in.Key, func([]byte) []byte { return whole })
		}
	}
	t.Logf("%d damages, all reported; %d checkpoints rebuilt meanwhile, %d refused while being read, none wrong", cases, offered, refused)
	if refused == 0 || offered == 0 {
		t.Fatal("the test did too little to prove anything")
	}
}

// TestMissingObjectsAreNoticed deletes each object. A lone wrapped key or
// configuration is not missed, and neither is one of the newest W numbers: to
// a reader they have not been published yet.
func TestMissingObjectsAreNoticed(t *testing.T) {
	st, o := smallHistory(t, seeded(t))
	c := reopen(t, st)
	newest := must[*History](t)(c.History(t.Context(), HistoryOptions{})).Newest()
	noticed := 0
	for _, in := range keysOf(t, st) {
		body := make([]byte, in.Size)
		if err := readExact(t.Context(), st, in.Key, body, 0); err != nil {
			t.Fatal(err)
		}
		if err := st.Delete(t.Context(), in.Key); err != nil {
			t.Fatal(err)
		}
		out := look(t, st, o, in.Key+" deleted")
		n, journal := parseObjectKey(c.Domain().Timeline, in.Key)
		quiet := strings.HasPrefix(in.Key, prefixKeys) || strings.HasPrefix(in.Key, prefixMeta) || journal && n+Window > newest
		if out.opened && out.reported == quiet {
			t.Errorf("%s deleted: reported %v, want %v", in.Key, out.reported, !quiet)
		}
		if out.reported {
			noticed++
		}
		if err := st.Create(t.Context(), in.Key, body); err != nil {
			t.Fatal(err)
		}
	}
	if noticed < 10 {
		t.Fatalf("only %d deletions noticed", noticed)
	}
}

func TestLostFenceCostsNoCheckpoint(t *testing.T) {
	st, o := smallHistory(t, seeded(t))
	c := reopen(t, st)
	tl := c.Domain().Timeline
	// Epochs 2, 4 and 6 published; fences lie at 1, 9 (epochs 1 and 2), …
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	var fences []dr.ObjectNumber
	for _, ref := range h.objects {
		if ref.kind == segment.Fence {
			fences = append(fences, ref.number)
		}
	}
	proven := 0
	for _, n := range fences {
		st.Damage(objectKey(tl, n), func(b []byte) []byte { b[100] ^= 1; return b })
		h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
		if len(h.Problems()) == 0 {
			t.Fatalf("fence %d: damage is not reported", n)
		}
		if k := o.compareAll(t, c, h); k == 9 {
			proven++
		}
		if _, err := c.OpenPublisher(t.Context(), PublisherOptions{}); !errs.Is(err, errs.Corrupt) {
			t.Fatalf("a publisher opened on a damaged history: %v", err)
		}
		st.Damage(objectKey(tl, n), func(b []byte) []byte { b[100] ^= 1; return b })
	}
	if proven != len(fences) {
		t.Fatalf("%d of %d fences could be passed", proven, len(fences))
	}
}

// swapStore answers reads of one key with another object's bytes.
type swapStore struct {
	store.Store
	from, to string
}

func (s *swapStore) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if key == s.from {
		key = s.to
	}
	return s.Store.ReadRange(ctx, key, p, off)
}

func (s *swapStore) Stat(ctx context.Context, key string) (store.Info, error) {
	if key == s.from {
		key = s.to
	}
	return s.Store.Stat(ctx, key)
}

func TestAHostileStoreCannotSwapObjects(t *testing.T) {
	st, o := smallHistory(t, seeded(t))
	all := keysOf(t, st)
	for i := range all {
		for j := range all {
			if i == j || (i+j)%7 != 0 || strings.HasPrefix(all[i].Key, prefixKeys) {
				continue
			}
			sw := &swapStore{st, all[i].Key, all[j].Key}
			if out := look(t, sw, o, all[i].Key+" swapped for "+all[j].Key); !out.reported {
				t.Fatalf("%s swapped for %s: not reported", all[i].Key, all[j].Key)
			}
		}
	}
}
