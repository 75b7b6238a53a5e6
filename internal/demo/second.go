package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/iofilter/live"
)

// Second is what the second act measured.
type Second struct {
	Disks    int64          // of the guests, bytes
	TestRead int64          // from the store, by the test
	RowsAtB  [guests]uint64 // after the failover, with what was committed there
	RowsHome [guests]uint64 // found by the guests back at A
	Shipped  int64          // by B, to be recoverable from there: bytes of objects
	ReadHome int64          // from the store, by the new A, which had nothing
	Boot     time.Duration  // of the failover: until both VMs ran
}

const (
	actLimit = 10 * time.Minute // bounds the second act: it waits on events
	rowsAtB  = 5                // commits of each guest after the failover
	askAgain = time.Second      // a guest hears nothing before it is up
	// maxRun bounds run.json of the demo's recoveries, bytes.
	maxRun = 1 << 20
)

// recoverRun is what the demo reads of "holdfast recover -o json" and of run.json.
type recoverRun struct {
	State      string        `json:"state"`
	Checkpoint dr.Checkpoint `json:"checkpoint"`
	Bytes      int64         `json:"bytes_read"`
	VMs        []struct {
		Config dr.VMConfig `json:"config"`
		Serial string      `json:"serial"`
	} `json:"vms"`
	Disks []struct {
		Size int64 `json:"size"`
	} `json:"disks"`
	Launched []struct {
		PID   int    `json:"pid"`
		Start uint64 `json:"start"`
	} `json:"launched"`
}

// second is the second act: a test, the failover itself, protection at B, and the
// way home to an A that was built anew.
func (r *run) second(ctx context.Context, l *Loss) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, actLimit, fmt.Errorf("the second act did not end within %v", actLimit))
	defer cancel()
	test, b, home := filepath.Join(r.dir, "t"), filepath.Join(r.dir, "b2"), filepath.Join(r.dir, "a2")
	defer func() { err = errors.Join(err, r.endRuns(test, b, home)) }()
	s := new(Second)
	r.res.Second = s
	r.say("\nsecond act: test, failover, protection at B, and home to an A built anew")
	if err := r.rehearse(ctx, l, test, s); err != nil {
		return err
	}
	if err := r.failOver(ctx, l, b, s); err != nil {
		return err
	}
	return r.goHome(ctx, l, b, home, s)
}

// holdfast runs "holdfast recover" and shows what it runs.
func (r *run) holdfast(ctx context.Context, args ...string) (*recoverRun, error) {
	line := "$ holdfast recover"
	for _, a := range args {
		line += " " + r.short(a)
	}
	r.say("%s", line)
	out := new(recoverRun)
	begin := time.Now()
	err := command(ctx, r.opts.Binary, out, append(append([]string{"recover"}, args...), "-o", "json")...)
	if err == nil {
		r.say("  %s after %.1f s", out.State, time.Since(begin).Seconds())
	}
	return out, err
}

// begins is how each of the demo's recoveries begins.
func (r *run) begins(op string, l *Loss, dir string, more ...string) []string {
	return append([]string{op, l.URL, dir, "--key", l.Key, "--accel", string(r.accel), "--exit-on-reset"}, more...)
}

// rehearse is a test: it boots, is looked at, and leaves nothing.
func (r *run) rehearse(ctx context.Context, l *Loss, dir string, s *Second) error {
	if _, err := r.holdfast(ctx, r.begins("test", l, dir, "--look-after", "1s")...); err != nil {
		return err
	}
	if _, err := r.talkAll(ctx, dir, 0); err != nil {
		return err
	}
	out, err := r.holdfast(ctx, "cleanup", dir)
	if err != nil {
		return err
	}
	s.TestRead = out.Bytes
	return nil
}

// failOver recovers at B, commits rows there, and waits until B can be lost.
func (r *run) failOver(ctx context.Context, l *Loss, dir string, s *Second) error {
	begin := time.Now()
	out, err := r.holdfast(ctx, r.begins("disaster", l, dir, "--interval", "1s")...)
	if err != nil {
		return err
	}
	s.Boot = time.Since(begin)
	for _, d := range out.Disks {
		s.Disks += d.Size
	}
	if _, err := r.holdfast(ctx, "commit", dir); err != nil {
		return err
	}
	if s.RowsAtB, err = r.talkAll(ctx, dir, rowsAtB); err != nil {
		return err
	}
	r.say("  the guests commit at B: rows %d and %d", s.RowsAtB[0], s.RowsAtB[1])
	if _, err := r.holdfast(ctx, "reprotect", dir); err != nil {
		return err
	}
	var st drvaStatus
	if err := control.CallLocal(ctx, filepath.Join(dir, "protect", "drva.sock"), "/status", nil, &st); err != nil {
		return err
	}
	s.Shipped = int64(st.BytesStored)
	return nil
}

// goHome moves the domain to a site that has nothing, and demands that no commit
// is missing there.
func (r *run) goHome(ctx context.Context, l *Loss, from, dir string, s *Second) (err error) {
	if _, err := r.holdfast(ctx, r.begins("failback", l, dir, "--from-run", from, "--no-protect")...); err != nil {
		return err
	}
	if s.RowsHome, err = r.talkAll(ctx, dir, 0); err != nil {
		return err
	}
	out, err := r.holdfast(ctx, "commit", dir)
	if err != nil {
		return err
	}
	s.ReadHome = out.Bytes
	if _, err := r.holdfast(ctx, "cleanup", from, "--force"); err != nil {
		return err
	}
	r.say("rows at B %d and %d, at home %d and %d; disks of %s: the test read %s, B shipped %s, the new A read %s",
		s.RowsAtB[0], s.RowsAtB[1], s.RowsHome[0], s.RowsHome[1], mebibytes(s.Disks), mebibytes(s.TestRead), mebibytes(s.Shipped), mebibytes(s.ReadHome))
	if s.RowsHome != s.RowsAtB {
		return errs.New("demo", errs.Corrupt, dir, fmt.Sprintf("the planned failback lost commits: %d at B, %d at home", s.RowsAtB, s.RowsHome))
	}
	return nil
}

// talkAll has every guest of a recovery tell its highest row, and then commit n
// more; it returns the highest rows afterwards.
func (r *run) talkAll(ctx context.Context, dir string, n int) (rows [guests]uint64, err error) {
	rec, err := readRun(dir)
	if err != nil {
		return rows, err
	}
	for i := range guests {
		for _, v := range rec.VMs {
			if v.Config.ID == r.vms[i].ID {
				if rows[i], err = talkTo(ctx, v.Serial, n); err != nil {
					return rows, errs.E("demo.second", errs.Internal, v.Config.Name, err)
				}
			}
		}
		if rows[i] < r.res.Promised[i] {
			return rows, errs.New("demo.second", errs.Corrupt, r.vms[i].Name, fmt.Sprintf("%d commits were promised, the guest has %d", r.res.Promised[i], rows[i]))
		}
	}
	return rows, nil
}

// talkTo speaks with a guest that booted before anybody listened.
func talkTo(ctx context.Context, serial string, n int) (row uint64, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", serial)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	asked := make(chan struct{})
	go func() { // until it answers: it hears nothing before it is up
		tick := time.NewTicker(askAgain)
		defer tick.Stop()
		for {
			if _, err := fmt.Fprintf(nc, "\n%s\n", talk.Request{Verb: talk.Status}); err != nil {
				return
			}
			select {
			case <-asked:
				return
			case <-tick.C:
			}
		}
	}()
	lines := talk.NewLines(nc)
	r, err := expect(lines, talk.State, 0)
	close(asked)
	row = r.N
	for ; err == nil && n > 0; n-- {
		row++
		if _, err = fmt.Fprintf(nc, "\n%s\n", talk.Request{Verb: talk.Put, N: row, Cause: row - 1, Bytes: rowBytes}); err == nil {
			_, err = expect(lines, talk.Commit, row)
		}
	}
	return row, err
}

// expect reads until the guest says a word, of a row unless that is 0.
func expect(lines *talk.Lines, word talk.Word, row uint64) (talk.Reply, error) {
	for {
		line, err := lines.Next()
		if err != nil {
			return talk.Reply{}, err
		}
		r, ok := talk.ParseReply(line)
		switch {
		case ok && r.Word == word && (row == 0 || r.N == row):
			return r, nil
		case ok && r.Word == talk.Fatal:
			return r, errors.New(r.String())
		}
	}
}

func readRun(dir string) (*recoverRun, error) {
	path := filepath.Join(dir, "run.json")
	b, err := durable.ReadFile(durable.OS{}, path, maxRun)
	if err != nil {
		return nil, err
	}
	rec := new(recoverRun)
	if err := json.Unmarshal(b, rec); err != nil {
		return nil, errs.E("demo.second", errs.Corrupt, path, err)
	}
	return rec, nil
}

// endRuns ends what recoveries left running, wherever the act ended: VMs and
// boxes outlive the commands that started them. Their files go with the demo's.
func (r *run) endRuns(dirs ...string) (all error) {
	ctx, cancel := context.WithTimeout(context.Background(), recoverLimit)
	defer cancel()
	for _, dir := range dirs {
		rec, err := readRun(dir)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		for _, p := range rec.Launched {
			all = errors.Join(all, endProcess(ctx, p.PID, p.Start))
		}
		if _, err := os.Stat(filepath.Join(dir, "vms")); err == nil {
			all = errors.Join(all, killVMs(ctx, filepath.Join(dir, "vms")))
		}
	}
	return all
}

func endProcess(ctx context.Context, pid int, start uint64) error {
	p, err := live.OpenProcess(pid, start, nil)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Kill(ctx)
}

func killVMs(ctx context.Context, dir string) error {
	p, err := qemu.New(qemu.Options{})
	if err != nil {
		return err
	}
	defer p.Close()
	vms, err := p.Adopt(ctx, dir)
	for _, vm := range vms {
		err = errors.Join(err, vm.Kill(ctx))
	}
	return err
}
