package replog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/record"
	"holdfast/test/power"
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

// loseLog appends in a child process on the disk, cuts the power after enough
// was acknowledged, and returns the last seq that was.
func loseLog(t *testing.T, d *power.Disk, lying bool) dr.Seq {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), envChild+"="+filepath.Join(d.Path(), "log"))
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
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }() // it may be gone already
	limit := time.AfterFunc(time.Minute, func() { _ = child.Process.Kill() })
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
			d.Cut()
		}
	}
	if count < 400 {
		t.Fatalf("only %d records were acknowledged before the child ended", count)
	}
	return acked
}

// recoverAfter brings the power back and opens the log on what the disk holds.
func recoverAfter(t *testing.T, d *power.Disk) (Recovery, error) {
	t.Helper()
	l, err := Open(t.Context(), powerOptions(filepath.Join(d.Restore(), "log"), false))
	if err != nil {
		return Recovery{}, err
	}
	rec := l.Recovered()
	recs, err := readAll(l, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		want := powerRecord(rec.First + dr.Seq(i))
		if err := same(&recs[i], &want); err != nil {
			t.Fatal(err)
		}
	}
	return rec, l.Close()
}

func TestPowerLossKeepsEveryAcknowledgedRecord(t *testing.T) {
	d := power.Up(t, 96)
	acked := loseLog(t, d, false)
	rec, err := recoverAfter(t, d)
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
	d := power.Up(t, 96)
	dir := filepath.Join(d.Path(), "log")
	l := start(t, powerOptions(dir, false)) // the log itself is made properly
	l.append(powerRecord(1))
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	acked := loseLog(t, d, true)
	rec, err := recoverAfter(t, d)
	if err == nil && rec.Last >= acked {
		t.Fatalf("nothing was lost: recovered to seq %d of %d without a single flush", rec.Last, acked)
	}
	t.Logf("acknowledged %d without flushing; recovered to %d, %v", acked, rec.Last, err)
}
