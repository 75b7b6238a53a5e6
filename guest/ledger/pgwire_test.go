//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"net"
	"strings"
	"testing"
)

// message is one of the server's.
func message(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
}

// server answers whatever it is asked with words, and then hangs up.
func server(words string) *pgConn {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Write([]byte(words)) // it may be refused half-way
		theirs.Close()
	}()
	return &pgConn{ours, bufio.NewReader(ours)}
}

func TestAnswers(t *testing.T) {
	row := "\x00\x02" + "\x00\x00\x00\x02ab" + "\xff\xff\xff\xff"
	rows, err := server(message('R', "\x00\x00\x00\x00") + message('D', row) + message('C', "SELECT 1\x00") + message('Z', "I")).answer()
	if err != nil || len(rows) != 1 || string(rows[0][0]) != "ab" || rows[0][1] != nil {
		t.Errorf("%q, %v", rows, err)
	}
	if _, err := server(message('E', "SERROR\x00Mduplicate key\x00\x00") + message('Z', "I")).answer(); err == nil || !strings.Contains(err.Error(), "duplicate key") {
		t.Errorf("an error became %v", err)
	}
	for name, words := range map[string]string{
		"a password is wanted": message('R', "\x00\x00\x00\x05salt"), "it hangs up": message('D', row), "no length": "Z\x00\x00\x00\x00",
		"too long": "D\x7f\xff\xff\xff", "a row that ends": message('D', "\x00\x02\x00\x00\x00\x09ab") + message('Z', "I"), "nothing": "",
	} {
		if rows, err := server(words).answer(); err == nil {
			t.Errorf("%s: %q", name, rows)
		}
	}
}

func FuzzRow(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x00\x00\x02ab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		row, err := pgRow(b)
		n := 0
		for _, c := range row {
			n += len(c)
		}
		if err == nil && n > len(b) {
			t.Errorf("%d bytes became %d", len(b), n)
		}
	})
}

// TestLink: each number, the payload and the row before are in a row's hash.
func TestLink(t *testing.T) {
	var zero [32]byte
	base := link(zero, 1, 2, 3, []byte("p"))
	for name, other := range map[string][32]byte{
		"row before": link(base, 1, 2, 3, []byte("p")), "n": link(zero, 2, 2, 3, []byte("p")), "cause": link(zero, 1, 3, 3, []byte("p")),
		"size": link(zero, 1, 2, 4, []byte("p")), "payload": link(zero, 1, 2, 3, []byte("q")),
	} {
		if other == base {
			t.Errorf("%s is not in the hash", name)
		}
	}
}
