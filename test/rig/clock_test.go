package rig

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary serve as a process that tells the time.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "tell-the-time" {
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			fmt.Println(time.Now().Unix(), time.Since(began) < time.Hour)
		}
	}
	os.Exit(m.Run())
}

// The wall clock jumps, there and back, for one process, and its monotonic
// clock goes on.
func TestClockOfOneProcess(t *testing.T) {
	p, err := StartOnClock(t.TempDir(), "clock", func(p *Process) { t.Errorf("%v: %s", p.Err, Tail(p.Log)) }, "tell-the-time")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	for _, ahead := range []time.Duration{0, 30 * 24 * time.Hour, -2 * time.Hour, 0} {
		if err := p.SetClock(ahead); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(2 * time.Minute)
		for {
			lines := strings.Split(Tail(p.Log), "\n")
			var told int64
			var steady bool
			_, err := fmt.Sscan(lines[len(lines)-1], &told, &steady)
			off := time.Until(time.Unix(told, 0)) - ahead
			if err == nil && steady && off.Abs() < 5*time.Second {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("ahead by %v it says %q", ahead, lines[len(lines)-1])
			}
			<-time.After(time.Millisecond)
		}
	}
}
