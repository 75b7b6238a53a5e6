package journal

import (
	"bytes"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/mem"
)

// TestCheckObject: every object of a container is whole under its own name, and no more
// when a bit of it is another, when it is cut off, or, where it names its place, under
// another's name.
func TestCheckObject(t *testing.T) {
	st := must[*dir.Store](t)(dir.Open("../../test/golden/testdata/maintained/container"))
	c := newContainer(st, must[Domain](t)(ReadDomain(t.Context(), st)), [32]byte{}, &keyring{})
	kinds := map[string]string{} // a name of each
	check(t, store.Walk(t.Context(), st, "", func(in store.Info) error {
		body := make([]byte, in.Size)
		if _, err := st.ReadRange(t.Context(), in.Key, body, 0); err != nil {
			return err
		}
		kind, _, _ := strings.Cut(in.Key, "/")
		if strings.Contains(in.Key, "/j/") {
			return nil // sealed journal objects name a data key: below, in a container that is open
		}
		if err := c.CheckObject(in.Key, body); err != nil {
			t.Errorf("%s: %v", in.Key, err)
		}
		for what, bad := range map[string][]byte{"cut off": body[:len(body)-1], "longer": append(bytes.Clone(body), 0), "empty": nil, "another bit": flipped(body)} {
			if err := c.CheckObject(in.Key, bad); !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Invalid) {
				t.Errorf("%s, %s: %v", in.Key, what, err)
			}
		}
		if other := kinds[kind]; other != "" && (kind == "d" || kind == "x") {
			if err := c.CheckObject(other, body); !errs.Is(err, errs.Corrupt) {
				t.Errorf("%s under the name %s: %v", in.Key, other, err)
			}
		}
		kinds[kind] = in.Key
		return nil
	}))
	if len(kinds) < 6 {
		t.Errorf("kinds of objects: %v", kinds)
	}

	key := must[RecoveryKeyPair](t)(NewRecoveryKey())
	there := mem.New()
	open := must[*Container](t)(Create(t.Context(), there, CreateOptions{Name: "erp", Recipients: []Recipient{key.Recipient()}}))
	p := must[*Publisher](t)(open.OpenPublisher(t.Context(), PublisherOptions{Host: "test"}))
	defer p.Close()
	line := open.Domain().Timeline
	fence := make([]byte, 1<<16)
	n, err := there.ReadRange(t.Context(), objectKey(line, 1), fence, 0)
	check(t, err)
	if err := open.CheckObject(objectKey(line, 1), fence[:n]); err != nil {
		t.Error(err)
	}
	if err := open.CheckObject(objectKey(line, 2), fence[:n]); !errs.Is(err, errs.Corrupt) {
		t.Errorf("a fence under another number: %v", err)
	}
	if err := c.CheckObject(objectKey(line, 1), fence[:n]); !errs.Is(err, errs.Corrupt) {
		t.Errorf("another container's: %v", err)
	}
	// Another store, the same container.
	if d := open.At(mem.New()); d.Domain().ID != open.Domain().ID || d.Store() == open.Store() {
		t.Error("At is another container")
	}
}

func flipped(body []byte) []byte {
	b := bytes.Clone(body)
	b[len(b)/2] ^= 4
	return b
}

// TestNames: names that are taken apart again, and those that are not.
func TestNamesOfCopies(t *testing.T) {
	key := must[RecoveryKeyPair](t)(NewRecoveryKey())
	c := must[*Container](t)(Create(t.Context(), mem.New(), CreateOptions{Name: "erp", Recipients: []Recipient{key.Recipient()}}))
	line := c.Domain().Timeline
	if e, ok := ParseEpochName(line, EpochName(line, 7)); !ok || e != 7 || !strings.HasPrefix(EpochName(line, 7), EpochPrefix(line)) {
		t.Error("a claim's name")
	}
	if g, ok := ParseManifestName(line, ManifestName(line, 9)); !ok || g != 9 {
		t.Error("a manifest's name")
	}
	for name, want := range map[string]bool{"meta/settings/0": true, "meta/x/boot/0": true, "meta/x/0": false, "d/settings/": false, "domain": false} {
		if IsAdvice(name) != want {
			t.Errorf("%s is advice: %v", name, !want)
		}
	}
	if !KeyCompletes("keys/a/complete") || KeyCompletes("keys/a/b") || !KnownName(HeadName(line)) || KnownName("photo.jpg") {
		t.Error("names of keys, or known ones")
	}
}
