package ring_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/nbd/ring"
)

// results enters until n completions are there.
func results(t *testing.T, r *ring.Ring, n int) map[uint64]int32 {
	t.Helper()
	got := make(map[uint64]int32)
	for len(got) < n {
		if err := r.Enter(1); err != nil {
			t.Fatal(err)
		}
		for tag, res, ok := r.Next(); ok; tag, res, ok = r.Next() {
			got[tag] = res
		}
	}
	return got
}

func TestRing(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := ring.New(8)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())

	// More than the ring holds: what does not fit is submitted on the way.
	const n = 20
	for i := range n {
		r.Write(fd, bytes.Repeat([]byte{byte(i + 1)}, 512), int64(i)*512, 0, uint64(i))
	}
	for tag, res := range results(t, r, n) {
		if res != 512 {
			t.Errorf("write %d: %d", tag, res)
		}
	}
	p := make([]byte, 1024)
	r.Datasync(fd, 100)
	r.Read(fd, p, 512, 0, 101)
	r.Read(-1, p[:1], 0, 0, 102)
	got := results(t, r, 3)
	if got[100] != 0 || got[101] != 1024 || got[102] != -int32(unix.EBADF) {
		t.Errorf("results %v", got)
	}
	if p[0] != 2 || p[512] != 3 {
		t.Errorf("read %d and %d", p[0], p[512])
	}
}

func TestRingSocket(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := ring.New(8)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	in := make([]byte, 9)
	r.Recv(pair[1], in, unix.MSG_WAITALL, 1) // waits for both sends
	r.Send(pair[0], []byte("abc"), unix.MSG_NOSIGNAL, 2)
	a, b := []byte("def"), []byte("ghi")
	m := &unix.Msghdr{}
	iov := []unix.Iovec{{Base: &a[0]}, {Base: &b[0]}}
	iov[0].SetLen(3)
	iov[1].SetLen(3)
	m.Iov = &iov[0]
	m.SetIovlen(2)
	if got := results(t, r, 1); got[2] != 3 {
		t.Fatalf("send: %v", got)
	}
	r.SendMsg(pair[0], m, unix.MSG_NOSIGNAL, 3)
	if got := results(t, r, 2); got[3] != 6 || got[1] != 9 || string(in) != "abcdefghi" {
		t.Errorf("results %v, received %q", got, in)
	}
	r.Recv(pair[0], in, 0, 4)
	unix.Close(pair[1])
	if got := results(t, r, 1); got[4] != 0 {
		t.Errorf("receive after the end: %v", got)
	}
}
