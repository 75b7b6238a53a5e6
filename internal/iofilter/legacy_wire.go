package iofilter

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// A Legacy crosses a unix socket like this:
//
//	 0  length  u32, little-endian, of what follows up to the descriptors
//	 4  head    JSON, legacyHead
//	..  one byte for each batch of at most legacyBatch descriptors, which travel
//	    with it (SCM_RIGHTS): of each disk the listener, then its connections
//	..  the connections' pending bytes, in the same order
//
// Both ends are the same program, of this version or of another one: the head
// has a version.
type legacyHead struct {
	Version int              `json:"version"`
	Disks   []legacyHeadDisk `json:"disks"`
	Paused  bool             `json:"paused,omitempty"`
}

type legacyHeadDisk struct {
	ID     dr.DiskID        `json:"id"`
	Socket string           `json:"socket"`
	Conns  []legacyHeadConn `json:"conns"`
	Paused bool             `json:"paused,omitempty"`
}

type legacyHeadConn struct {
	nbd.Handed
	Pending int `json:"pending"` // bytes
}

const legacyVersion = 1

// Send sends the Legacy over conn. The descriptors here stay open: if the other
// side does not go on, this one can.
func (l *Legacy) Send(conn *net.UnixConn) error {
	const op = "iofilter.Legacy.Send"
	head := legacyHead{Version: legacyVersion, Paused: l.Paused}
	var fds []int // duplicates
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for i := range l.Disks {
		d := &l.Disks[i]
		fd, err := duplicate(d.Listener)
		if err != nil {
			return errs.E(op, errs.Unavailable, d.Socket, err)
		}
		fds = append(fds, fd)
		h := legacyHeadDisk{ID: d.ID, Socket: d.Socket, Paused: d.Paused}
		for _, c := range d.Conns {
			if fd, err = duplicate(c.File); err != nil {
				return errs.E(op, errs.Unavailable, d.Socket, err)
			}
			fds = append(fds, fd)
			h.Conns = append(h.Conns, legacyHeadConn{c, len(c.Pending)})
		}
		head.Disks = append(head.Disks, h)
	}
	body, err := json.Marshal(head)
	if err != nil || len(body) > maxLegacyHead {
		return errs.E(op, errs.Internal, "head", err)
	}
	if _, err := conn.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return errs.E(op, errs.Unavailable, "next", err)
	}
	for at := 0; at < len(fds); at += legacyBatch {
		batch := fds[at:min(at+legacyBatch, len(fds))]
		if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(batch...), nil); err != nil {
			return errs.E(op, errs.Unavailable, "next", err)
		}
	}
	for i := range l.Disks {
		for _, c := range l.Disks[i].Conns {
			if _, err := conn.Write(c.Pending); err != nil {
				return errs.E(op, errs.Unavailable, "next", err)
			}
		}
	}
	return nil
}

// duplicate duplicates a descriptor. Not by Fd, which makes it blocking, and
// with it the one that is kept: a server could not be stopped any more.
func duplicate(c syscall.Conn) (fd int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = rc.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, failed)
}

// ReceiveLegacy is the other end of Send. Errors: Invalid (what came is not a
// Legacy, or of a version this program does not know), Unavailable.
func ReceiveLegacy(conn *net.UnixConn) (_ *Legacy, err error) {
	const op = "iofilter.ReceiveLegacy"
	head, err := receiveHead(conn)
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), "legacy", err)
	}
	l := &Legacy{Paused: head.Paused}
	var files []*os.File
	defer func() {
		if err != nil {
			err = errors.Join(errs.E(op, errs.KindOf(err), "legacy", err), l.Close())
		}
		for _, f := range files { // what has not found its place
			f.Close()
		}
	}()
	want := len(head.Disks)
	for i := range head.Disks {
		want += len(head.Disks[i].Conns)
	}
	for len(files) < want {
		more, err := receiveFiles(conn, min(legacyBatch, want-len(files)))
		files = append(files, more...)
		if err != nil {
			return nil, err
		}
	}
	for i := range head.Disks {
		h := &head.Disks[i]
		ln, err := net.FileListener(files[0]) // a duplicate
		if err != nil {
			return nil, err
		}
		files[0].Close()
		files = files[1:]
		unixLn, ok := ln.(*net.UnixListener)
		if !ok {
			return nil, errors.Join(errs.New(op, errs.Invalid, h.Socket, "not a listening unix socket"), ln.Close())
		}
		unixLn.SetUnlinkOnClose(false) // until they are served, the files are the sender's
		d := LegacyDisk{ID: h.ID, Socket: h.Socket, Listener: unixLn, Paused: h.Paused}
		for _, c := range h.Conns {
			c.Handed.File = files[0]
			files = files[1:]
			d.Conns = append(d.Conns, c.Handed)
		}
		l.Disks = append(l.Disks, d)
	}
	return l, l.receivePending(conn, head)
}

// receiveHead reads and judges the head.
func receiveHead(conn io.Reader) (*legacyHead, error) {
	const op = "iofilter.ReceiveLegacy"
	var n [4]byte
	if _, err := io.ReadFull(conn, n[:]); err != nil {
		return nil, errs.E(op, errs.Unavailable, "head", err)
	}
	size := binary.LittleEndian.Uint32(n[:])
	if size > maxLegacyHead {
		return nil, errs.E(op, errs.Invalid, "head", fmt.Errorf("%d bytes are over the bound", size))
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, errs.E(op, errs.Unavailable, "head", err)
	}
	return parseLegacyHead(body)
}

// parseLegacyHead decodes a head and checks its bounds.
func parseLegacyHead(body []byte) (*legacyHead, error) {
	const op = "iofilter.ReceiveLegacy"
	var h legacyHead
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, errs.E(op, errs.Invalid, "head", err)
	}
	if h.Version != legacyVersion {
		return nil, errs.E(op, errs.Invalid, "head", fmt.Errorf("version %d, not %d", h.Version, legacyVersion))
	}
	if len(h.Disks) > maxDisks {
		return nil, errs.New(op, errs.Invalid, "head", "more disks than a host has")
	}
	for i := range h.Disks {
		if len(h.Disks[i].Conns) > maxLegacyConns {
			return nil, errs.New(op, errs.Invalid, h.Disks[i].Socket, "more connections than a disk has")
		}
		for _, c := range h.Disks[i].Conns {
			if c.Pending < 0 || c.Pending > nbd.MaxPending {
				return nil, errs.New(op, errs.Invalid, h.Disks[i].Socket, "more pending bytes than a connection has")
			}
		}
	}
	return &h, nil
}

// receiveFiles receives one batch of exactly n descriptors.
func receiveFiles(conn *net.UnixConn, n int) (files []*os.File, err error) {
	const op = "iofilter.ReceiveLegacy"
	oob := make([]byte, unix.CmsgSpace(4*legacyBatch))
	_, got, flags, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, "descriptors", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:got])
	if err != nil {
		return nil, errs.E(op, errs.Invalid, "descriptors", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, errs.E(op, errs.Invalid, "descriptors", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed"))
		}
	}
	if len(files) != n || flags&unix.MSG_CTRUNC != 0 {
		return files, errs.E(op, errs.Invalid, "descriptors", fmt.Errorf("%d came, not %d", len(files), n))
	}
	return files, nil
}

// receivePending reads the bytes that had arrived on each connection.
func (l *Legacy) receivePending(conn io.Reader, head *legacyHead) error {
	for i := range l.Disks {
		for j := range l.Disks[i].Conns {
			p := make([]byte, head.Disks[i].Conns[j].Pending)
			if _, err := io.ReadFull(conn, p); err != nil {
				return errs.E("iofilter.ReceiveLegacy", errs.Unavailable, "pending", err)
			}
			l.Disks[i].Conns[j].Pending = p
		}
	}
	return nil
}
