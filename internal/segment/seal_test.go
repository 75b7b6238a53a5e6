package segment

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// frameOf is one opened frame of smallObject with all that opening it takes.
type frameOf struct {
	o      *Opener
	disk   dr.DiskID
	e      Entry
	sealed []byte
}

func frames(t *testing.T, body []byte) (out []frameOf) {
	t.Helper()
	h, f, _, err := OpenObject(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(testKey, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range f.Entries {
		out = append(out, frameOf{o, f.Disks[e.Disk], e, body[e.Offset:][:e.Stored]})
	}
	return out
}

// TestFramesAreBoundToTheirPlace: a store that serves a frame as another
// chunk, disk, version, domain or object is found out.
func TestFramesAreBoundToTheirPlace(t *testing.T) {
	body, _ := smallObject(t)
	all := frames(t, body)
	served := 0
	for _, f := range all {
		if _, err := f.o.Frame(nil, f.disk, &f.e, f.sealed); err != nil {
			t.Fatal(err)
		}
		other := *f.o
		other.h.Domain.UUID[5] ^= 1
		h := f.o.h
		h.Object[5] ^= 1
		otherObject, err := NewOpener(testKey, h)
		if err != nil {
			t.Fatal(err)
		}
		for what, try := range map[string]func() error{
			"chunk":   func() error { e := f.e; e.Chunk++; _, err := f.o.Frame(nil, f.disk, &e, f.sealed); return err },
			"mask":    func() error { e := f.e; e.Mask <<= 1; _, err := f.o.Frame(nil, f.disk, &e, f.sealed); return err },
			"seq":     func() error { e := f.e; e.Seq++; _, err := f.o.Frame(nil, f.disk, &e, f.sealed); return err },
			"counter": func() error { e := f.e; e.Counter++; _, err := f.o.Frame(nil, f.disk, &e, f.sealed); return err },
			"raw":     func() error { e := f.e; e.Raw = !e.Raw; _, err := f.o.Frame(nil, f.disk, &e, f.sealed); return err },
			"disk":    func() error { _, err := f.o.Frame(nil, disk(99), &f.e, f.sealed); return err },
			"domain":  func() error { _, err := other.Frame(nil, f.disk, &f.e, f.sealed); return err },
			"object":  func() error { _, err := otherObject.Frame(nil, f.disk, &f.e, f.sealed); return err },
			"cut":     func() error { _, err := f.o.Frame(nil, f.disk, &f.e, f.sealed[1:]); return err },
			"no mask": func() error { e := f.e; e.Mask = 0; _, err := f.o.Frame(nil, f.disk, &e, f.sealed); return err },
		} {
			if err := try(); !errs.Is(err, errs.Corrupt) || errs.RemedyOf(err) == "" {
				t.Errorf("other %s: got %v (remedy %q)", what, err, errs.RemedyOf(err))
			}
		}
		for _, g := range all {
			if g.e.Offset == f.e.Offset {
				continue
			}
			e := f.e // the index may lie about the size, too
			e.Stored, e.Raw = g.e.Stored, g.e.Raw
			if _, err := f.o.Frame(nil, f.disk, &e, g.sealed); !errs.Is(err, errs.Corrupt) {
				t.Errorf("frame %d served for %d: %v", g.e.Counter, f.e.Counter, err)
			}
			served++
		}
	}
	if served != len(all)*(len(all)-1) {
		t.Fatalf("%d frames served for others", served)
	}
}

func TestFrameAppendsAndLeavesItsInputAlone(t *testing.T) {
	body, _ := smallObject(t)
	for _, f := range frames(t, body) {
		before := slices.Clone(f.sealed)
		got, err := f.o.Frame([]byte("prefix"), f.disk, &f.e, f.sealed)
		if err != nil || string(got[:6]) != "prefix" || len(got) != 6+f.e.Size() {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if !bytes.Equal(before, f.sealed) {
			t.Fatal("the sealed bytes were changed")
		}
	}
}

func TestCheckBlocksFindsEveryWrongBlock(t *testing.T) {
	body, _ := smallObject(t)
	h, f, _, err := OpenObject(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(testKey, h)
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		blocks, err := o.Frame(nil, f.Disks[e.Disk], e, body[e.Offset:][:e.Stored])
		if err != nil {
			t.Fatal(err)
		}
		if err := o.CheckBlocks(f, e, blocks); err != nil {
			t.Fatal(err)
		}
		if err := o.CheckBlocks(f, e, blocks[1:]); !errs.Is(err, errs.Corrupt) {
			t.Fatalf("short: %v", err)
		}
		for b := range e.Blocks() {
			blocks[b*4096+77] ^= 1
			if err := o.CheckBlocks(f, e, blocks); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), fmt.Sprintf("block %d of", b)) {
				t.Fatalf("block %d wrong: %v", b, err)
			}
			blocks[b*4096+77] ^= 1
		}
	}
}

func TestWrongKeyIsDeniedByName(t *testing.T) {
	body, _ := smallObject(t)
	wrong := testKey
	wrong[31] ^= 1
	_, _, _, err := OpenObject(wrong, body)
	if !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), testObject.String()) || !strings.Contains(errs.RemedyOf(err), journalHeader().Key.String()) {
		t.Fatalf("got %v (remedy %q)", err, errs.RemedyOf(err))
	}
	blob, _, err := SealBlob(testKey, journalHeaderOfDomain(), []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenBlob(wrong, blob); !errs.Is(err, errs.Denied) {
		t.Fatalf("blob: %v", err)
	}
	h, err := ParseHeader(body)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(wrong, h)
	if err != nil {
		t.Fatal(err)
	}
	f := frames(t, body)[0]
	if _, err := o.Frame(nil, f.disk, &f.e, f.sealed); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("frame: %v", err)
	}
}

// patch changes header bytes and makes the checksum right again, as a newer
// version or a forger would.
func patch(body []byte, change func(h []byte)) []byte {
	b := slices.Clone(body)
	change(b)
	binary.LittleEndian.PutUint32(b[offCRC:], crc32.Checksum(b[:offCRC], castagnoli))
	return b
}

func TestOtherFormatsAreNamed(t *testing.T) {
	body, _ := smallObject(t)
	for what, change := range map[string]func(h []byte){
		"needs a newer reader": func(h []byte) { h[offFormat], h[offNeeds] = 9, 7 },
		"unknown kind":         func(h []byte) { h[offKind] = 5 },
		"kind 0":               func(h []byte) { h[offKind] = 0 },
		"unknown suite":        func(h []byte) { h[offSuite] = 2 },
	} {
		_, err := ParseHeader(patch(body, change))
		if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), "at least as new") {
			t.Errorf("%s: got %v (remedy %q)", what, err, errs.RemedyOf(err))
		}
	}
	_, err := ParseHeader(patch(body, func(h []byte) { h[offFormat], h[offNeeds] = 9, 7 }))
	for _, word := range []string{"format 9", "version 7", "version 2"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q lacks %q", err, word)
		}
	}
	if _, err := ParseHeader(patch(body, func(h []byte) { h[offFormat], h[offUnused] = 9, 1 })); err != nil {
		t.Errorf("a newer format that says we can read it: %v", err)
	}
	for _, b := range []string{"PK\x03\x04 something else", "\x89PNG\r\n\x1a\n", strings.Repeat("\x00", 5000)} {
		if _, err := ParseHeader([]byte(b)); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "not a Holdfast object") {
			t.Errorf("%.8q: got %v", b, err)
		}
	}
}

// TestForgedHeaderIsFound: whoever can write the store can make checksums and
// digests right, but not the footer's seal.
func TestForgedHeaderIsFound(t *testing.T) {
	body, _ := smallObject(t)
	off, n, _, err := ParseTail(body[len(body)-TailSize:])
	if err != nil {
		t.Fatal(err)
	}
	for at := offKind; at < offCRC; at++ {
		if at > offUnused+8 && at%97 != 0 {
			continue
		}
		forged := patch(body, func(h []byte) { h[at] ^= 3 })
		h, err := ParseHeader(forged)
		if err != nil {
			continue // not even a header
		}
		if _, err := OpenFooter(testKey, h, forged[:HeaderSize], forged[off:off+n]); err == nil {
			t.Fatalf("byte %d of the header can be forged", at)
		}
	}
	other := journalHeaderOfDomain()
	other.Object = dr.UUID{1}
	if _, err := OpenFooter(testKey, other, body[:HeaderSize], body[off:off+n]); !errs.Is(err, errs.Invalid) {
		t.Fatalf("header and header bytes of two objects: %v", err)
	}
}

// spy records every key and nonce that seals something.
type spy struct {
	cipher.AEAD
	object dr.UUID
	used   map[string]int
}

func (s *spy) Seal(dst, nonce, plain, aad []byte) []byte {
	s.used[s.object.String()+string(nonce)]++
	return s.AEAD.Seal(dst, nonce, plain, aad)
}

func TestNoNonceIsUsedTwice(t *testing.T) {
	b := NewBuilder(testKey, testDomain, BuilderOptions{})
	used := map[string]int{}
	want := 0
	for range 20 {
		b.aead = &spy{b.aead, b.object, used}
		b.SetSeqs(1, 1000)
		for c := range uint32(50) {
			if err := b.AddFrame(disk(1), c, 1, 5, noise(uint64(c), 4096)); err != nil {
				t.Fatal(err)
			}
		}
		// Refused frames must not use a nonce up for the next.
		if err := b.AddFrame(disk(1), 0, 0, 5, nil); !errs.Is(err, errs.Invalid) {
			t.Fatal(err)
		}
		if _, _, err := b.Finish(Header{Kind: Journal}); !errs.Is(err, errs.Invalid) {
			t.Fatal(err)
		}
		if _, _, err := b.Finish(journalHeader()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Finish(journalHeader()); !errs.Is(err, errs.Invalid) {
			t.Fatalf("finished twice: %v", err)
		}
		if err := b.AddFrame(disk(1), 60, 1, 5, noise(1, 4096)); !errs.Is(err, errs.Invalid) {
			t.Fatalf("frame after finish: %v", err)
		}
		want += 50 + 1
		b.Reset()
	}
	if len(used) != want {
		t.Fatalf("%d nonces for %d seals", len(used), want)
	}
	for n, times := range used {
		if times != 1 {
			t.Fatalf("nonce %x used %d times", n, times)
		}
	}
	if MaxFrames >= counterBlob {
		t.Fatal("frames may count into the reserved nonces")
	}
}

func TestBlobsNeverShareAKey(t *testing.T) {
	h := journalHeaderOfDomain()
	h.Object = testObject // must not be used
	seen := map[dr.UUID]bool{}
	for range 10 {
		body, _, err := SealBlob(testKey, h, []byte("same content"))
		if err != nil {
			t.Fatal(err)
		}
		got, plain, err := OpenBlob(testKey, body)
		if err != nil || string(plain) != "same content" || seen[got.Object] || got.Object == testObject {
			t.Fatalf("%+v %q %v", got, plain, err)
		}
		seen[got.Object] = true
	}
}

// TestDecompressionIsConfined seals a bomb as an authorised writer might and
// looks at what opening it takes.
func TestDecompressionIsConfined(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 1<<30), nil)
	// The same with the content's size left out of the frame.
	var blind bytes.Buffer
	w, err := zstd.NewWriter(&blind, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 256 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	o := &Opener{h: journalHeaderOfDomain(), own: &lock{}}
	o.own.aead, _ = objectKey(&testKey, o.h.Object)
	for name, packed := range map[string][]byte{"sized": bomb, "blind": blind.Bytes()} {
		if len(packed) > dr.ChunkSize {
			packed = packed[:dr.ChunkSize]
		}
		var nonce [nonceSize]byte
		var aad [aadSize]byte
		putNonce(&nonce, 0)
		putAAD(&aad, o.h.Domain, disk(1), 3, 0xffff, 9)
		sealed := o.own.aead.Seal(nil, nonce[:], packed, aad[:])
		e := Entry{Chunk: 3, Mask: 0xffff, Seq: 9, Stored: uint32(len(sealed))}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := o.Frame(nil, disk(1), &e, sealed)
		runtime.ReadMemStats(&after)
		if !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: got %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
			t.Errorf("%s: opening allocated %d bytes", name, took)
		}
		footer := binary.LittleEndian.AppendUint32(nil, 1<<20)
		footer = append(footer, packed...)
		putNonce(&nonce, counterFooter)
		if _, err := openPacked(o.own.aead, counterFooter, nil, o.own.aead.Seal(nil, nonce[:], footer, nil), MaxFooter); err == nil {
			t.Errorf("%s: a footer larger than it says was opened", name)
		}
		binary.LittleEndian.PutUint32(footer, 1<<31)
		if _, err := openPacked(o.own.aead, counterFooter, nil, o.own.aead.Seal(nil, nonce[:], footer, nil), MaxFooter); err == nil {
			t.Errorf("%s: a footer larger than allowed was opened", name)
		}
	}
}

func TestOpenerIsSafeForConcurrentUse(t *testing.T) {
	body, _ := smallObject(t)
	all := frames(t, body)
	_, foot, _, err := OpenObject(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				for i, f := range all {
					blocks, err := all[0].o.Frame(nil, f.disk, &f.e, f.sealed)
					if err == nil {
						err = all[0].o.CheckBlocks(foot, &foot.Entries[i], blocks)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestFence(t *testing.T) {
	h := journalHeaderOfDomain()
	body, d, err := SealFence(h)
	if err != nil || len(body) != HeaderSize+TailSize {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
	got, f, gotDigest, err := OpenObject(testKey, body)
	h.Kind, h.Object = Fence, got.Object
	if err != nil || f != nil || got != h || gotDigest != d || got.Object.IsZero() {
		t.Fatalf("%+v %+v %v %v", got, f, gotDigest, err)
	}
	for i := range len(body) * 8 {
		body[i/8] ^= 1 << (i % 8)
		if _, _, _, err := OpenObject(testKey, body); err == nil {
			t.Fatalf("bit %d flipped and not noticed", i)
		}
		body[i/8] ^= 1 << (i % 8)
	}
	if _, _, err := OpenBlob(testKey, body); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a fence opened as a blob: %v", err)
	}
	if _, err := NewOpener(testKey, got); !errs.Is(err, errs.Invalid) {
		t.Fatalf("an opener of a fence: %v", err)
	}
	if _, err := OpenFooter(testKey, got, body[:HeaderSize], nil); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a footer of a fence: %v", err)
	}
}

func TestBlobSizes(t *testing.T) {
	h := journalHeaderOfDomain()
	for _, n := range []int{0, 1, 4096, 100_000, MaxBlob} {
		plain := noise(uint64(n), n)
		body, _, err := SealBlob(testKey, h, plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, got, err := OpenBlob(testKey, body); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes: %d, %v", n, len(got), err)
		}
	}
	if _, _, err := SealBlob(testKey, h, make([]byte, MaxBlob+1)); !errs.Is(err, errs.Invalid) {
		t.Fatalf("got %v", err)
	}
	body, _, err := SealBlob(testKey, h, text(1, 500))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(body) * 8 {
		if i/8 > offUnused+8 && i/8 < offCRC && i%251 != 0 {
			continue
		}
		body[i/8] ^= 1 << (i % 8)
		if _, _, err := OpenBlob(testKey, body); err == nil {
			t.Fatalf("bit %d flipped and not noticed", i)
		}
		body[i/8] ^= 1 << (i % 8)
	}
}

func TestDataKeyIsNeverPrinted(t *testing.T) {
	k := NewDataKey()
	if k == (DataKey{}) || k == NewDataKey() {
		t.Fatal("keys are not random")
	}
	hex := fmt.Sprintf("%x", k[:])
	type holder struct {
		Key DataKey
		Ptr *DataKey
	}
	js, err := json.Marshal(holder{k, &k})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "ptr", &k, "in", holder{k, &k})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "in", holder{k, &k})
	b := NewBuilder(k, testDomain, BuilderOptions{})
	out := fmt.Sprintf("%v %s %x %X %q %d %+v %#v %v %+v", k, k, k, k, k, k, holder{k, &k}, holder{k, &k}, &k, *b) + string(js) + log.String() + k.String()
	decimal := strings.Trim(fmt.Sprint([32]byte(k)), "[]")
	for _, secret := range []string{hex, strings.ToUpper(hex), string(k[:]), decimal} {
		if strings.Contains(out, secret) {
			t.Fatalf("the key is in %s", out)
		}
	}
	if !strings.Contains(out, "redacted") {
		t.Fatal("nothing was redacted")
	}
}

func TestBlockHasher(t *testing.T) {
	a, b := NewBlockHasher(testKey), NewBlockHasher(NewDataKey())
	block := noise(1, 4096)
	if a.Sum(block) != NewBlockHasher(testKey).Sum(block) {
		t.Fatal("equal blocks differ under one key")
	}
	if a.Sum(block) == b.Sum(block) || a.Sum(block) == a.Sum(noise(2, 4096)) {
		t.Fatal("hashes do not depend on key and content")
	}
	if n := testing.AllocsPerRun(100, func() { a.Sum(block) }); n != 0 && !raceDetector {
		t.Fatalf("%v allocations", n)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, created := range []time.Time{{}, testTime, time.Unix(-5, 7).UTC()} {
		h := journalHeaderOfDomain()
		h.Object, h.Created, h.Epoch, h.Number = testObject, created, 1<<32-1, 1<<64-1
		var b [HeaderSize]byte
		h.put(b[:], keyCheck{1}, needsFirst)
		if got, err := ParseHeader(b[:]); err != nil || got != h {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, h)
		}
	}
}
