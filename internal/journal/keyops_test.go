package journal

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/kms"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// fakeKMS keeps what it is given, under a number.
type fakeKMS struct {
	uri    string
	kept   [][]byte
	change func(plain []byte) ([]byte, error) // of what Unwrap answers
}

func (f *fakeKMS) URI() string { return f.uri }

func (f *fakeKMS) Describe(context.Context) (kms.Info, error) { return kms.Info{URI: f.uri}, nil }

func (f *fakeKMS) Wrap(_ context.Context, secret, binding []byte) (kms.Wrapped, error) {
	b, err := kms.Bind(secret, binding)
	f.kept = append(f.kept, b)
	return kms.Wrapped{Version: "v1", Data: []byte{byte(len(f.kept))}}, err
}

func (f *fakeKMS) Unwrap(_ context.Context, w kms.Wrapped, binding []byte) ([]byte, error) {
	if int(w.Data[0]) > len(f.kept) || w.Data[0] == 0 {
		return nil, errs.New("fake", errs.Denied, "", "not mine")
	}
	plain, err := kms.Unbind(f.kept[w.Data[0]-1], binding)
	plain = bytes.Clone(plain) // the caller clears it
	if err == nil && f.change != nil {
		return f.change(plain)
	}
	return plain, err
}

// party is a recipient with what opens it.
type party struct {
	r  Recipient
	id Identity
}

func recoveryParty(t testing.TB) party {
	k := must[RecoveryKeyPair](t)(NewRecoveryKey())
	return party{k.Recipient(), k.Identity()}
}

func serviceParty(t testing.TB, name string) party {
	f := &fakeKMS{uri: "vault://kms.example.com/transit/" + name}
	return party{must[Recipient](t)(KeyServiceRecipient(f, "")), KeyServiceIdentity(f)}
}

func phraseParty(t testing.TB, phrase string) party {
	return party{must[Recipient](t)(PassphraseRecipient(phrase, "")), PassphraseIdentity(phrase)}
}

// rotateWith are the options to rotate with all that the parties know.
func rotateWith(ps ...party) RotateOptions {
	o := RotateOptions{KeyService: func(uri string) (kms.Client, error) {
		for _, p := range ps {
			if p.r.kind == KeyService && p.r.kms.URI() == uri {
				return p.r.kms, nil
			}
		}
		return nil, errs.New("test", errs.NotFound, uri, "no such service")
	}}
	for _, p := range ps {
		if p.id.kind == Passphrase {
			o.Passphrases = append(o.Passphrases, p.id)
		}
	}
	return o
}

func TestEachKindAloneRestoresAllGenerations(t *testing.T) {
	ps := []party{recoveryParty(t), serviceParty(t, "a"), phraseParty(t, testPhrase)}
	st := mem.New()
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{ps[0].r, ps[1].r}}))
	o := newOracle(seeded(t), 3*dr.ChunkSize)
	publishCells(t, c, o, 2, 10)
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(ps...)))
	publishCells(t, c, o, 2, 10)
	must[dr.UUID](t)(c.AddRecipient(t.Context(), ps[2].r)) // of both generations
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(ps...)))
	publishCells(t, c, o, 2, 10)
	sealed := make(map[dr.UUID]bool)
	for i, p := range ps {
		got := must[*Container](t)(Open(t.Context(), st, p.id))
		if gens := got.Generations(); len(gens) != 3 || !gens[2].Current || gens[2].DataKey != c.current().id {
			t.Fatalf("%v: %+v", p.id, gens)
		}
		h := must[*History](t)(got.History(t.Context(), HistoryOptions{}))
		if n := o.compareAll(t, got, h); n != 6 {
			t.Fatalf("%v restores %d checkpoints", p.id, n)
		}
		if i == 0 {
			r := must[*Report](t)(got.Fsck(t.Context(), FsckOptions{Mode: FsckDeep}))
			if !r.Clean {
				t.Fatalf("%+v", r.Problems)
			}
		}
	}
	for _, in := range keysOf(t, st) {
		if _, ok := parseObjectKey(c.domain.Timeline, in.Key); ok {
			sealed[must[segment.Header](t)(segment.ParseHeader(must[[]byte](t)(readDocument(t.Context(), st, in.Key)))).Key] = true
		}
	}
	if len(sealed) != 3 {
		t.Fatalf("objects lie under %d data keys", len(sealed))
	}
}

func TestRotationNeedsEverybody(t *testing.T) {
	st, key, phrase, service := mem.New(), recoveryParty(t), phraseParty(t, testPhrase), serviceParty(t, "a")
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{key.r, phrase.r, service.r}}))
	before := len(keysOf(t, st))
	for name, o := range map[string]RotateOptions{"no passphrase": rotateWith(key, service), "another's": rotateWith(phraseParty(t, "some other words"), service), "no service": rotateWith(phrase)} {
		_, err := c.RotateDataKey(t.Context(), o)
		if err == nil || errs.RemedyOf(err) == "" || strings.Contains(err.Error(), testPhrase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(keysOf(t, st)); n != before {
		t.Errorf("refused rotations left %d objects", n-before)
	}
	must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(phrase, service)))
	// This one does not know of it.
	if _, err := c.AddRecipient(t.Context(), recoveryParty(t).r); !errs.Is(err, errs.Conflict) {
		t.Errorf("adding to a container that was rotated: %v", err)
	}
	if _, err := c.RotateDataKey(t.Context(), rotateWith(phrase, service)); !errs.Is(err, errs.Conflict) {
		t.Errorf("rotating a container that was rotated: %v", err)
	}
}

func TestRemoveAndReplace(t *testing.T) {
	st, a, b, s := mem.New(), recoveryParty(t), recoveryParty(t), serviceParty(t, "s")
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{a.r}}))
	first := must[[]RecipientInfo](t)(Recipients(t.Context(), st))[0].ID
	if err := c.RemoveRecipient(t.Context(), first); !errs.Is(err, errs.Invalid) {
		t.Fatalf("removing the only one: %v", err)
	}
	if _, err := c.AddRecipient(t.Context(), a.r); !errs.Is(err, errs.Exists) {
		t.Errorf("adding again: %v", err)
	}
	id := must[dr.UUID](t)(c.AddRecipient(t.Context(), s.r))
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(s)))
	must[dr.UUID](t)(c.RotateRecipient(t.Context(), first, b.r))
	if _, err := Open(t.Context(), st, a.id); !errs.Is(err, errs.Denied) {
		t.Errorf("the one replaced: %v", err)
	}
	for _, p := range []party{b, s} {
		if c := must[*Container](t)(Open(t.Context(), st, p.id)); len(c.usable()) != 2 {
			t.Errorf("%v opens %d generations", p.id, len(c.usable()))
		}
	}
	check(t, c.RemoveRecipient(t.Context(), id))
	if _, err := Open(t.Context(), st, s.id); !errs.Is(err, errs.Denied) {
		t.Errorf("the one removed: %v", err)
	}
	if err := c.RemoveRecipient(t.Context(), id); !errs.Is(err, errs.NotFound) {
		t.Errorf("removing twice: %v", err)
	}
	f := fault.New(st)
	f.Add(fault.Rule{Op: fault.Delete, Times: -1, Do: fault.Fail(errs.Denied)})
	c = must[*Container](t)(Open(t.Context(), f, b.id))
	must[dr.UUID](t)(c.AddRecipient(t.Context(), a.r))
	last := must[[]RecipientInfo](t)(Recipients(t.Context(), st))[0].ID
	if err := c.RemoveRecipient(t.Context(), last); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
		t.Errorf("without the right to delete: %v", err)
	}
}

func TestErase(t *testing.T) {
	st, a, s := mem.New(), recoveryParty(t), serviceParty(t, "s")
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "payroll", Recipients: []Recipient{a.r, s.r}}))
	must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(s)))
	if _, err := Erase(t.Context(), st, "Payroll"); !errs.Is(err, errs.Invalid) {
		t.Fatal(err)
	}
	must[*Container](t)(Open(t.Context(), st, a.id))
	f := fault.New(st)
	f.Add(fault.Rule{Op: fault.Delete, Skip: 2, Do: fault.Fail(errs.Denied)})
	if r, err := Erase(t.Context(), f, "payroll"); !errs.Is(err, errs.Denied) || r.Deleted != 4 || len(r.Refused) != 1 || !strings.Contains(err.Error(), r.Refused[0].Key) {
		t.Fatalf("what is refused keeps the rest: %+v %v", r, err)
	}
	if r := must[*EraseReport](t)(Erase(t.Context(), st, "payroll")); r.Deleted != 1 || r.Objects != 2 {
		t.Fatalf("%+v", r)
	}
	for _, p := range []party{a, s} {
		if _, err := Open(t.Context(), st, p.id); !errs.Is(err, errs.Denied) {
			t.Errorf("%v", err)
		}
	}
}

// TestKeysSurviveCrashes runs random operations, each cut off at every store
// operation in turn: whoever could open the container still can, reads
// everything, and the operation can be done after that.
func TestKeysSurviveCrashes(t *testing.T) {
	rng := seeded(t)
	for range envInt(t, "HOLDFAST_KEYS_N", 3) {
		st := mem.New()
		ps := map[dr.UUID]party{}
		all := []party{recoveryParty(t)}
		c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{all[0].r}}))
		ps[must[[]RecipientInfo](t)(Recipients(t.Context(), st))[0].ID] = all[0]
		o := newOracle(rng, 2*dr.ChunkSize)
		for range 6 {
			add := recoveryParty(t)
			if rng.IntN(2) == 0 {
				add = serviceParty(t, fmt.Sprint("k", len(all)))
			}
			all = append(all, add)
			var victim dr.UUID
			for id := range ps {
				victim = id
			}
			op := rng.IntN(4)
			run := func(st store.Store) error {
				c, err := Open(t.Context(), st, anyOf(ps, victim, op == 1).id)
				if err != nil {
					return err
				}
				switch {
				case op == 0:
					id, err := c.AddRecipient(t.Context(), add.r)
					if err == nil {
						ps[id] = add
					}
					return err
				case op == 1 && len(ps) > 1:
					err := c.RemoveRecipient(t.Context(), victim)
					if err == nil || errs.Is(err, errs.NotFound) {
						delete(ps, victim)
						return nil
					}
					return err
				case op == 2:
					o := o
					publishCells(t, c, o, 1, 5)
					return nil
				}
				_, err = c.RotateDataKey(t.Context(), rotateWith(all...))
				return err
			}
			if op != 2 {
				crashEverywhere(t, st, ps, victim, op, run)
			}
			if err := run(st); err != nil && !errs.Is(err, errs.Exists) {
				t.Fatalf("operation %d: %v", op, err)
			}
			verifyParties(t, st, o, ps)
		}
		_ = c
	}
}

func anyOf(ps map[dr.UUID]party, not dr.UUID, skip bool) party {
	for id, p := range ps {
		if !skip || id != not || len(ps) == 1 {
			return p
		}
	}
	panic("nobody")
}

// crashEverywhere runs run with the store failing from its k-th operation on,
// for every k, each time on a copy of the store.
func crashEverywhere(t *testing.T, st store.Store, ps map[dr.UUID]party, victim dr.UUID, op int, run func(store.Store) error) {
	t.Helper()
	for k := 0; k < 400; k++ {
		copied := mem.New()
		for _, in := range keysOf(t, st) {
			check(t, copied.Create(t.Context(), in.Key, must[[]byte](t)(readDocument(t.Context(), st, in.Key))))
		}
		f := fault.New(copied)
		if k%2 == 1 {
			f.Add(fault.Rule{Skip: k, Do: fault.LoseAnswer()})
		}
		f.Add(fault.Rule{Skip: k, Times: -1, Do: fault.Fail(errs.Unavailable)})
		known := maps.Clone(ps)
		err := run(f)
		done := err == nil || errs.Is(err, errs.Exists) || errs.Is(err, errs.Conflict)
		clear(ps)
		maps.Copy(ps, known) // the copy is thrown away
		opens := make(map[uint32]int)
		for id, p := range known {
			if op == 1 && id == victim {
				continue // was being removed
			}
			c, err := Open(t.Context(), copied, p.id)
			if err != nil {
				t.Fatalf("operation %d cut off at %d: %v cannot open any more: %v", op, k, p.id, err)
			}
			if len(c.usable()) < int(c.current().number) {
				t.Fatalf("operation %d cut off at %d: %v opens %d of %d generations", op, k, p.id, len(c.usable()), c.current().number)
			}
			opens[c.current().number]++
		}
		if len(opens) > 1 {
			t.Fatalf("operation %d cut off at %d: the current generations differ: %v", op, k, opens)
		}
		if done {
			return
		}
	}
	t.Fatal("the operation never ends")
}

func verifyParties(t *testing.T, st store.Store, o *oracle, ps map[dr.UUID]party) {
	t.Helper()
	var current dr.UUID
	for _, p := range ps {
		c := must[*Container](t)(Open(t.Context(), st, p.id))
		if current.IsZero() {
			current = c.current().id
		}
		if c.current().id != current {
			t.Fatalf("%v sees another current data key", p.id)
		}
		h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
		if n := o.compareAll(t, c, h); n != len(o.at) {
			t.Fatalf("%v restores %d of %d checkpoints", p.id, n, len(o.at))
		}
	}
}

// rotated is a container with two generations, an object under each.
func rotated(t *testing.T) (*mem.Store, *Container, party, party) {
	st, a, s := mem.New(), recoveryParty(t), serviceParty(t, "s")
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{a.r, s.r}}))
	o := newOracle(seeded(t), 2*dr.ChunkSize)
	publishCells(t, c, o, 1, 5)
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(s)))
	publishCells(t, c, o, 1, 5)
	return st, c, a, s
}

func TestStoreCannotGoBackToAnOldKey(t *testing.T) {
	st, c, a, _ := rotated(t)
	id := c.current().id
	remove := func(keep string) {
		for _, in := range keysOf(t, st) {
			if strings.HasPrefix(in.Key, keyPrefix(id)) && in.Key != keep {
				check(t, st.Delete(t.Context(), in.Key))
			}
		}
	}
	check(t, st.Delete(t.Context(), completeKey(id)))
	old := must[*Container](t)(Open(t.Context(), st, a.id))
	if old.current().number != 1 {
		t.Fatalf("current is %d", old.current().number)
	}
	// Reading goes on; writing under the old key does not.
	h := must[*History](t)(old.History(t.Context(), HistoryOptions{}))
	if p := h.Checkpoints(); len(p) != 2 || !p[1].Recoverable {
		t.Fatalf("%+v", p)
	}
	if _, err := old.OpenPublisher(t.Context(), PublisherOptions{}); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "rotation") {
		t.Fatalf("a publisher under the old key: %v", err)
	}
	remove("")
	old = must[*Container](t)(Open(t.Context(), st, a.id))
	if _, err := old.OpenPublisher(t.Context(), PublisherOptions{}); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("with the whole rotation hidden: %v", err)
	}
	h = must[*History](t)(old.History(t.Context(), HistoryOptions{}))
	if p := h.Problems(); len(p) == 0 {
		t.Fatal("an object under a hidden key is no problem")
	}
}

func TestStoreCannotSlipInAKey(t *testing.T) {
	st, c, a, _ := rotated(t)
	// The store knows the public part of a recovery key and all formats.
	forged := newGeneration(dr.NewUUID(), 3, segment.NewDataKey())
	forged.previous = &generation{id: c.current().id, key: segment.NewDataKey(), number: 2}
	recipient := c.current().wraps[0].recipient
	check(t, st.Create(t.Context(), wrapKey(forged.id, recipient), must[[]byte](t)(sealWrap(t.Context(), a.r, c.domain.ID, forged, recipient, testNow))))
	plain := must[[]byte](t)(json.Marshal(statement{Domain: c.domain.ID, DataKey: forged.id, Generation: 3, Previous: c.current().id, Created: testNow}))
	body, _, err := segment.SealBlob(forged.key, segment.Header{Domain: c.domain.ID, Key: forged.id, Window: Window, Created: testNow}, plain)
	check(t, err)
	check(t, st.Create(t.Context(), completeKey(forged.id), body))
	got := must[*Container](t)(Open(t.Context(), st, a.id))
	if got.current().id != c.current().id {
		t.Fatal("the forged key is used")
	}
	if _, err := got.dataKey(forged.id); err == nil {
		t.Fatal("the forged key is open")
	}
	// A recipient the store made up is not taken over by a rotation.
	stranger := recoveryParty(t)
	name := wrapKey(c.current().id, dr.NewUUID())
	w := wrap{Format: wrapFormat, Kind: RecoveryKey, Domain: c.domain.ID, DataKey: c.current().id, Hint: stranger.r.hint, Created: testNow, Age: "x", MAC: make([]byte, macSize)}
	check(t, st.Create(t.Context(), name, must[[]byte](t)(putDocument(magicWrap, &w))))
	st.Damage(completeKey(forged.id), func([]byte) []byte { return nil })
	check(t, st.Delete(t.Context(), completeKey(forged.id)))
	got = must[*Container](t)(Open(t.Context(), st, a.id))
	if _, err := got.RotateDataKey(t.Context(), RotateOptions{}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "proves") {
		t.Fatalf("%v", err)
	}
	r := must[*Report](t)(got.Fsck(t.Context(), FsckOptions{}))
	if r.Clean || !strings.Contains(fmt.Sprint(r.Problems), name) {
		t.Fatalf("%+v", r.Problems)
	}
}

func TestStoreCannotSwapOrReplaceWraps(t *testing.T) {
	st, _, a, s := rotated(t)
	c := must[*Container](t)(Open(t.Context(), st, a.id))
	st2, c2, _, _ := rotated(t)
	foreign := must[[]byte](t)(readDocument(t.Context(), st2, c2.current().wraps[0].key))
	for name, change := range map[string]func([]byte) []byte{
		"another container's": func([]byte) []byte { return foreign },
		"the first's":         func([]byte) []byte { return c.keys.all[0].wraps[0].body },
		"cut off":             func(b []byte) []byte { return b[:len(b)/2] },
		"nothing":             func([]byte) []byte { return nil },
	} {
		for i := range c.current().wraps {
			w := &c.current().wraps[i]
			st.Damage(w.key, change)
			for _, p := range []party{a, s} {
				got := must[*Container](t)(Open(t.Context(), st, p.id))
				if g := got.keys.find(c.current().id); g.open && g.key != c.current().key {
					t.Fatalf("%s: another key", name)
				}
			}
			r := must[*Report](t)(must[*Container](t)(Open(t.Context(), st, s.id)).Fsck(t.Context(), FsckOptions{}))
			if r.Clean {
				t.Errorf("%s: fsck finds nothing", name)
			}
			st.Damage(w.key, func([]byte) []byte { return w.body })
		}
	}
	if r := must[*Report](t)(must[*Container](t)(Open(t.Context(), st, a.id)).Fsck(t.Context(), FsckOptions{})); !r.Clean {
		t.Fatalf("%+v", r.Problems)
	}
	// The first data key's wraps gone: nothing opens, and who could is said.
	for _, w := range c.keys.all[0].wraps {
		check(t, st.Delete(t.Context(), w.key))
	}
	if _, err := Open(t.Context(), st, a.id); !errs.Is(err, errs.Denied) || !strings.Contains(errs.RemedyOf(err), keyPrefix(c.domain.DataKey)) {
		t.Fatalf("%v", err)
	}
}

func TestWrongAnswersOfAKeyService(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]byte) ([]byte, error)
		kind   errs.Kind
	}{
		"another key": {func(b []byte) ([]byte, error) { b[40] ^= 1; return b, nil }, errs.Denied},
		"another id":  {func(b []byte) ([]byte, error) { b[20] ^= 1; return b, nil }, errs.Denied},
		"short":       {func(b []byte) ([]byte, error) { return b[:10], nil }, errs.Denied},
		"nothing":     {func([]byte) ([]byte, error) { return nil, nil }, errs.Denied},
		"long":        {func(b []byte) ([]byte, error) { return append(b, 0), nil }, errs.Denied},
		"away":        {func([]byte) ([]byte, error) { return nil, errs.New("x", errs.Unavailable, "", "away") }, errs.Unavailable},
		"refused":     {func([]byte) ([]byte, error) { return nil, errs.New("x", errs.Denied, "", "no") }, errs.Denied},
	} {
		st, s := mem.New(), serviceParty(t, "s")
		must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{s.r}}))
		s.r.kms.(*fakeKMS).change = c.change
		if _, err := Open(t.Context(), st, s.id); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeysAppearNowhere looks for every data key in all a run says.
func TestKeysAppearNowhere(t *testing.T) {
	st, c, a, s := rotated(t)
	var said bytes.Buffer
	fmt.Fprintf(&said, "%v %+v %#v %+v %+v %#v", c.Generations(), c.keys.all[0].key, c.keys.all[0].key, a, s, s)
	j := must[[]byte](t)(json.Marshal(c.Generations()))
	said.Write(j)
	said.Write(must[[]byte](t)(json.Marshal(must[*Summary](t)(c.Inspect(t.Context())))))
	f := fault.New(st)
	for k := range 30 {
		f.Clear()
		f.Add(fault.Rule{Skip: k, Times: -1, Do: fault.Fail(errs.Denied)})
		for _, run := range []func() error{
			func() error { _, err := Open(t.Context(), f, a.id); return err },
			func() error { d := *c; d.st = f; _, err := d.RotateDataKey(t.Context(), rotateWith(s)); return err },
			func() error { d := *c; d.st = f; _, err := d.AddRecipient(t.Context(), a.r); return err },
		} {
			if err := run(); err != nil {
				said.WriteString(err.Error() + errs.RemedyOf(err))
			}
		}
	}
	for _, in := range keysOf(t, st) {
		said.Write(must[[]byte](t)(readDocument(t.Context(), st, in.Key)))
	}
	for _, g := range c.keys.all {
		for _, form := range [][]byte{g.key[:], []byte(hex.EncodeToString(g.key[:])), []byte(base64.StdEncoding.EncodeToString(g.key[:])), []byte(base64.RawURLEncoding.EncodeToString(g.key[:])), []byte(strings.Trim(fmt.Sprint([32]byte(g.key)), "[]"))} {
			if bytes.Contains(said.Bytes(), form) {
				t.Errorf("generation %d: the data key shows", g.number)
			}
		}
	}
}

func FuzzStatement(f *testing.F) {
	f.Add(must[[]byte](f)(json.Marshal(statement{Generation: 2, Wraps: []statedWrap{{}}, Earlier: []earlierKey{{}}})))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := parseStatement(in)
		if err != nil {
			return
		}
		if s.Generation < 2 || len(s.Wraps) > maxWraps || len(s.Earlier) > maxGenerations {
			t.Fatalf("accepted %+v", s)
		}
		k := &keyring{all: []*generation{newGeneration(dr.NewUUID(), 1, segment.DataKey{})}}
		k.all[0].statement = s
		k.believeStatements()
	})
}

func FuzzKeyObject(f *testing.F) {
	f.Add(wrapKey(dr.NewUUID(), dr.NewUUID()))
	f.Add(completeKey(dr.NewUUID()))
	f.Add(strings.ToUpper(wrapKey(dr.UUID{0xab}, dr.UUID{0xcd})))
	f.Add("keys/AB1A0000-0000-0000-0000-000000000000/00000000-0000-0000-0000-0000000000cd")
	f.Fuzz(func(t *testing.T, key string) {
		if o, ok := parseKeyObject(key); ok && keyPrefix(o.dek)+o.name != key {
			t.Fatalf("%q: %+v", key, o)
		}
	})
}
