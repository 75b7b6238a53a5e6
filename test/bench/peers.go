package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// target is a server under test.
type target struct {
	name   string
	direct bool // bypasses the host's page cache
	// start brings a server up, ready for its first client.
	start func(ctx context.Context) (*server, error)
}

// server is a running target.
type server struct {
	socket string
	disk   string  // the file behind it
	size   int64   // of the disk, bytes
	procs  []*proc // whose processor time counts, the one that answers first
	// after is called when the load has ended, before stop, and may add to the
	// row: a protected target drains and is verified here. May be nil.
	after func(ctx context.Context, r *row) error
	stop  func() error
}

// stage is where unprotected targets run, one at a time, on one of two common
// disks: direct I/O throws a disk's pages out of the cache.
type stage struct {
	sp      *spawner
	self    string // path of this program
	sockets string // directory
	cached  string // the common disk served from the page cache
	direct  string // the one served past it
	second  string // the mirror's other side
	size    int64  // of each, bytes
}

// disk is the common disk of a way of access.
func (st *stage) disk(direct bool) string {
	if direct {
		return st.direct
	}
	return st.cached
}

// simple makes a target of one process that serves the common disk.
func (st *stage) simple(name string, direct bool, argv func(socket string) []string) target {
	return target{name: name, direct: direct, start: func(ctx context.Context) (*server, error) {
		socket := filepath.Join(st.sockets, name)
		p, err := st.serveNBD(ctx, name, socket, argv(socket))
		if err != nil {
			return nil, err
		}
		return &server{socket: socket, disk: st.disk(direct), size: st.size, procs: []*proc{p}, stop: stopAll(socket, p)}, nil
	}}
}

// serveNBD starts a program that listens on socket and waits for its greeting.
func (st *stage) serveNBD(ctx context.Context, name, socket string, argv []string) (*proc, error) {
	p, err := st.sp.start(name, argv...)
	if err != nil {
		return nil, err
	}
	if err := awaitNBD(ctx, socket, p); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// stopAll ends processes, in order, and removes their socket.
func stopAll(socket string, procs ...*proc) func() error {
	return func() error {
		var all []error
		for _, p := range procs {
			all = append(all, p.stop())
		}
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = append(all, err)
		}
		return errors.Join(all...)
	}
}

func (st *stage) qemuNBD(name string, direct bool) target {
	return st.simple(name, direct, func(socket string) []string { return qemuNBDArgs(socket, st.disk(direct), direct) })
}

func qemuNBDArgs(socket, disk string, direct bool) []string {
	cache, aio := "writeback", "threads"
	if direct {
		cache, aio = "none", "native"
	}
	return []string{"qemu-nbd", "--persistent", "--shared=8", "--format=raw", "--cache=" + cache, "--aio=" + aio, "--socket=" + socket, disk}
}

func (st *stage) nbdkit() target {
	return st.simple("nbdkit", false, func(socket string) []string {
		return []string{"nbdkit", "--foreground", "--exit-with-parent", "--unix", socket, "file", st.cached}
	})
}

// passthrough is our server with nothing between it and the disk.
func (st *stage) passthrough(name string, direct bool) target {
	return st.simple(name, direct, func(socket string) []string {
		argv := []string{st.self, "serve", "-file", st.disk(direct), "-socket", socket}
		if direct {
			argv = append(argv, "-direct")
		}
		return argv
	})
}

// mirror is QEMU's own way to copy each write to a second place before it is
// acknowledged: a write-blocking mirror job. The second place is a qemu-nbd
// of its own, since data that stays in one process is not replicated.
func (st *stage) mirror() target {
	const name = "qemu-mirror"
	return target{name: name, direct: true, start: func(ctx context.Context) (*server, error) {
		far := filepath.Join(st.sockets, name+"-far")
		second, err := st.serveNBD(ctx, name+"-far", far, qemuNBDArgs(far, st.second, true))
		if err != nil {
			return nil, err
		}
		socket, monitor := filepath.Join(st.sockets, name), filepath.Join(st.sockets, name+"-qmp")
		p, err := st.serveNBD(ctx, name, socket, []string{"qemu-storage-daemon",
			"--chardev", "socket,id=mon,path=" + monitor + ",server=on,wait=off", "--monitor", "chardev=mon",
			"--blockdev", "driver=file,node-name=near,aio=native,cache.direct=on,filename=" + st.direct,
			"--blockdev", "driver=nbd,node-name=far,server.type=unix,server.path=" + far,
			"--nbd-server", "addr.type=unix,addr.path=" + socket,
			"--export", "type=nbd,id=export,node-name=near,name=,writable=on"})
		if err != nil {
			return nil, errors.Join(err, second.stop())
		}
		stop := stopAll(socket, p, second)
		if err := startMirror(ctx, monitor); err != nil {
			return nil, errors.Join(fmt.Errorf("mirror job: %w", err), stop())
		}
		return &server{socket: socket, disk: st.direct, size: st.size, procs: []*proc{p, second}, stop: stop}, nil
	}}
}

// startMirror tells the storage daemon to begin mirroring and waits until
// every write goes to both sides.
func startMirror(ctx context.Context, path string) error {
	m, err := dialMonitor(ctx, path)
	if err != nil {
		return err
	}
	defer m.c.Close()
	if err := m.send("blockdev-mirror", map[string]any{"job-id": "mirror", "device": "near", "target": "far",
		"sync": "none", "copy-mode": "write-blocking"}); err != nil {
		return err
	}
	for {
		msg, err := m.next()
		if err != nil || msg.Event == "BLOCK_JOB_READY" {
			return err
		}
	}
}
