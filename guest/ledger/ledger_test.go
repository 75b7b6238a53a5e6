//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"

	"holdfast/internal/demo/ledger/chain"
	"holdfast/internal/demo/ledger/talk"
)

func TestObey(t *testing.T) {
	l, _, err := chain.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct{ line, want string }{
		{"PUT 1 5", "COMMIT 1"},
		{"PUT 2 3 0", "COMMIT 2"},
		{"STATUS", "STATUS max=2 cause=5"},
		{"SYNC", "SYNCED"},
		{"POWEROFF", "BYE"},
	} {
		if got := obey(t.Context(), l, c.line).String(); got != c.want {
			t.Errorf("%q: %q, want %q", c.line, got, c.want)
		}
	}
	for _, line := range []string{"PUT 2 0", "PUT 4 0", "PUT 3 0 999999", "UT 3 0", "\x00", "STATUS?"} {
		if got := obey(t.Context(), l, line); got.Word != talk.Err || got.Text == "" {
			t.Errorf("%q: %q, want a refusal", line, got)
		}
	}
	if l.Max() != 2 {
		t.Errorf("refused lines left the ledger at row %d", l.Max())
	}
}

func TestAwaitPower(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize)
		binary.LittleEndian.PutUint16(b[16:], kind)
		binary.LittleEndian.PutUint16(b[18:], code)
		binary.LittleEndian.PutUint32(b[20:], value)
		return b
	}
	others := bytes.Join([][]byte{event(0, 0, 0), event(typeKey, 30, 1), event(typeKey, keyPower, 0)}, nil)
	if awaitPower(bytes.NewReader(others)) {
		t.Error("other keys, and the power key's release, were taken for its press")
	}
	if !awaitPower(bytes.NewReader(append(others, event(typeKey, keyPower, 1)...))) {
		t.Error("the power key's press was missed")
	}
}
