package recover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/recovery"
	"holdfast/test/rig"
)

// long asks for every kill there is: make recover-long.
func long() bool { return os.Getenv("HOLDFAST_RECOVER_LONG") != "" }

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HOLDFAST_RECOVER_SEED"); s != "" {
		_, err := fmt.Sscan(s, &seed)
		must(t, err)
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 9))
}

// light is a site that has died: what its guest was told is known block by block,
// and recovered VMs are real ones that find nothing to boot, so that they run,
// and change nothing.
type light struct {
	*counted
	rng     *rand.Rand
	samples []sample
}

// newLight protects, writes, and loses the site.
func newLight(t *testing.T) *light {
	t.Helper()
	l := &light{counted: newCounted(t), rng: seeded(t)}
	stop := make(chan struct{})
	var sampled sync.WaitGroup
	sampled.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			acked := l.load.Acked() // before the time: later it may be more
			l.samples = append(l.samples, sample{time.Now(), acked})
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	l.protected()
	l.protected()
	close(stop)
	sampled.Wait()
	l.kill()
	l.stop()
	return l
}

// promised is what had been acknowledged before t.
func promised(samples []sample, t time.Time) (acked []uint64) {
	for _, v := range samples {
		if v.at.Before(t) {
			acked = v.acked
		}
	}
	return acked
}

// judgeDisk demands of a recovered disk all that was acknowledged before its point.
func (l *light) judgeDisk(rec *recovery.Record) {
	l.t.Helper()
	promised := promised(l.samples, rec.Checkpoint.Time)
	if promised == nil {
		l.t.Fatalf("checkpoint %d is older than what is known", rec.Checkpoint.ID)
	}
	b, err := os.ReadFile(filepath.Join(l.path("b"), rec.Disks[0].Path))
	must(l.t, err)
	if err := rig.MissingSince(b, promised, 0); err != nil {
		l.t.Errorf("checkpoint %d: %v", rec.Checkpoint.ID, err)
	}
}

// command starts "holdfast recover ARGS" and leaves its end to the caller.
func (s *site) command(args ...string) *rig.Process {
	s.t.Helper()
	p, err := rig.Start(s.dir, "recover", func(*rig.Process) {}, append([]string{"recover"}, args...)...)
	must(s.t, err)
	p.Doom()
	return p
}

// newRun are the arguments of a new recovery in b.
func (s *site) newRun(op string, more ...string) []string {
	args := []string{op, s.url, s.path("b"), "--key", s.key(), "--accel", "tcg", "--exit-on-reset"}
	if op == "test" {
		args = append(args, "--look-after", "1ms")
	}
	return append(args, more...)
}

// moment is when within a step its victim dies.
type moment int

const (
	atBegin moment = iota // the record says that it has begun, and nothing is done yet
	within                // some of it is done
	atEnd                 // the record says that it is done
	moments
)

func (m moment) String() string { return [...]string{"at the begin of", "within", "at the end of"}[m] }

// watch calls strike once the run in dir has come to the moment of the k-th step
// after base, while p works on it, and returns whether it did. took is how long
// that step takes.
func (s *site) watch(dir string, p *rig.Process, base, k int, m moment, took time.Duration, rng *rand.Rand, strike func()) bool {
	s.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(s.t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, s.path(dir), unix.IN_MOVED_TO)
	must(s.t, err)
	buf := make([]byte, 4<<10)
	for {
		rec, err := readRun(s.path(dir))
		if err == nil && len(rec.Steps) > base+k {
			switch {
			case m == within:
				time.Sleep(time.Duration(rng.Int64N(int64(took + time.Millisecond)))) // a moment drawn, not a proof
			case m == atEnd && rec.Steps[base+k].Status == recovery.Running:
				goto wait
			}
			strike()
			return true
		}
	wait:
		select {
		case <-p.Done:
			return false
		default:
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20)
		if err != nil && !errors.Is(err, unix.EINTR) {
			s.t.Fatal(err)
		}
		_, _ = unix.Read(fd, buf) // that there was something is all it says
	}
}

// listing is every object of the container.
func (s *site) listing() map[string]bool {
	s.t.Helper()
	out := map[string]bool{}
	root := s.path("store")
	must(s.t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, p)
			out[rel] = true
		}
		return err
	}))
	return out
}

// onlyNew demands that what a container has more than before is of the documented
// kinds.
func (s *site) onlyNew(before map[string]bool, kinds ...string) {
	s.t.Helper()
	now := s.listing()
	for name := range before {
		if !now[name] {
			s.t.Errorf("an object is gone: %s", name)
		}
	}
	for name := range now {
		if !before[name] && !slices.ContainsFunc(kinds, func(k string) bool { ok, _ := filepath.Match(k, name); return ok }) {
			s.t.Errorf("an object is left: %s", name)
		}
	}
}

// what a recovery may leave in a container, see docs/operate/recover.md.
var (
	leftByTest     = []string{"pin/*", "meta/*/boot/*"}
	leftByDisaster = append([]string{"t/*/epoch/*", "t/*/j/*", "t/*/head", "t/*/dropped"}, leftByTest...)
)

// rest has a run that was killed go on until it rests, and returns its status.
func (s *site) rest(dir string) *recovery.Status {
	s.t.Helper()
	st, err := s.recover("resume", s.path(dir))
	if err != nil {
		b, _ := os.ReadFile(s.path(dir + "/run.json"))
		s.t.Fatalf("%v\n%s", err, b)
	}
	return st
}

// program are the steps of a run as its record has them, from base on.
func program(rec *recovery.Record, base int) (out []recovery.StepRecord) {
	return rec.Steps[base:]
}

// TestKilledRecoveries kills the process of a test, its cleanup, a disaster and
// its rollback, once at each step of each, and then has it go on, or be undone:
// nothing is lost and nothing is left.
func TestKilledRecoveries(t *testing.T) {
	l := newLight(t)
	for _, c := range []struct{ op, undo string }{{"test", "cleanup"}, {"disaster", "rollback"}} {
		before := l.listing()
		// How it goes when nobody dies says which steps there are.
		_, err := l.recover(l.newRun(c.op, "--mode", "instant")...)
		must(t, err)
		rec, err := readRun(l.path("b"))
		must(t, err)
		forth := program(rec, 0)
		l.judgeDisk(rec)
		_, err = l.recover(c.undo, l.path("b"))
		must(t, err)
		rec, err = readRun(l.path("b"))
		must(t, err)
		back := program(rec, len(forth))
		l.removed()
		hit := map[string]int{}
		rounds := 1
		if long() {
			rounds = int(moments)
		}
		for r := range rounds {
			for k, step := range slices.Concat(forth, back) {
				m := moment((k + r + l.rng.IntN(int(moments))) % int(moments))
				if long() {
					m = moment(r)
				}
				landed := l.killedAt(c.op, c.undo, k, len(forth), m, step)
				hit[landed]++
			}
		}
		t.Logf("%s: killed %s", c.op, words(hit))
		want := leftByTest
		if c.op == "disaster" {
			want = leftByDisaster
		}
		l.onlyNew(before, want...)
		if n := len(forth) + len(back); 2*len(hit) < n {
			t.Errorf("%d of %d steps were hit: %v", len(hit), n, hit)
		}
	}
}

func words(hit map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(hit)) {
		out = append(out, fmt.Sprintf("%s×%d", name, hit[name]))
	}
	return strings.Join(out, ", ")
}

// removed ends a round: nothing is left of the run, and its directory goes.
func (l *light) removed() {
	l.t.Helper()
	if st, err := l.recover("cleanup", l.path("b"), "--force"); err != nil || st.State != recovery.Clean {
		l.t.Errorf("cleanup: %v, %v", st.State, err)
	}
	l.cleaned("b")
	for _, tl := range l.timelines() {
		if tl.Dropped == nil && strings.HasPrefix(tl.Label, "recovery ") {
			l.t.Errorf("a fork is left: %+v", tl)
		}
	}
	must(l.t, os.RemoveAll(l.path("b")))
}

// killedAt kills a run's process at step k of what is done and then undone, and
// tells where that was.
func (l *light) killedAt(op, undo string, k, forth int, m moment, step recovery.StepRecord) (landed string) {
	l.t.Helper()
	must(l.t, os.Mkdir(l.path("b"), 0o700))
	mode := []string{"instant", "full"}[l.rng.IntN(2)]
	args := l.newRun(op, "--mode", mode)
	base := 0
	if k >= forth {
		_, err := l.recover(args...)
		must(l.t, err)
		rec, err := readRun(l.path("b"))
		must(l.t, err)
		base, k, args = len(rec.Steps), k-forth, []string{undo, l.path("b")}
	}
	p := l.command(args...)
	killed := l.watch("b", p, base, k, m, step.Ended.Sub(step.Begun), l.rng, p.Kill)
	<-p.Done
	rec, err := readRun(l.path("b"))
	must(l.t, err)
	landed = "at rest"
	if n := len(rec.Steps); rec.State.Active() && n > base {
		landed = string(rec.Action) + "/" + rec.Steps[n-1].Name
	}
	st, err := l.recover("status", l.path("b"))
	must(l.t, err)
	l.t.Logf("%s, mode %s: killed %s %q: %v, landed in %s, it is %s", op, mode, m, step.Name, killed, landed, st.State)
	if st.State.Active() && (!st.Interrupted || st.Next == "") {
		l.t.Errorf("nobody is told that it was interrupted: %+v", st)
	}
	if base == 0 && l.rng.IntN(3) == 0 {
		l.removed() // it is not gone on with
		return landed
	}
	st = l.rest("b")
	switch {
	case base > 0: // what undoes it has gone on to its end
		if st.State != recovery.Clean && st.State != recovery.RolledBack {
			l.t.Errorf("it is %s", st.State)
		}
	case st.State != recovery.Tested && st.State != recovery.BeforeCommit, len(st.Down) > 0, !st.Hydrated && st.Hydration == nil:
		l.t.Errorf("it is %s, down %v", st.State, st.Down)
	default:
		rec, err := readRun(l.path("b"))
		must(l.t, err)
		l.judgeDisk(rec)
		if n := len(l.qemus("b")); n != 1 {
			l.t.Errorf("%d VMs run", n)
		}
	}
	l.removed()
	return landed
}

// processes are the numbers of those whose command line has all these words.
func processes(t *testing.T, words ...string) (out []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
next:
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended
		}
		for _, w := range words {
			if !strings.Contains(string(b), w) {
				continue next
			}
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/cmdline", &pid); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// qemus are the VMs of a recovery.
func (s *site) qemus(dir string) []int { return processes(s.t, "qemu-system", s.path(dir)+"/vms/") }

// killAll ends processes at once, and waits until they are gone.
func killAll(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); ; {
		left := slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return err != nil || len(b) == 0 // gone, or waits to be
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("processes %v do not die", left)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}

// TestVMDies: a VM that ends while the run waits for a decision is seen, and
// started again; no other is, and no disk is built anew. The same while a process
// owns the run.
func TestVMDies(t *testing.T) {
	l := newLight(t)
	for _, op := range []string{"test", "disaster"} {
		_, err := l.recover(l.newRun(op)...)
		must(t, err)
		killAll(t, l.qemus("b"))
		st, err := l.recover("status", l.path("b"))
		must(t, err)
		if len(st.Down) != 1 || !strings.Contains(st.Next, "resume") || st.VMs[0].State == "running" {
			t.Errorf("%s: nobody sees that the VM died: %v, %s", op, st.Down, st.Next)
		}
		if op == "disaster" {
			if _, err := l.recover("commit", l.path("b")); err == nil || !strings.Contains(err.Error(), "this VM has ended") {
				t.Errorf("a dead VM was committed: %v", err)
			}
		}
		st = l.rest("b")
		if len(st.Down) > 0 || len(l.qemus("b")) != 1 {
			t.Errorf("%s: it was not started again: %v, %d run", op, st.Down, len(l.qemus("b")))
		}
		rec, err := readRun(l.path("b"))
		must(t, err)
		l.judgeDisk(rec)
		l.removed()
	}
	// A decision is due in an hour: a process owns the run.
	must(t, os.Mkdir(l.path("b"), 0o700))
	p := l.command(l.newRun("disaster", "--auto", "rollback", "--after", "1h")...)
	if !l.watchState("b", p, recovery.BeforeCommit) {
		t.Fatal(rig.Tail(p.Log))
	}
	killAll(t, l.qemus("b"))
	l.awaitStatus("b", "the owner sees that its VM died", func(st *recovery.Status) bool { return st.Owned && len(st.Down) == 1 })
	if err := l.cancel("b"); err == nil || !strings.Contains(err.Error(), "nothing is under way") {
		t.Errorf("nothing was cancelled: %v", err)
	}
	if st := l.rest("b"); len(st.Down) > 0 || !st.Owned || len(l.qemus("b")) != 1 {
		t.Errorf("the owner did not start it again: %v", st.Down)
	}
	if st, err := l.recover("rollback", l.path("b")); err != nil || st.State != recovery.RolledBack {
		t.Errorf("%v", err)
	}
	<-p.Done
	l.removed()
}

// watchState waits until a run is in a state; false: its process ended before.
func (s *site) watchState(dir string, p *rig.Process, want recovery.State) bool {
	s.t.Helper()
	for {
		if rec, err := readRun(s.path(dir)); err == nil && rec.State == want {
			return true
		}
		select {
		case <-p.Done:
			return false
		case <-time.After(10 * time.Millisecond): // between two looks
		}
	}
}

// awaitStatus waits until a run's status is as ok says.
func (s *site) awaitStatus(dir, what string, ok func(*recovery.Status) bool) *recovery.Status {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // between two looks
		st := new(recovery.Status)
		err := rig.Command(s.t.Context(), st, "recover", "status", s.path(dir), "-o", "json")
		if err == nil && ok(st) {
			return st
		}
		if time.Now().After(end) {
			b, _ := json.Marshal(st)
			s.t.Fatalf("it did not happen: %s: %v\n%s", what, err, b)
		}
	}
}
