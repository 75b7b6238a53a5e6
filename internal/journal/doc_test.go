package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

const formatDoc = "../../docs/format/journal.md"

func readDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(formatDoc)
	check(t, err)
	return string(b)
}

// TestDocNamesWhatTheCodeWrites compares the format document with the
// constants and types it speaks of.
func TestDocNamesWhatTheCodeWrites(t *testing.T) {
	doc := readDoc(t)
	var want []string
	want = append(want, "`"+keyDomain+"`", "`"+prefixKeys+"<data key>/<recipient>`", "`"+prefixKeys+"<data key>/"+completeName+"`", "`"+prefixTime+"<timeline>/"+headName+"`",
		"`"+prefixTime+"<timeline>"+dirEpoch+"<epoch>`", "`"+prefixTime+"<timeline>"+dirJournal+"<number>`",
		"`"+prefixMeta+"<vm>/<seq>`", "`"+prefixMeta+"<vm>/"+dirBoot+"<seq>`", "`"+prefixTime+"<timeline>"+dirManifest+"<generation>`", "`"+prefixTime+"<timeline>/"+droppedName+"`",
		"`"+prefixIndex+"<uuid>`", "`"+prefixData+"<uuid>`", "`"+prefixPin+"<uuid>`", "`"+prefixPin+"<uuid>"+pinOff+"`", "`"+prefixProbe+"<uuid>/`",
		fmt.Sprintf("`incompat` %d:", incompatHistory), fmt.Sprintf("At least %d numbers", KeepNumbers), fmt.Sprintf("at most %d timelines deep", maxDepth),
		fmt.Sprintf("At most %d objects and as many tombstones, %d checkpoints, %d runs, %d parts", maxManifestObjects, maxPoints, maxRuns, maxParts),
		fmt.Sprintf("| version | u, %d |", manifestVersion),
		"`"+strings.TrimSuffix(magicDomain, "\n")+"`", "`"+strings.TrimSuffix(magicWrap, "\n")+"`", "`"+digestPrefix+"`",
		"`"+cipherName+"`", "`"+blockHashName+"`", fmt.Sprintf("| `block_size` | %d |", dr.BlockSize), fmt.Sprintf("| `chunk_size` | %d |", dr.ChunkSize),
		fmt.Sprintf("| `window` | %d: W", Window), fmt.Sprintf("`%s`, `%s` or `%s`", Passphrase, RecoveryKey, KeyService),
		fmt.Sprintf("`salt` (%d bytes), `nonce` (%d bytes), `sealed` (%d bytes)", saltSize, nonceSize, wrapPlainSize+16),
		fmt.Sprintf("%d MiB, %d passes and %d thread", argonMemory>>10, argonTime, argonThreads),
		fmt.Sprintf("%d MiB, %d passes or %d threads", maxArgonMemory>>10, maxArgonTime, maxArgonThreads),
		fmt.Sprintf("%d wrapped keys of one data key", maxWraps), fmt.Sprintf("at most %d salts", maxPassphraseRuns),
		fmt.Sprintf("no more than %d generations", maxGenerations), fmt.Sprintf("no more than %d objects below", maxKeyObjects), "`"+infoCommit+"`", "`"+infoEndorse+"`", "`"+infoWrapMAC+"`",
		fmt.Sprintf("kind %d", segment.Fence), fmt.Sprintf("less than %.0f minutes", EpochCheckAge.Minutes()),
		fmt.Sprintf("continues at n+%d", Window), fmt.Sprintf("n+1 to n+%d behind", Window-1))
	for _, v := range []any{Domain{}, Format{}, wrap{}, argonParams{}, kmsWrap{}, endorsement{}, statement{}, statedWrap{}, earlierKey{}, head{}, branch{}, claim{}, storedVM{}, storedTrace{}, dropped{}, released{}} {
		for f := range fields(reflect.TypeOf(v)) {
			want = append(want, "`"+f+"`")
		}
	}
	for _, w := range want {
		if !strings.Contains(doc, w) {
			t.Errorf("%s does not say %s", formatDoc, w)
		}
	}
}

func fields(typ reflect.Type) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !yield(name) {
				return
			}
		}
	}
}

// TestStoreHoldsOnlyDocumentedNames makes every kind of object and looks at
// the names and fields that are really in the store.
func TestStoreHoldsOnlyDocumentedNames(t *testing.T) {
	st, _ := smallHistory(t, seeded(t))
	seen := make(map[string]bool)
	for _, in := range keysOf(t, st) {
		form := in.Key
		for part := range strings.SplitSeq(in.Key, "/") {
			if _, err := dr.ParseUUID(part); err == nil {
				form = strings.Replace(form, part, "*", 1)
			}
		}
		switch parts := strings.Split(form, "/"); {
		case parts[0] == "meta", len(parts) == 4:
			form = strings.Join(parts[:len(parts)-1], "/") + "/#" + fmt.Sprint(len(parts[len(parts)-1]))
		}
		seen[form] = true
	}
	for _, want := range []string{"domain", "keys/*/*", "t/*/head", "t/*/epoch/#8", "t/*/j/#16", "meta/*/#16"} {
		if !seen[want] {
			t.Errorf("no object of the form %s; there are %v", want, seen)
		}
		delete(seen, want)
	}
	if len(seen) != 0 {
		t.Errorf("names that are not documented: %v", seen)
	}
}

func TestDocumentsArePlainText(t *testing.T) {
	st := mem.New()
	newTestContainer(t, st)
	body := must[[]byte](t)(readDocument(t.Context(), st, keyDomain))
	lines := strings.Split(string(body), "\n")
	if lines[0] != "holdfast container" || !strings.HasPrefix(lines[len(lines)-2], "sha256:") || lines[len(lines)-1] != "" {
		t.Fatalf("%q", body)
	}
	var v map[string]any
	check(t, json.Unmarshal([]byte(strings.Join(lines[1:len(lines)-2], "\n")), &v))
}
