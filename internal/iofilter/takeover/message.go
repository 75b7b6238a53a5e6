package takeover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// The words of one byte.
const (
	wordOpen   = 'o'
	wordNo     = 'n'
	wordGo     = 'g'
	wordHand   = 'h'
	wordReady  = 'r'
	wordYours  = 'y'
	wordServes = 's'
	wordLeft   = 'l'
	wordAnswer = 'a'
)

// Identity is whose disks are to be handed over; both sides must mean the same.
type Identity struct {
	Domain dr.DomainID `json:"domain"`
	Host   dr.HostID   `json:"host"`
}

// ask is what an heir says first.
type ask struct {
	Version int `json:"version"`
	Identity
}

// refusal carries an error.
type refusal struct {
	Kind    errs.Kind `json:"kind"`
	Message string    `json:"message"`
	Remedy  string    `json:"remedy,omitempty"`
}

// frame renders a message with its length.
func frame(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil || len(b) > maxMessage {
		return nil, errs.E("takeover.frame", errs.Internal, "message", err)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...), nil
}

// readFrame reads a message of bounded length into v.
func readFrame(r io.Reader, v any) error {
	const op = "takeover.read"
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return errs.E(op, errs.Unavailable, "message", err)
	}
	size := binary.LittleEndian.Uint32(n[:])
	if size > maxMessage {
		return errs.E(op, errs.Invalid, "message", fmt.Errorf("%d bytes are over the bound", size))
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return errs.E(op, errs.Unavailable, "message", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errs.E(op, errs.Invalid, "message", err)
	}
	return nil
}

// judge decides about an ask.
func (a *ask) judge(own Identity) error {
	const op = "takeover.Ask"
	switch {
	case a.Version != version:
		return errs.E(op, errs.Invalid, "version", fmt.Errorf("the running host component speaks version %d, not %d", version, a.Version)).
			WithRemedy("stop it, then start this one without --takeover")
	case a.Identity != own:
		return errs.New(op, errs.Invalid, own.Host.String(), "the running host component is of another host or domain").
			WithRemedy("name the configuration of the one to be followed")
	}
	return nil
}

// readWord reads one of the words that are expected, or a refusal, which it
// returns as the error it is.
func readWord(r io.Reader, want byte) error {
	const op = "takeover.read"
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return errs.E(op, errs.Unavailable, "peer", err)
	}
	return judgeWord(r, b[0], want)
}

func judgeWord(r io.Reader, got, want byte) error {
	const op = "takeover.read"
	switch got {
	case want:
		return nil
	case wordNo:
		var no refusal
		if err := readFrame(r, &no); err != nil {
			return err
		}
		return errs.New("takeover.Ask", no.Kind, "", no.Message).WithRemedy(no.Remedy)
	}
	return errs.E(op, errs.Invalid, "peer", fmt.Errorf("%q where %q is due", got, want))
}

// refuse tells why not.
func refuse(conn io.Writer, why error) error {
	message := why.Error()
	b, err := frame(refusal{errs.KindOf(why), message[:min(len(message), maxMessage/8)], errs.RemedyOf(why)})
	if err != nil {
		return err
	}
	_, err = conn.Write(append([]byte{wordNo}, b...))
	return err
}

// peerOf says who is at the other end. Error: Denied, another user.
func peerOf(conn *net.UnixConn) (pid int, err error) {
	const op = "takeover.peer"
	rc, err := conn.SyscallConn()
	if err != nil {
		return 0, errs.E(op, errs.Unavailable, "peer", err)
	}
	var cred *unix.Ucred
	var failed error
	if err = rc.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || failed != nil {
		return 0, errs.E(op, errs.Unavailable, "peer", errors.Join(err, failed))
	}
	if int(cred.Uid) != os.Geteuid() {
		return 0, errs.E(op, errs.Denied, "peer", fmt.Errorf("it is of user %d", cred.Uid)).
			WithRemedy("run it as the user the host component runs as")
	}
	return int(cred.Pid), nil
}
