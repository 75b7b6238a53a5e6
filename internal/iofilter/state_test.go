package iofilter

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// tables renders the tables of docs/operate/states.md.
func tables() (states, causes string) {
	var s, c strings.Builder
	fmt.Fprint(&s, "| state | meaning | new recovery points | what to do |\n|---|---|---|---|\n")
	for _, i := range States() {
		fmt.Fprintf(&s, "| `%s` | %s | %s | %s |\n", i.State, i.Meaning, i.Points, i.Remedy)
	}
	fmt.Fprint(&c, "| cause | state | what to do |\n|---|---|---|\n")
	for _, i := range Causes() {
		fmt.Fprintf(&c, "| %s | `%s` | %s |\n", i.Cause, i.State, i.Remedy)
	}
	return s.String(), c.String()
}

// TestStatesAreDocumented keeps the document equal to the tables of the code.
func TestStatesAreDocumented(t *testing.T) {
	const path = "../../docs/operate/states.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	states, causes := tables()
	for mark, want := range map[string]string{"<!-- states -->\n": states, "<!-- causes -->\n": causes} {
		_, rest, ok := strings.Cut(string(b), mark)
		got, _, end := strings.Cut(rest, "<!-- end -->")
		if !ok || !end || got != want {
			t.Errorf("%s does not say between %s and its end:\n%s", path, strings.TrimSpace(mark), want)
		}
	}
}

// TestTablesAreWhole: each state has all its words, each cause a state that is
// one, and no two share a rank or a name.
func TestTablesAreWhole(t *testing.T) {
	seen := map[State]bool{}
	for _, s := range States() {
		if s.Meaning == "" || s.Points == "" || s.Remedy == "" || seen[s.State] {
			t.Errorf("state %+v", s)
		}
		seen[s.State] = true
		if RemedyOf(s.State) != s.Remedy {
			t.Errorf("remedy of %s", s.State)
		}
	}
	words := map[string]bool{}
	for _, c := range Causes() {
		if !seen[c.State] || c.Remedy == "" || words[c.Cause] {
			t.Errorf("cause %+v", c)
		}
		words[c.Cause] = true
	}
	if RemedyOf("none") != "" || rank("none") != -1 {
		t.Error("a word that is no state has a remedy or a rank")
	}
}

// story renders events for comparison.
func story(events []Event) (out []string) {
	for _, e := range events {
		about := "host"
		if e.DiskName != "" {
			about = e.DiskName
		}
		out = append(out, fmt.Sprintf("%s %s: %s", about, e.To, e.Cause))
	}
	return out
}

// TestEveryChangeIsAnEvent follows a host through its life.
func TestEveryChangeIsAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20, 1<<20)
		r.o.disks[1].info.Name, r.o.disks[1].attachable = "other", true
		r.synced()
		defer r.end()
		leave := r.o.disks[1].enter()
		r.drva.with(func() { r.drva.down = true })
		r.drva.cutLink()
		synctest.Wait()
		r.must(r.write(0, 0, fill(1, 4096)))
		for i := range 5 { // fills the stream
			r.write(0, 0, fill(byte(i), 1<<20))
		}
		synctest.Wait()
		r.drva.with(func() { r.drva.down = false })
		r.settle(time.Minute)
		r.o.pause(Target{Disks: []dr.DiskID{r.o.disks[1].info.ID}})
		r.must(r.write(1, 0, fill(1, 4096)))
		r.o.resume(Target{})
		r.settle(time.Minute)
		r.o.forceSync(Target{Disks: []dr.DiskID{r.o.disks[1].info.ID}}, false)
		r.settle(time.Minute)
		leave()
		l := r.o.eventsSince(0)
		got := story(l.Events)
		want := []string{
			"host tracking: " + causeStarting, "disk syncing: " + causeFirst, "other syncing: " + causeFirst,
			"host streaming: ", "disk streaming: ", "other not-active: " + causeNoClient,
			"other streaming: ",
			"host disconnected: " + causeNoLink, "host tracking: " + causeCutOff,
			"host streaming: ", "disk resync: " + causeChanged, "disk streaming: ",
			"other paused-user: " + causePaused, "other resync: " + causeChanged, "other streaming: ",
			"other resync: " + causeForced, "other streaming: ", "other not-active: " + causeNoClient,
		}
		if !slices.Equal(got, want) {
			t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for i, e := range l.Events {
			if e.Number != uint64(i+1) || e.Time.IsZero() || e.To == Tracking && e.Cause == causeCutOff && e.DirtyBytes != 0 {
				t.Errorf("event %+v", e)
			}
		}
		if l.Lost != 0 || l.Next != uint64(len(want)+1) {
			t.Errorf("lost %d, next %d", l.Lost, l.Next)
		}
	})
}

// TestEventsAreBounded: old ones go, and whoever asks for them hears how many.
func TestEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20)
		for i := range 3 * maxEvents {
			r.o.mu.Lock()
			r.o.tellLocked(Event{To: Streaming, DirtyBytes: int64(i)})
			r.o.mu.Unlock()
		}
		l := r.o.eventsSince(11)
		if len(l.Events) != maxEvents || l.Lost != 2*maxEvents-10 || l.Next != 3*maxEvents+1 {
			t.Fatalf("%d events, lost %d, next %d", len(l.Events), l.Lost, l.Next)
		}
		for i, e := range l.Events {
			if e.Number != uint64(2*maxEvents+i+1) || e.DirtyBytes != int64(e.Number-1) {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
		if l := r.o.eventsSince(l.Next); len(l.Events) != 0 || l.Lost != 0 || l.Next != 3*maxEvents+1 {
			t.Fatalf("nothing new: %+v", l)
		}
	})
}

// TestPause: a paused disk's writes do not enter the stream and are not lost;
// the others go on, and rounds are confirmed, because the DRVA knows.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Sync, 1<<20, 1<<20).synced()
		defer r.end()
		before := r.o.disks[1].info.ID
		r.o.pause(Target{Disks: []dr.DiskID{before}})
		next := r.o.str.Next()
		r.must(r.write(1, 5<<16, fill(1, 4096)))
		if r.o.str.Next() != next || r.drva.count(record.TrackBegin, 1) != 2 {
			t.Fatal("the write entered the stream, or the DRVA was not told")
		}
		r.must(r.write(0, 0, fill(2, 4096)))
		if !r.drva.round(wire.TypeMark, 5) {
			t.Fatal("no link")
		}
		if c := <-r.drva.confirms; !c.OK {
			t.Fatalf("round refused: %v", c.Reason)
		}
		if s := r.status(); s.Disks[1].State != PausedUser || s.Disks[0].State != Streaming || s.State != PausedUser || s.Remedy == "" {
			t.Fatalf("status %+v", s)
		}
		r.drva.crash() // the pause outlives connections
		time.Sleep(time.Second)
		r.must(r.write(1, 6<<16, fill(3, 4096)))
		copied := r.status().Stream.SyncBytes
		r.o.resume(Target{})
		r.settle(time.Minute)
		r.sameImages()
		if n := r.status().Stream.SyncBytes - copied; n != 2<<16 {
			t.Errorf("%d bytes were copied for two chunks", n)
		}
	})
}

// TestPausedHostPausesWhatComes: also a disk that joins later.
func TestPausedHostPausesWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20).synced()
		defer r.end()
		r.o.pause(Target{})
		d := r.join(1 << 20)
		time.Sleep(time.Second)
		r.must(r.on(d, nbd.Write, 0, 4096, fill(1, 4096)))
		if s := r.status(); s.Disks[1].State != PausedUser || s.Stream.Trackings != 0 {
			t.Fatalf("status %+v", s)
		}
		r.o.resume(Target{})
		r.settle(time.Minute)
		r.sameImages()
	})
}

// TestForcedSync sends all of a disk again, once.
func TestForcedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dr.Async, 1<<20, 1<<20).synced()
		defer r.end()
		copied := r.status().Stream.SyncBytes
		r.o.forceSync(Target{Disks: []dr.DiskID{r.o.disks[1].info.ID}}, false)
		r.settle(time.Minute)
		if n := r.status().Stream.SyncBytes - copied; n != 1<<20 {
			t.Errorf("%d bytes were copied", n)
		}
		if n := r.drva.count(record.SyncEnd, 1); n != 2 {
			t.Errorf("%d SyncEnds", n)
		}
	})
}
