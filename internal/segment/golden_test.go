package segment

import (
	"bytes"
	"crypto/cipher"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/errs"
)

var rewrite = flag.Bool("rewrite", false, "write the golden objects anew: only when the format version was raised")

// golden returns what the current code makes of fixed input.
func golden(t *testing.T) map[string][]byte {
	t.Helper()
	object, _ := smallObject(t)
	h := journalHeaderOfDomain()
	h.Object = testObject
	fence, _, err := SealFence(h)
	if err != nil {
		t.Fatal(err)
	}
	blob, _, err := sealBlob(testKey, h, text(9, 500))
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"journal-v1.object": object, "fence-v1.object": fence, "blob-v1.object": blob}
}

func readGolden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldenObjectsStayReadable: what version 1 wrote is read for ever.
func TestGoldenObjectsStayReadable(t *testing.T) {
	if *rewrite {
		for name, body := range golden(t) {
			if err := os.WriteFile(filepath.Join("testdata", name), body, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	body := readGolden(t, "journal-v1.object")
	now, _ := smallObject(t)
	got, err := readAll(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := readAll(testKey, now); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("the golden object reads otherwise than it was written (%v)", err)
	}
	if h, _, _, err := OpenObject(testKey, readGolden(t, "fence-v1.object")); err != nil || h.Kind != Fence || h.Object != testObject {
		t.Fatalf("fence: %+v, %v", h, err)
	}
	if _, plain, err := OpenBlob(testKey, readGolden(t, "blob-v1.object")); err != nil || !bytes.Equal(plain, text(9, 500)) {
		t.Fatalf("blob: %d bytes, %v", len(plain), err)
	}
}

// TestFormatHasNotDrifted compares what is written today with the golden
// object, byte by byte, in all that does not depend on how well zstd packs.
func TestFormatHasNotDrifted(t *testing.T) {
	now := golden(t)
	if !bytes.Equal(now["fence-v1.object"], readGolden(t, "fence-v1.object")) {
		t.Error("fences are written otherwise")
	}
	a, b := now["journal-v1.object"], readGolden(t, "journal-v1.object")
	if !bytes.Equal(a[:HeaderSize], b[:HeaderSize]) {
		t.Error("headers are written otherwise")
	}
	if !bytes.Equal(now["blob-v1.object"][:HeaderSize], readGolden(t, "blob-v1.object")[:HeaderSize]) {
		t.Error("blob headers are written otherwise")
	}
	fa, fb := frames(t, a), frames(t, b)
	raws := 0
	for i := range fb {
		if fa[i].e.Raw {
			raws++
			if !bytes.Equal(fa[i].sealed, fb[i].sealed) {
				t.Error("frames are sealed otherwise")
			}
		}
	}
	if raws == 0 {
		t.Error("the golden object has no raw frame to compare")
	}
	pa, pb := plainFooter(t, a), plainFooter(t, b)
	f, err := parseFooter(pb, &Header{Kind: Journal}, false)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.encode(nil, false), pb) {
		t.Error("footers are encoded otherwise")
	}
	if len(pa) != len(pb) { // sizes of compressed frames may differ, columns may not
		t.Errorf("footer of %d bytes, golden %d", len(pa), len(pb))
	}
}

func plainFooter(t *testing.T, body []byte) []byte {
	t.Helper()
	off, n, _, err := ParseTail(body[len(body)-TailSize:])
	if err != nil {
		t.Fatal(err)
	}
	var aead cipher.AEAD
	aead, _ = objectKey(&testKey, testObject)
	plain, err := openPacked(aead, counterFooter, body[:HeaderSize], body[off:off+n], MaxFooter)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// TestFormatDocument compares the tables of docs/format/segment.md with the
// constants of the code, in both directions.
func TestFormatDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/format/segment.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	type field struct {
		name      string
		off, size int
	}
	for section, want := range map[string][]field{
		"Header": {
			{"magic", offMagic, 8}, {"format", offFormat, 2}, {"needs", offNeeds, 2}, {"kind", offKind, 1}, {"suite", offSuite, 1},
			{"window", offWindow, 2}, {"object", offObject, 16}, {"domain", offDomain, 16}, {"timeline", offTimeline, 16},
			{"key", offKey, 16}, {"epoch", offEpoch, 4}, {"unused", offEpoch + 4, 4}, {"number", offNumber, 8}, {"previous", offPrev, 32},
			{"created", offCreated, 8}, {"key check", offCheck, 8}, {"form", offForm, 1}, {"unused", offUnused, 7},
			{"previous object", offPrevID, 16}, {"previous number", offPrevNum, 8}, {"unused", offUnused2, offCRC - offUnused2}, {"crc", offCRC, 4},
		},
		"Tail": {
			{"magic", offTailMagic, 4}, {"crc", offTailCRC, 4}, {"footer offset", offFooterOffset, 8}, {"footer length", offFooterLen, 8},
			{"unused", offTailUnused, 8}, {"digest", offDigest, 32},
		},
		"Frame": {{"domain", 0, 16}, {"disk", 16, 16}, {"chunk", 32, 4}, {"mask", 36, 2}, {"seq", 38, aadSize - 38}},
	} {
		_, rest, ok := strings.Cut(doc, "\n## "+section+"\n")
		if !ok {
			t.Fatalf("no section %q", section)
		}
		rest, _, _ = strings.Cut(rest, "\n## ")
		var got []field
		end := 0
		for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| ([a-z ]+) \|`).FindAllStringSubmatch(rest, -1) {
			off, _ := strconv.Atoi(m[1])
			size, _ := strconv.Atoi(m[2])
			if off != end {
				t.Errorf("%s: %q begins at %d, the field before ends at %d", section, m[3], off, end)
			}
			end = off + size
			got = append(got, field{m[3], off, size})
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n the document says %v\n the code says     %v", section, got, want)
		}
	}
	for name, value := range map[string]int{
		"MaxObjectSize": MaxObjectSize, "MaxFooter": MaxFooter, "MaxBlob": MaxBlob, "MaxOrigins": MaxOrigins, "MaxFrames": MaxFrames, "MaxBlocks": MaxBlocks,
		"MaxZeros": MaxZeros, "MaxDisks": MaxDisks, "MaxMissing": MaxMissing, "MaxTag": MaxTag, "MaxChunks": MaxChunks,
		"HeaderSize": HeaderSize, "TailSize": TailSize, "Overhead": Overhead, "FormatVersion": FormatVersion,
	} {
		if row := "| " + name + " | " + strconv.Itoa(value) + " |"; !strings.Contains(doc, row) {
			t.Errorf("the document lacks the row %q", row)
		}
	}
	for k := Journal; k <= Blob; k++ {
		if row := "| " + strconv.Itoa(int(k)) + " | " + k.String() + " |"; !strings.Contains(doc, row) {
			t.Errorf("the document lacks the row %q", row)
		}
	}
	for _, word := range []string{infoObject, infoCheck, infoBlocks, strconv.Itoa(counterFooter), strconv.Itoa(counterBlob)} {
		if !strings.Contains(doc, word) {
			t.Errorf("the document lacks %q", word)
		}
	}
}

func TestEmptyInputIsNoPanic(t *testing.T) {
	if _, err := ParseHeader(nil); !errs.Is(err, errs.Corrupt) {
		t.Fatal(err)
	}
	if _, _, _, err := ParseTail(nil); !errs.Is(err, errs.Corrupt) {
		t.Fatal(err)
	}
	if _, err := OpenFooter(testKey, Header{}, nil, nil); !errs.Is(err, errs.Corrupt) {
		t.Fatal(err)
	}
}
