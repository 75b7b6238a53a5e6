package ledger

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/errs"
)

// scripted is the far end of a console: it boots, and answers each request as
// reply says; "" is silence.
type scripted struct {
	conn  net.Conn
	asked []talk.Request // complete once the line has ended and the bubble is idle
}

// guest returns a console on an in-memory line to a guest that says hello and
// then obeys reply.
func guest(t *testing.T, hello string, reply func(talk.Request) string) (*Console, *scripted) {
	t.Helper()
	ours, theirs := net.Pipe()
	c, g := NewConsole(ours), &scripted{conn: theirs}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.WriteString(theirs, hello)
		lines := talk.NewLines(theirs)
		for {
			line, err := lines.Next()
			if err != nil {
				return
			}
			req, err := talk.ParseRequest(line)
			if err != nil {
				panic(fmt.Sprintf("console sent %q", line))
			}
			g.asked = append(g.asked, req)
			if r := reply(req); r != "" {
				io.WriteString(theirs, "\n"+r+"\n")
			}
		}
	}()
	t.Cleanup(func() { c.Close(); theirs.Close(); <-ended })
	return c, g
}

const hello = "SeaBIOS\r\nCOMMIT 99\nVERIFY max=3 bad=0 cause=2\nREADY\n"

// obedient is a guest with a ledger of max rows.
func obedient(max uint64) func(talk.Request) string {
	var cause uint64
	return func(r talk.Request) string {
		switch {
		case r.Verb == talk.Put && r.N == max+1:
			max, cause = r.N, r.Cause
			return talk.Reply{Word: talk.Commit, N: max}.String()
		case r.Verb == talk.Status:
			return talk.Reply{Word: talk.State, N: max, Cause: cause}.String()
		case r.Verb == talk.Sync:
			return "SYNCED"
		case r.Verb == talk.PowerOff:
			return "BYE"
		}
		return "ERR not the next row"
	}
}

func TestConsole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c, _ := guest(t, hello, obedient(3))
		boot, err := c.WaitReady(ctx)
		if err != nil || boot.Max != 3 || boot.Bad != 0 || boot.Cause != 2 {
			t.Fatalf("WaitReady = %+v, %v", boot, err)
		}
		if got := c.Acked(); got != 3 { // a COMMIT before VERIFY is noise
			t.Errorf("acked %d after boot, want 3", got)
		}
		if err := c.Put(ctx, 4, 7, talk.DefaultBytes); err != nil {
			t.Fatal(err)
		}
		if got := c.Acked(); got != 4 {
			t.Errorf("acked %d after row 4", got)
		}
		if err := c.Put(ctx, 9, 0, 1); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "not the next row") {
			t.Errorf("Put out of turn: %v, want the guest's refusal", err)
		}
		if highest, cause, err := c.Status(ctx); highest != 4 || cause != 7 || err != nil {
			t.Errorf("Status = %d, %d, %v, want 4, 7", highest, cause, err)
		}
		if err := c.Sync(ctx); err != nil {
			t.Error(err)
		}
		if err := c.PowerOff(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestConsoleKeepsBootProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := strings.Repeat("ERR row lost\n", 3*maxProblems)
		c, _ := guest(t, "VERIFY max=3 bad=9 cause=0\n"+many+"READY\n", obedient(3))
		boot, err := c.WaitReady(t.Context())
		if err != nil || boot.Bad != 9 || len(boot.Problems) != maxProblems || boot.Problems[0] != "row lost" {
			t.Errorf("WaitReady = %+v, %v", boot, err)
		}
	})
}

// TestConsoleGivenUp gives up a Put whose answer comes late: the next command
// must get its own answer, and the late COMMIT must count.
func TestConsoleGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan struct{})
		inner := obedient(3)
		c, _ := guest(t, hello, func(r talk.Request) string {
			if r.Verb == talk.Put {
				<-held
			}
			return inner(r)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Put(ctx, 4, 0, 1); !errs.Is(err, errs.Canceled) {
			t.Fatalf("Put: %v, want kind canceled", err)
		}
		if got := c.Acked(); got != 3 {
			t.Fatalf("acked %d before the guest said so", got)
		}
		close(held)
		if highest, _, err := c.Status(t.Context()); highest != 4 || err != nil {
			t.Errorf("Status after a Put given up = %d, %v, want 4", highest, err)
		}
		if got := c.Acked(); got != 4 {
			t.Errorf("acked %d, want 4", got)
		}
	})
}

func TestConsoleStopsAskingTheSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, g := guest(t, hello, func(talk.Request) string { return "" })
		for i := range maxOwed + 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := c.Sync(ctx)
			cancel()
			want := errs.Canceled
			if i >= maxOwed {
				want = errs.Unavailable
			}
			if !errs.Is(err, want) {
				t.Errorf("Sync %d: %v, want kind %v", i, err, want)
			}
		}
		synctest.Wait()
		if len(g.asked) != maxOwed {
			t.Errorf("%d requests were sent, want %d", len(g.asked), maxOwed)
		}
	})
}

func TestConsoleDies(t *testing.T) {
	for name, c := range map[string]struct {
		hello, reply, want string
	}{
		"before ready":      {"VERIFY max=1 bad=0 cause=0\nFATAL no disk\n", "", "no disk"},
		"boots again":       {hello, "VERIFY max=3 bad=0 cause=2", "booted again"},
		"gives up":          {hello, "FATAL out of memory", "out of memory"},
		"speaks unasked":    {hello, strings.Repeat("SYNCED\n", maxOwed+3), "nobody asked"},
		"answers otherwise": {hello, "COMMIT 5", "something else"},
		"another's row":     {hello, "SYNCED", "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				con, _ := guest(t, c.hello, func(talk.Request) string { return c.reply })
				err := con.Put(t.Context(), 4, 0, 1)
				if name == "speaks unasked" { // the first was taken for an answer
					<-con.Dead()
					err = con.err
				}
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Put: %v, want an error with %q", err, c.want)
				}
			})
		})
	}
}

func TestConsoleHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, g := guest(t, "VERIFY max=1 bad=0 cause=0\n", obedient(1))
		go func() {
			time.Sleep(time.Minute) // virtual
			g.conn.Close()
		}()
		if _, err := c.WaitReady(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("WaitReady on a line that ends: %v, want kind unavailable", err)
		}
		if err := c.Sync(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("Sync on a line that ended: %v, want kind unavailable", err)
		}
	})
}

// TestDriver runs the lock-step against guests of changing speed, and checks
// at every request that the promise of the pair holds.
func TestDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var max [2]uint64
		side := func(i int, start uint64) func(talk.Request) string {
			max[i] = start
			inner := obedient(start)
			return func(r talk.Request) string {
				time.Sleep(time.Duration(1+(r.N*uint64(7+i))%13) * time.Millisecond) // virtual
				answer := inner(r)
				if r.Verb == talk.Put {
					max[i] = r.N
					if want := r.N - uint64(1-i); r.Cause != want {
						t.Errorf("guest %d: row %d has cause %d, want %d", i, r.N, r.Cause, want)
					}
					if max[0] < max[1] || max[0] > max[1]+1 {
						t.Errorf("guests are at rows %v", max)
					}
				}
				return answer
			}
		}
		// The leader starts one ahead: the follower must catch up first.
		leader, _ := guest(t, "VERIFY max=6 bad=0 cause=5\nREADY\n", side(0, 6))
		follower, _ := guest(t, "VERIFY max=5 bad=0 cause=5\nREADY\n", side(1, 5))
		d := NewDriver(leader, follower, 100)
		for _, c := range []*Console{leader, follower} { // Acked says nothing before
			if _, err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() {
			for ctx.Err() == nil {
				if a, b := d.Acked(); a < b || a > b+2 { // the leader may move between the two reads
					t.Errorf("acked %d and %d", a, b)
				}
				time.Sleep(time.Millisecond) // virtual
			}
		}()
		if err := d.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
		if a, b := d.Acked(); b < 100 || a < b {
			t.Errorf("only rows %d and %d in ten seconds", a, b)
		}
	})
}

func TestDriverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boot := "VERIFY max=%d bad=0 cause=0\nREADY\n"
		leader, g := guest(t, fmt.Sprintf(boot, 2), obedient(2))
		ahead, _ := guest(t, fmt.Sprintf(boot, 3), obedient(3))
		if err := NewDriver(leader, ahead, 1).Run(t.Context()); !errs.Is(err, errs.Corrupt) {
			t.Errorf("Run of a pair out of step: %v, want kind corrupt", err)
		}
		inner := obedient(2)
		follower, _ := guest(t, fmt.Sprintf(boot, 2), func(r talk.Request) string {
			if r.N == 5 {
				g.conn.Close()
			}
			return inner(r)
		})
		if err := NewDriver(leader, follower, 1).Run(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("Run with a dying leader: %v, want kind unavailable", err)
		}
	})
}

func TestCheckPair(t *testing.T) {
	sound := func(max, cause uint64) Report { return Report{Max: max, Cause: cause} }
	bad := Report{Max: 5, Cause: 5, Bad: 1}
	for name, c := range map[string]struct {
		leader, follower Report
		ok               bool
	}{
		"empty":            {sound(0, 0), sound(0, 0), true},
		"level":            {sound(5, 4), sound(5, 5), true},
		"one ahead":        {sound(6, 5), sound(5, 5), true},
		"two ahead":        {sound(7, 6), sound(5, 5), false},
		"behind":           {sound(4, 3), sound(5, 5), false},
		"two ahead, mute":  {sound(7, 4), sound(5, 5), false}, // each rule by itself
		"behind, mute":     {sound(4, 3), sound(5, 4), false},
		"effect uncaused":  {sound(5, 4), sound(5, 6), false},
		"cause from ahead": {sound(6, 6), sound(5, 5), false},
		"bad leader":       {bad, sound(5, 5), false},
		"bad follower":     {sound(5, 4), bad, false},
	} {
		err := CheckPair(c.leader, c.follower)
		if (err == nil) != c.ok || (err != nil && !errs.Is(err, errs.Corrupt)) {
			t.Errorf("%s: %v, want sound: %v", name, err, c.ok)
		}
	}
}
