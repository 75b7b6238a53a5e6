package stores

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/copies"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store/storetest/azurite"
)

// copiesOf is what the status socket says of a domain's copies, by their order.
func (d *drva) copiesOf(t *testing.T, s *server) []copies.Status {
	t.Helper()
	code, out, _ := s.run(t, "status", d.socket, "-o", "json")
	var v struct{ Copies []copies.Status }
	if code != 0 || json.Unmarshal([]byte(out), &v) != nil {
		return nil
	}
	return v.Copies
}

// TestCopies: a DRVA that publishes to one kind of store keeps copies in another kind and
// in a directory. One of them goes away and comes back; from the other the domain is
// recovered, which the appliance says, and leaves to whoever did it.
func TestCopies(t *testing.T) {
	s := startVersity(t, true, false)
	az := azurite.Start(t, azurite.Options{Dir: t.TempDir()})
	if err := az.MakeContainer(t.Context(), "copies"); err != nil {
		t.Fatal(err)
	}
	first, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, first)
	c := w.open(first)
	p := w.publisher(c, journal.LockOptions{})
	for range 12 {
		w.wait(w.publish(c, p))
	}
	w.maintain(c, maintain.LockPolicy{})
	for range 5 {
		w.wait(w.publish(c, p))
	}
	_ = p.Close() // always nil

	b := &box{s: s, dir: t.TempDir()}
	b.key = filepath.Join(b.dir, "drva.key")
	credentials := filepath.Join(b.dir, "copy.env")
	for path, text := range map[string][]byte{b.key: w.key.FileText(), credentials: []byte("AZURE_STORAGE_KEY=" + azurite.Key + "\n")} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.must(t, "cert", "init", filepath.Join(b.dir, "ca"))
	b.must(t, "cert", "issue", filepath.Join(b.dir, "tls"), "--ca", filepath.Join(b.dir, "ca"), "--role", "drva", "--name", c.Domain().ID.String(), "--addr", "127.0.0.1")
	cloud := &server{"azurite", az.URL("copies", "erp"), map[string]string{"AZURE_STORAGE_KEY": azurite.Key}}
	folder := "file://" + filepath.Join(t.TempDir(), "erp")
	d := b.start(t, func(m map[string]any) {
		m["copies"] = []map[string]string{{"container": cloud.url.String(), "credentials": credentials}, {"container": folder}}
	})
	states := func(want ...copies.State) func() bool {
		return func() bool {
			got := d.copiesOf(t, s)
			for i := range want {
				if i >= len(got) || got[i].State != want[i] {
					return false
				}
			}
			return true
		}
	}
	defer func() {
		if t.Failed() {
			t.Logf("%+v; it said\n%s", d.copiesOf(t, s), d.said.String())
		}
	}()
	eventually(t, "both copies have all", states(copies.Current, copies.Current))
	second, err := cloud.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.expectAmong(second, true)
	for _, k := range d.copiesOf(t, s) {
		if k.Lag != 0 || k.Newest.IsZero() || k.Copied == 0 {
			t.Errorf("%+v", k)
		}
	}
	if code, out, stderr := s.run(t, "fsck", folder, "--key", b.key); code != 0 {
		t.Errorf("fsck of the directory: exit %d\n%s%s", code, out, stderr)
	}

	az.Quit()
	eventually(t, "one is away", states(copies.Away, copies.Current))
	if st := d.state(t, s); st != "serving" {
		t.Errorf("meanwhile the appliance is %s", st)
	}
	// Nobody knows that the domain lives: it is recovered from the directory.
	other, stop := newOther(t, b, folder)
	eventually(t, "the appliance says whose copy it is", states(copies.Away, copies.Fenced))
	_, out, _ := s.run(t, "events", d.socket)
	if !strings.Contains(out, "copy-fenced") || !strings.Contains(out, "copy-behind") {
		t.Errorf("events:\n%s", out)
	}
	if _, out, _ = s.run(t, "status", d.socket); !strings.Contains(out, "fenced") || !strings.Contains(out, "recovered from the copy") {
		t.Errorf("status:\n%s", out)
	}
	stop()
	if other == 0 {
		t.Error("the other one has no epoch")
	}
	if err := az.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other is back", states(copies.Current, copies.Fenced))
	w.expectAmong(second, true)
	if code := d.stop(); code != 0 {
		t.Errorf("exit %d", code)
	}

	// A container moves to another store by one command, and again for what is new.
	moved := "file://" + filepath.Join(t.TempDir(), "moved")
	both := &server{s.name, s.url, maps.Clone(s.env)}
	maps.Copy(both.env, cloud.env)
	for range 2 {
		if code, out, stderr := both.run(t, "copy", cloud.url.String(), moved, "--key", b.key, "-o", "json"); code != 0 || !strings.Contains(out, `"current"`) {
			t.Errorf("copy: exit %d\n%s%s", code, out, stderr)
		}
	}
	if code, out, stderr := both.run(t, "copy", s.url.String(), folder, "--key", b.key); code != 4 || !strings.Contains(stderr, "not in the first store") {
		t.Errorf("a copy over somebody else's: exit %d\n%s%s", code, out, stderr)
	}
}

// newOther is who takes a copy over: another appliance.
func newOther(t *testing.T, b *box, url string) (epoch uint32, stop func()) {
	t.Helper()
	dir := t.TempDir()
	other := &box{s: b.s, dir: dir, key: b.key}
	if err := os.Symlink(filepath.Join(b.dir, "tls"), filepath.Join(dir, "tls")); err != nil {
		t.Fatal(err)
	}
	d := other.start(t, func(m map[string]any) { m["container"] = url })
	var v struct{ Publisher struct{ Epoch uint32 } }
	eventually(t, "another one publishes to the copy", func() bool {
		code, out, _ := b.s.run(t, "status", d.socket, "-o", "json")
		return code == 0 && json.Unmarshal([]byte(out), &v) == nil && v.Publisher.Epoch > 0
	})
	return v.Publisher.Epoch, func() { d.stop() }
}
