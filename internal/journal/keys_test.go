package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

const testPhrase = "nine unrelated words"

func TestRecipientsOpenTheContainer(t *testing.T) {
	st := mem.New()
	phrase := must[Recipient](t)(PassphraseRecipient(testPhrase, "in the safe"))
	public := must[Recipient](t)(ParseRecipient(testKey.String()))
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{phrase, public}}))
	for _, id := range []Identity{PassphraseIdentity(testPhrase), testKey.Identity(), must[Identity](t)(ParseIdentity(string(testKey.FileText())))} {
		got := must[*Container](t)(Open(t.Context(), st, id))
		if got.current().key != c.current().key || got.Domain() != c.Domain() {
			t.Fatalf("%v opens something else", id)
		}
	}
	other := must[RecoveryKeyPair](t)(NewRecoveryKey())
	for name, id := range map[string]Identity{
		"wrong passphrase": PassphraseIdentity("wrong passphrase"),
		"wrong key":        other.Identity(),
		"none":             {},
	} {
		_, err := Open(t.Context(), st, id)
		if !errs.Is(err, errs.Denied) {
			t.Errorf("%s: %v", name, err)
		}
		remedy := errs.RemedyOf(err)
		if !strings.Contains(remedy, "passphrase in the safe") || !strings.Contains(remedy, testKey.String()) {
			t.Errorf("%s: the remedy does not list who can: %q", name, remedy)
		}
		if strings.Contains(err.Error()+remedy, "wrong passphrase ") {
			t.Errorf("%s: the error repeats the passphrase", name)
		}
	}
	rs := must[[]RecipientInfo](t)(Recipients(t.Context(), st))
	if len(rs) != 2 {
		t.Fatalf("%+v", rs)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	phrase := must[Recipient](t)(PassphraseRecipient(testPhrase, ""))
	secret := testKey.id.String()
	for _, v := range []any{testKey, testKey.Identity(), testKey.Recipient(), phrase, PassphraseIdentity(testPhrase),
		&phrase, []Identity{PassphraseIdentity(testPhrase)}, CreateOptions{Recipients: []Recipient{phrase}}} {
		var b strings.Builder
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%v %+v %#v %s %q %x %d", v, v, v, v, v, v, v)
		b.Write(j)
		for _, s := range []string{testPhrase, secret, fmt.Sprintf("%x", testPhrase)} {
			if strings.Contains(b.String(), s) {
				t.Errorf("%T gives its secret away: %s", v, b.String())
			}
		}
	}
	for _, s := range []string{secret, strings.ToLower(secret), secret + "x", "# c\n" + secret[:30]} {
		_, err := ParseRecipient(s)
		_, err2 := ParseIdentity(s + "y")
		for _, err := range []error{err, err2} {
			if err == nil || strings.Contains(err.Error()+errs.RemedyOf(err), s[20:30]) {
				t.Errorf("error %v repeats the secret", err)
			}
		}
	}
}

func TestIdentityFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := string(testKey.FileText())
	if _, err := ParseIdentityFile(write("good", good, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		kind errs.Kind
	}{
		"open to others": {write("open", good, 0o640), errs.Denied},
		"empty":          {write("empty", "", 0o600), errs.Invalid},
		"two keys":       {write("two", good+good, 0o600), errs.Invalid},
		"public part":    {write("public", testKey.String(), 0o600), errs.Invalid},
		"too large":      {write("large", strings.Repeat("#\n", maxIdentityFile), 0o600), errs.Invalid},
		"missing":        {filepath.Join(dir, "missing"), errs.NotFound},
		"a directory":    {dir, errs.Invalid},
	} {
		if _, err := ParseIdentityFile(c.path); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
}

func TestHostileWrapIsBounded(t *testing.T) {
	good := argonParams{MemoryKiB: argonMemory, Time: argonTime, Threads: 1, Salt: make([]byte, saltSize), Nonce: make([]byte, nonceSize), Sealed: make([]byte, wrapPlainSize+16)}
	for name, change := range map[string]func(*argonParams){
		"4 GiB":         func(p *argonParams) { p.MemoryKiB = 4 << 20 },
		"all the bits":  func(p *argonParams) { p.MemoryKiB = 1<<32 - 1 },
		"many passes":   func(p *argonParams) { p.Time = 1 << 30 },
		"no pass":       func(p *argonParams) { p.Time = 0 },
		"no thread":     func(p *argonParams) { p.Threads = 0 },
		"many threads":  func(p *argonParams) { p.Threads = 255 },
		"long salt":     func(p *argonParams) { p.Salt = make([]byte, 1000) },
		"short nonce":   func(p *argonParams) { p.Nonce = p.Nonce[:5] },
		"nothing in it": func(p *argonParams) { p.Sealed = nil },
	} {
		p := good
		change(&p)
		body := must[[]byte](t)(putDocument(magicWrap, &wrap{Format: wrapFormat, Kind: Passphrase, Argon: &p}))
		if _, err := parseWrap(body); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	body := must[[]byte](t)(putDocument(magicWrap, &wrap{Format: wrapFormat, Kind: Passphrase, Argon: &good}))
	if _, err := parseWrap(body); err != nil {
		t.Errorf("good parameters: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	newer := func(change func(*Domain)) func(*testing.T, *mem.Store) {
		return func(t *testing.T, st *mem.Store) {
			d := newDomain(dr.DomainID{UUID: dr.NewUUID()}, "n", testNow)
			change(&d)
			check(t, st.Create(t.Context(), keyDomain, must[[]byte](t)(putDocument(magicDomain, &d))))
		}
	}
	for name, c := range map[string]struct {
		prepare func(*testing.T, *mem.Store)
		kind    errs.Kind
		words   string
	}{
		"nothing there":    {func(*testing.T, *mem.Store) {}, errs.NotFound, "no container"},
		"something else":   {func(t *testing.T, st *mem.Store) { check(t, st.Create(t.Context(), keyDomain, []byte("hello"))) }, errs.Invalid, "not a Holdfast container"},
		"newer major":      {newer(func(d *Domain) { d.Format.Major = 2 }), errs.Invalid, "format 2"},
		"unknown incompat": {newer(func(d *Domain) { d.Format.Incompat = 4 }), errs.Invalid, "0x4"},
		"another cipher":   {newer(func(d *Domain) { d.Cipher = "rot13" }), errs.Invalid, "cipher"},
		"another window":   {newer(func(d *Domain) { d.Window = 9 }), errs.Invalid, "window"},
	} {
		st := mem.New()
		c.prepare(t, st)
		_, err := Open(t.Context(), st, testKey.Identity())
		if !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.words) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v (%v), remedy %q", name, err, errs.KindOf(err), errs.RemedyOf(err))
		}
	}
	// An addition that may be ignored is.
	st := mem.New()
	newTestContainer(t, st)
	st.Damage(keyDomain, func(b []byte) []byte {
		var d Domain
		check(t, parseDocument(magicDomain, b, &d))
		d.Format.Compat = 8
		return must[[]byte](t)(putDocument(magicDomain, &d))
	})
	_, err := Open(t.Context(), st, testKey.Identity())
	if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "made with") {
		t.Errorf("a domain object that was replaced: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	rs := []Recipient{testKey.Recipient()}
	for name, o := range map[string]CreateOptions{
		"no name":   {Recipients: rs},
		"long name": {Name: strings.Repeat("x", 300), Recipients: rs},
		"control":   {Name: "a\nb", Recipients: rs},
		"nobody":    {Name: "a"},
		"empty one": {Name: "a", Recipients: []Recipient{{}}},
		"not UTF-8": {Name: "\xff", Recipients: rs},
	} {
		if _, err := Create(t.Context(), mem.New(), o); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	st := mem.New()
	newTestContainer(t, st)
	if _, err := Create(t.Context(), st, CreateOptions{Name: "again", Recipients: rs}); !errs.Is(err, errs.Exists) {
		t.Errorf("a second container: %v", err)
	}
	st = mem.New()
	check(t, st.Create(t.Context(), "holiday/photo.jpg", nil))
	if _, err := Create(t.Context(), st, CreateOptions{Name: "x", Recipients: rs}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "holiday") {
		t.Errorf("a place in use: %v", err)
	}
	if _, err := PassphraseRecipient("short", ""); !errs.Is(err, errs.Invalid) {
		t.Errorf("short passphrase: %v", err)
	}
	if _, err := PassphraseRecipient(testPhrase, "it is "+testPhrase); !errs.Is(err, errs.Invalid) || strings.Contains(err.Error(), testPhrase) {
		t.Errorf("hint with passphrase: %v", err)
	}
}

// lyingStore lacks one of the properties a store must have.
type lyingStore struct {
	store.Store
	overwrites, hides, shifts, declares bool
}

func (s *lyingStore) Create(ctx context.Context, key string, body []byte) error {
	err := s.Store.Create(ctx, key, body)
	if s.overwrites && errs.Is(err, errs.Exists) {
		return nil
	}
	return err
}

func (s *lyingStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	if s.hides && strings.HasPrefix(prefix, prefixProbe) {
		return nil, nil
	}
	return s.Store.List(ctx, prefix, after, limit)
}

func (s *lyingStore) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if s.shifts && off > 0 {
		off--
	}
	return s.Store.ReadRange(ctx, key, p, off)
}

func (s *lyingStore) Capabilities() store.Capabilities {
	c := s.Store.Capabilities()
	c.CreateOnce = !s.declares
	return c
}

func TestProbeNamesTheMissingProperty(t *testing.T) {
	for want, st := range map[string]*lyingStore{
		"create-once":       {Store: mem.New(), overwrites: true},
		"list-after-create": {Store: mem.New(), hides: true},
		"range":             {Store: mem.New(), shifts: true},
		"create-once:":      {Store: mem.New(), declares: true},
	} {
		_, err := Create(t.Context(), st, CreateOptions{Name: "p", Recipients: []Recipient{testKey.Recipient()}})
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if n := len(keysOf(t, st)); n != 0 && !st.hides {
			t.Errorf("%s: the trial left %d objects", want, n)
		}
	}
	// A lost answer in the race is no reason to refuse a store.
	f := fault.New(mem.New())
	f.Add(fault.Rule{Op: fault.Create, Prefix: prefixProbe, Times: 1, Do: fault.LoseAnswer()})
	if _, err := Create(t.Context(), f, CreateOptions{Name: "p", Recipients: []Recipient{testKey.Recipient()}}); !errs.Is(err, errs.Transient) {
		t.Errorf("lost answer: %v", err)
	}
}

func FuzzDocuments(f *testing.F) {
	d := newDomain(dr.DomainID{UUID: dr.NewUUID()}, "fuzz", testNow)
	body, err := putDocument(magicDomain, &d)
	check(f, err)
	f.Add(body)
	w, err := sealWrap(f.Context(), testKey.Recipient(), d.ID, newGeneration(d.DataKey, firstGeneration, segment.NewDataKey()), dr.NewUUID(), testNow)
	check(f, err)
	f.Add(w)
	f.Add([]byte(magicWrap))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		if d, err := parseDomain(in); err == nil && (d.Window != Window || d.ID.IsZero()) {
			t.Fatalf("accepted %+v", d)
		}
		// The digest keeps a fuzzer out; give it the inner form as well.
		_, _ = parseWrap(in)
		if w, err := parseWrap(must[[]byte](t)(putDocument(magicWrap, json.RawMessage(quote(in))))); err == nil && w.Argon != nil && w.Argon.MemoryKiB > maxArgonMemory {
			t.Fatalf("accepted %+v", w.Argon)
		}
	})
}

// quote keeps arbitrary bytes valid JSON, and leaves valid JSON alone.
func quote(b []byte) []byte {
	if json.Valid(b) {
		return b
	}
	q, err := json.Marshal(string(b))
	if err != nil {
		return []byte("null")
	}
	return q
}

// headless is a store that refuses to hand out where a timeline begins.
type headless struct {
	store.Store
	why error
}

func (s headless) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if strings.HasSuffix(key, "/"+headName) {
		return 0, s.why
	}
	return s.Store.ReadRange(ctx, key, p, off)
}

// Nobody is told to restore an object that the store merely does not hand out.
func TestOpenPassesTheStoresRemedyOn(t *testing.T) {
	st := mem.New()
	must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "d", Recipients: []Recipient{testKey.Recipient()}}))
	for kind, want := range map[errs.Kind]string{errs.Denied: "set the clock", errs.NotFound: "restore the object"} {
		why := errs.New("store", kind, "head", "no").WithRemedy("set the clock")
		_, err := Open(t.Context(), headless{st, why}, testKey.Identity())
		if got := errs.RemedyOf(err); !errs.Is(err, kind) || !strings.Contains(got, want) {
			t.Errorf("%v: %v, remedy %q", kind, err, got)
		}
	}
}
