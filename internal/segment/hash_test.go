package segment

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"holdfast/internal/dr"
)

// TestHashKey: the derived key hashes as the data key does, differs from it,
// and is not printed.
func TestHashKey(t *testing.T) {
	key := NewDataKey()
	h := HashKeyOf(key)
	if DataKey(h) == key || HashKeyOf(NewDataKey()) == h {
		t.Fatal("the hash key is not derived from its data key alone")
	}
	block := make([]byte, dr.BlockSize)
	block[7] = 1
	if h.Hasher().Sum(block) != NewBlockHasher(key).Sum(block) || h.Hasher().Sum(block) == HashKeyOf(NewDataKey()).Hasher().Sum(block) {
		t.Fatal("another hash")
	}
	j, err := json.Marshal(map[string]any{"key": h})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", h)
	secret := fmt.Sprintf("%x", h[:])
	for _, s := range []string{fmt.Sprint(h), fmt.Sprintf("%x", h), fmt.Sprintf("%#v", h), string(j), b.String()} {
		if !strings.Contains(s, redacted) || strings.Contains(s, secret) {
			t.Errorf("printed: %s", s)
		}
	}
}
