//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExt4Label(t *testing.T) {
	part := make([]byte, 4096)
	copy(part[1024+0x38:], "\x53\xef")
	copy(part[1024+0x78:], rootLabel)
	foreign := append([]byte(nil), part...)
	foreign[1024+0x38] = 0
	full := append([]byte(nil), part...)
	copy(full[1024+0x78:], "sixteen-letters!more")
	for name, c := range map[string]struct {
		content []byte
		label   string
		ok      bool
	}{
		"ours": {part, rootLabel, true}, "all letters": {full, "sixteen-letters!", true},
		"not ext4": {foreign, "", false}, "short": {part[:1500], "", false}, "empty": {nil, "", false},
	} {
		path := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if label, err := ext4Label(path); label != c.label || (err == nil) != c.ok {
			t.Errorf("%s: %q, %v, want %q", name, label, err, c.label)
		}
	}
}
