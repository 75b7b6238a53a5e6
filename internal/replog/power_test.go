package replog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/record"
)

// A power loss on real parts: ext4 on a loop device on an NBD disk whose server
// holds a volatile write-back cache, killed while a process appends. What was
// flushed is in the server's image, the rest is gone.

// Environment of the process that appends: the log's directory, and whether its
// file system lies about durability.
const (
	envChild = "HOLDFAST_TEST_POWER_DIR"
	envLying = "HOLDFAST_TEST_POWER_LYING"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envChild); dir != "" {
		appendForever(dir, os.Getenv(envLying) != "")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lyingFS writes without ever asking the device to make it durable.
type lyingFS struct{ durable.OS }

func (fs lyingFS) OpenFile(path string, mode durable.Mode) (durable.File, error) {
	f, err := fs.OS.OpenFile(path, mode&^durable.DSync)
	return lyingFile{f}, err
}

func (lyingFS) SyncDir(string) error { return nil }

type lyingFile struct{ durable.File }

func (lyingFile) Sync() error { return nil }

func powerOptions(dir string, lying bool) Options {
	opts := testOptions(durable.OS{}, dir, 24)
	opts.FileSize, opts.Quota = 1<<20, 24<<20
	if lying {
		opts.FS = lyingFS{}
	}
	return opts
}

func powerRecord(seq dr.Seq) record.Record { return write(seq, 1+int(seq%5), 1) }

// appendForever is the process that dies with the power. It prints each seq
// that was acknowledged.
func appendForever(dir string, lying bool) {
	l, err := Open(context.Background(), powerOptions(dir, lying))
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	result := make(chan error, 1)
	go func() { result <- l.Run(context.Background()) }()
	for seq := l.Recovered().Last + 1; ; seq++ {
		last := seq
		for {
			err := l.Append([]record.Record{powerRecord(seq)}, func(err error) {
				if err == nil {
					fmt.Println(last)
				}
			})
			if err == nil {
				break
			}
			if l.WaitSpace(context.Background()) != nil {
				fmt.Println("run:", <-result)
				return
			}
		}
		if seq%64 == 0 {
			_ = l.Trim(l.Usage().Durable / 2) // a failure shows at the next append
		}
	}
}

// rig is a file system on a disk that can lose its power.
type rig struct {
	t      *testing.T
	dir    string
	image  string
	server *exec.Cmd
	undo   []func()
}

// need finds a tool or fails.
func need(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Fatalf("%s is missing: run `make deps`", tool)
	}
	return path
}

// command runs a tool to its end.
func (r *rig) command(name string, args ...string) string {
	r.t.Helper()
	out, err := exec.Command(need(r.t, name), args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// spawn starts a tool that runs until it is killed.
func (r *rig) spawn(name string, args ...string) *exec.Cmd {
	r.t.Helper()
	c := exec.Command(need(r.t, name), args...)
	c.Env = append(os.Environ(), "TMPDIR="+r.dir)
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.undo = append(r.undo, func() {
		_ = c.Process.Kill() // it may be gone already
		_ = c.Wait()
	})
	return c
}

// until waits for a condition that another process brings about.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(15 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s did not happen within 15 s", what)
		}
	}
}

// mount attaches a disk file to a loop device and mounts it.
func (r *rig) mount(disk, at string) {
	r.t.Helper()
	loop := r.command("losetup", "--find", "--show", disk)
	r.undo = append(r.undo, func() { _ = exec.Command("losetup", "--detach", loop).Run() })
	if err := os.MkdirAll(at, 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Mount(loop, at, "ext4", 0, ""); err != nil {
		r.t.Fatalf("mount %s: %v", loop, err)
	}
	r.undo = append(r.undo, func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// tearDown undoes everything, last first. Errors of a dead disk are expected.
func (r *rig) tearDown() {
	for i := len(r.undo) - 1; i >= 0; i-- {
		r.undo[i]()
	}
	r.undo = nil
}

// powerUp builds disk, cache and file system.
func powerUp(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	t.Cleanup(r.tearDown)
	for _, tool := range []string{"nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "fusermount3"} {
		need(t, tool)
	}
	r.image = filepath.Join(r.dir, "disk.img")
	if err := os.WriteFile(r.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.image, 96<<20); err != nil {
		t.Fatal(err)
	}
	r.command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", r.image)
	socket, fuse := filepath.Join(r.dir, "sock"), filepath.Join(r.dir, "fuse")
	r.server = r.spawn("nbdkit", "-f", "-U", socket, "--filter=cache", "file", r.image, "cache=writeback")
	r.until("the disk's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	if err := os.Mkdir(fuse, 0o700); err != nil {
		t.Fatal(err)
	}
	r.spawn("nbdfuse", filepath.Join(fuse, "disk"), "nbd+unix:///?socket="+socket)
	r.undo = append(r.undo, func() { _ = exec.Command("fusermount3", "-u", "-z", fuse).Run() })
	r.until("the disk's file", func() bool { _, err := os.Stat(filepath.Join(fuse, "disk")); return err == nil })
	r.mount(filepath.Join(fuse, "disk"), filepath.Join(r.dir, "mnt"))
	return r
}

// loseLog appends in a child process on the rig, cuts the power after enough
// was acknowledged, and returns the last seq that was.
func (r *rig) loseLog(lying bool) dr.Seq {
	t := r.t
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), envChild+"="+filepath.Join(r.dir, "mnt", "log"))
	if lying {
		child.Env = append(child.Env, envLying+"=1")
	}
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	r.undo = append(r.undo, func() { _ = child.Process.Kill(); _ = child.Wait() })
	limit := time.AfterFunc(20*time.Second, func() { _ = child.Process.Kill() })
	defer limit.Stop()
	var acked dr.Seq
	count := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil { // the log failed, as it must without a disk
			break
		}
		acked = dr.Seq(n)
		if count++; count == 400 {
			if err := r.server.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if count < 400 {
		t.Fatalf("only %d records were acknowledged before the child ended", count)
	}
	return acked
}

// recover brings the power back and opens the log on what the disk holds.
func (r *rig) recover() (Recovery, error) {
	r.tearDown()
	r.mount(r.image, filepath.Join(r.dir, "after"))
	l, err := Open(r.t.Context(), powerOptions(filepath.Join(r.dir, "after", "log"), false))
	if err != nil {
		return Recovery{}, err
	}
	rec := l.Recovered()
	recs, err := readAll(l, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range recs {
		want := powerRecord(rec.First + dr.Seq(i))
		if err := same(&recs[i], &want); err != nil {
			r.t.Fatal(err)
		}
	}
	return rec, l.Close()
}

func TestPowerLossKeepsEveryAcknowledgedRecord(t *testing.T) {
	r := powerUp(t)
	acked := r.loseLog(false)
	rec, err := r.recover()
	if err != nil {
		t.Fatal(err)
	}
	if rec.Last < acked {
		t.Fatalf("recovered to seq %d, %d was acknowledged", rec.Last, acked)
	}
	t.Logf("acknowledged %d, recovered %d to %d, torn tail: %v", acked, rec.First, rec.Last, rec.TornTail)
}

// The same rig drops what was not flushed: a log that does not flush loses
// acknowledged records. Otherwise the test above proves nothing.
func TestPowerLossRigDropsUnflushedWrites(t *testing.T) {
	r := powerUp(t)
	dir := filepath.Join(r.dir, "mnt", "log")
	l := start(t, powerOptions(dir, false)) // the log itself is made properly
	l.append(powerRecord(1))
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	acked := r.loseLog(true)
	rec, err := r.recover()
	if err == nil && rec.Last >= acked {
		t.Fatalf("nothing was lost: recovered to seq %d of %d without a single flush", rec.Last, acked)
	}
	t.Logf("acknowledged %d without flushing; recovered to %d, %v", acked, rec.Last, err)
}
