package talk

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRequests(t *testing.T) {
	for line, want := range map[string]Request{
		"PUT 1 0":        {Verb: Put, N: 1, Bytes: DefaultBytes},
		"PUT 12 7 0":     {Verb: Put, N: 12, Cause: 7},
		"PUT 12 7 16384": {Verb: Put, N: 12, Cause: 7, Bytes: 16384},
		"STATUS":         {Verb: Status},
		"SYNC":           {Verb: Sync},
		"POWEROFF":       {Verb: PowerOff},
	} {
		got, err := ParseRequest(line)
		if err != nil || got != want {
			t.Errorf("ParseRequest(%q) = %+v, %v, want %+v", line, got, err, want)
		}
		if got.String() != line {
			t.Errorf("%+v renders as %q, want %q", got, got.String(), line)
		}
	}
	for _, line := range []string{"", "PUT", "PUT 1", "PUT 1 2 3 4", "PUT 01 2", "PUT -1 2", "PUT 1  2", "put 1 2",
		"PUT 1 2 99999999999", "PUT 99999999999999999999 1", "STATUS now", " STATUS", "UT 1 2", "PUT +1 2"} {
		if got, err := ParseRequest(line); err == nil {
			t.Errorf("ParseRequest(%q) = %+v, want an error", line, got)
		}
	}
}

func TestReplies(t *testing.T) {
	for line, want := range map[string]Reply{
		"VERIFY max=3 bad=1 cause=2": {Word: Verified, N: 3, Bad: 1, Cause: 2},
		"READY":                      {Word: Ready},
		"COMMIT 9":                   {Word: Commit, N: 9},
		"STATUS max=3 cause=2":       {Word: State, N: 3, Cause: 2},
		"SYNCED":                     {Word: Synced},
		"BYE":                        {Word: Bye},
		"ERR no room":                {Word: Err, Text: "no room"},
		"FATAL no disk":              {Word: Fatal, Text: "no disk"},
	} {
		got, ok := ParseReply(line)
		if !ok || got != want || got.String() != line {
			t.Errorf("ParseReply(%q) = %+v, %v, want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "COMMIT", "COMMIT ", "COMMIT x", "COMMIT 1 2", "COMMIT 1x", "xCOMMIT 1", "COMMIT 01",
		"READY ", "VERIFY max=1 bad=0", "VERIFY bad=0 max=1 cause=0", "VERIFY max=1 bad=-1 cause=0", "ERR", "ERR ", "ERR a\x1bb",
		"[    3.1] COMMIT 1", "GRUB loading..", "STATUS"} {
		if got, ok := ParseReply(line); ok {
			t.Errorf("ParseReply(%q) = %+v, want noise", line, got)
		}
	}
}

func TestReplyTextIsOneLine(t *testing.T) {
	r := Reply{Word: Fatal, Text: strings.Repeat("lost\nall ", 100)}
	if s := r.String(); len(s) > MaxLine || strings.ContainsAny(s, "\r\n") {
		t.Errorf("%d bytes: %q", len(s), s)
	}
	if _, ok := ParseReply(r.String()); !ok {
		t.Error("it is not read back")
	}
}

// TestLines feeds what serial lines carry, one byte at a time.
func TestLines(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	in := "half a li\n\n\r\nREADY\r\r\n" + long + "\n" + long + "y\n" + strings.Repeat("COMMIT 1 ", 10000) + "\nCOMMIT 2\nCOMMIT 3"
	l := NewLines(iotest.OneByteReader(strings.NewReader(in)))
	for _, want := range []string{"half a li", "READY", long, "COMMIT 2"} {
		if got, err := l.Next(); err != nil || got != want {
			t.Fatalf("line %.20q, %v, want %.20q", got, err, want)
		}
	}
	if got, err := l.Next(); !errors.Is(err, io.EOF) { // a line without its end is none
		t.Errorf("then %q, %v, want the end", got, err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("PUT 1 0 16384")
	f.Add("STATUS")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseRequest(line)
		if err == nil && r.String() != line {
			t.Errorf("%q was read as %+v, which is %q", line, r, r)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add("VERIFY max=3 bad=0 cause=2")
	f.Add("ERR why")
	f.Add("COMMIT 18446744073709551615")
	f.Fuzz(func(t *testing.T, line string) {
		r, ok := ParseReply(line)
		if ok && r.String() != line {
			t.Errorf("%q was read as %+v, which is %q", line, r, r)
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add("a\r\n\n" + strings.Repeat("b", 300) + "\nc\n")
	f.Fuzz(func(t *testing.T, in string) {
		l := NewLines(strings.NewReader(in))
		for {
			line, err := l.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				return
			}
			if line == "" || len(line) > MaxLine || strings.Contains(line, "\n") || !strings.Contains(in, line) {
				t.Fatalf("%q is not a line of the input", line)
			}
		}
	})
}
