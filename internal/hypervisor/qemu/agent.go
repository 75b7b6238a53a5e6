package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// agent talks to the agent in a guest (qemu-ga) over the socket of its
// channel. Whatever is in the guest may say anything at any length; nothing of
// it is believed but the answer to what was asked. Every operation is one
// connection, so that the channel is free for others in between, and begins
// with a handshake that skips what was left in the channel:
//
//	→ 0xff {"execute":"guest-sync-delimited","arguments":{"id":N}}
//	← anything… 0xff {"return":N}
//
// Safe for concurrent use.
type agent struct {
	path string // "": there is none

	busy sync.Mutex // held while a conversation is under way

	mu       sync.Mutex
	answered time.Time   // guarded by mu; when the agent last answered
	frozen   bool        // guarded by mu; by us, and not thawed yet
	deadMan  *time.Timer // guarded by mu; ends the freeze
	closed   bool        // guarded by mu
}

func newAgent(path string) *agent { return &agent{path: path} }

// answeredLately reports whether the guest has an agent, as far as we know.
func (a *agent) answeredLately() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.answered.IsZero() && time.Since(a.answered) < agentMemory
}

// Freeze freezes the guest's file systems for at most limit.
func (v *LiveVM) Freeze(ctx context.Context, limit time.Duration) (int, error) {
	if err := v.p.usable(ctx, "qemu.Freeze"); err != nil {
		return 0, err
	}
	return v.agent.freeze(ctx, limit)
}

// Thaw ends a freeze.
func (v *LiveVM) Thaw(ctx context.Context) (int, error) {
	if err := v.p.usable(ctx, "qemu.Thaw"); err != nil {
		return 0, err
	}
	return v.agent.thaw(ctx)
}

func (a *agent) freeze(ctx context.Context, limit time.Duration) (int, error) {
	const op = "qemu.Freeze"
	if limit <= 0 {
		limit = hypervisor.DefaultFreezeLimit
	}
	a.busy.Lock()
	defer a.busy.Unlock()
	if !a.arm(limit) {
		return 0, errs.New(op, errs.Conflict, a.path, "the guest is frozen already")
	}
	// A guest that is slow to freeze is let go as soon as it has.
	ctx, cancel := context.WithTimeout(ctx, max(limit, agentLimit))
	defer cancel()
	var n int
	asked, err := a.ask(ctx, op, "guest-fsfreeze-freeze", &n)
	switch {
	case err == nil && n > 0:
		return n, nil
	case err == nil:
		err = errs.New(op, errs.Unavailable, a.path, "the guest's agent finds no file system to freeze")
	}
	if !asked {
		a.disarm()
		return 0, err
	}
	// It may have happened, or happen yet: make sure that it does not last.
	go a.release()
	return 0, err
}

// arm notes that a freeze is ours to end; false when one is under way.
func (a *agent) arm(limit time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.frozen || a.closed {
		return false
	}
	a.frozen = true
	a.deadMan = time.AfterFunc(limit, a.release)
	return true
}

// disarm reports whether a freeze was ours to end; it is not any more.
func (a *agent) disarm() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.frozen {
		return false
	}
	a.frozen = false
	a.deadMan.Stop()
	return true
}

func (a *agent) thaw(ctx context.Context) (int, error) {
	a.busy.Lock()
	defer a.busy.Unlock()
	a.mu.Lock()
	ours := a.frozen
	a.mu.Unlock()
	if !ours {
		return 0, nil
	}
	var n int
	if _, err := a.ask(ctx, "qemu.Thaw", "guest-fsfreeze-thaw", &n); err != nil {
		return 0, err // the dead man tries again
	}
	a.disarm()
	return n, nil
}

// release thaws, however often that takes.
func (a *agent) release() {
	for range maxThaws {
		ctx, cancel := context.WithTimeout(context.Background(), agentLimit)
		_, err := a.thaw(ctx)
		cancel()
		a.mu.Lock()
		over := a.closed || err == nil
		a.mu.Unlock()
		if over {
			return
		}
		time.Sleep(thawEvery)
	}
}

// rescue thaws a guest that a driver before us froze and left so, and finds
// out whether there is an agent.
func (a *agent) rescue() {
	if a.path == "" {
		return
	}
	a.busy.Lock()
	defer a.busy.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), agentLimit)
	defer cancel()
	var status string
	if _, err := a.ask(ctx, "qemu.Thaw", "guest-fsfreeze-status", &status); err != nil || status != "frozen" {
		return
	}
	var n int
	_, _ = a.ask(ctx, "qemu.Thaw", "guest-fsfreeze-thaw", &n) // no caller is there to hear of it
}

// close thaws what is frozen; nothing is frozen afterwards.
func (a *agent) close() {
	ctx, cancel := context.WithTimeout(context.Background(), agentLimit)
	defer cancel()
	_, _ = a.thaw(ctx) // a guest that does not answer cannot be helped
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.disarm()
}

// execute runs one command for who may be refused.
func (a *agent) execute(ctx context.Context, op, command string, args, result any) error {
	var none any
	if result == nil {
		result = &none
	}
	_, err := a.askWith(ctx, op, command, args, result)
	var refused *qmpError
	switch {
	case errors.As(err, &refused):
		return errs.E(op, errs.Invalid, command, refused)
	case err != nil && ctx.Err() != nil && !errs.Is(err, errs.Canceled):
		return errs.E(op, errs.Transient, command, fmt.Errorf("the answer did not come: %w", err))
	}
	return err
}

// AskGuest asks the guest's agent, as hypervisor.Guest promises.
func (v *LiveVM) AskGuest(ctx context.Context, command string, args, result any) error {
	const op = "qemu.AskGuest"
	if err := v.p.usable(ctx, op); err != nil {
		return err
	}
	v.agent.busy.Lock()
	defer v.agent.busy.Unlock()
	return v.agent.execute(ctx, op, command, args, result)
}

// ask runs one command. asked reports whether the guest may have heard it.
func (a *agent) ask(ctx context.Context, op, command string, result any) (asked bool, err error) {
	return a.askWith(ctx, op, command, nil, result)
}

// askWith is ask with arguments.
func (a *agent) askWith(ctx context.Context, op, command string, args, result any) (asked bool, err error) {
	if a.path == "" {
		return false, errs.New(op, errs.Unavailable, "", "the VM has no channel to a guest agent").
			WithRemedy("give the VM a virtio-serial port org.qemu.guest_agent.0, install qemu-guest-agent in it, and name the socket")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", a.path)
	if err != nil {
		return false, errs.E(op, errs.Unavailable, a.path, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	t := talk{conn: conn, r: bufio.NewReader(io.LimitReader(conn, maxAgentBytes))}
	if err := t.sync(); err != nil {
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return false, errs.E(op, errs.Canceled, a.path, context.Cause(ctx))
		}
		return false, errs.E(op, errs.Unavailable, a.path, err).
			WithRemedy("start qemu-guest-agent in the guest; only one program of the host may use its channel")
	}
	if err := t.call(command, args, result); err != nil {
		var refused *qmpError
		kind := errs.Transient
		if errors.As(err, &refused) {
			kind = errs.Unavailable
		}
		return true, errs.E(op, kind, a.path, err)
	}
	a.mu.Lock()
	a.answered = time.Now()
	a.mu.Unlock()
	return true, nil
}

// talk is one conversation with an agent.
type talk struct {
	conn net.Conn
	r    *bufio.Reader
}

// delimiter begins what belongs to our handshake; it is in no JSON text.
const delimiter = 0xff

// sync throws away what was in the channel before us.
func (t *talk) sync() error {
	t.conn.SetReadDeadline(time.Now().Add(syncLimit))
	id := rand.Int64N(1 << 53) // what a JSON number holds
	if err := t.send("guest-sync-delimited", object{"id": id}, delimiter); err != nil {
		return err
	}
	for {
		if err := t.skip(); err != nil {
			return err
		}
		line, err := t.line()
		if err != nil {
			return err
		}
		line = line[bytes.LastIndexByte(line, delimiter)+1:] // garbage may end in one
		var answer struct {
			Return json.Number `json:"return"`
		}
		if json.Unmarshal(line, &answer) == nil {
			if n, err := answer.Return.Int64(); err == nil && n == id {
				t.conn.SetReadDeadline(time.Time{})
				return nil
			}
		}
	}
}

// skip reads up to and including the next delimiter.
func (t *talk) skip() error {
	for {
		b, err := t.r.ReadByte()
		if err != nil || b == delimiter {
			return err
		}
	}
}

// line reads one line of bounded length.
func (t *talk) line() ([]byte, error) {
	var line []byte
	for {
		part, err := t.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSpace(line), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > maxAgentLine:
			return nil, errs.New("qemu.agent", errs.Corrupt, "", "the guest's agent sends a line without end")
		}
	}
}

func (t *talk) send(command string, args any, before ...byte) error {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return err
	}
	_, err = t.conn.Write(append(append(before, b...), '\n'))
	return err
}

// call runs one command after sync.
func (t *talk) call(command string, args, result any) error {
	if err := t.send(command, args); err != nil {
		return err
	}
	line, err := t.line()
	if err != nil {
		return err
	}
	return decodeAnswer(line, result)
}

// decodeAnswer reads an agent's answer to a command.
func decodeAnswer(line []byte, result any) error {
	var answer struct {
		Return json.RawMessage `json:"return"`
		Error  *qmpError       `json:"error"`
	}
	switch err := json.Unmarshal(line, &answer); {
	case err != nil:
		return errs.E("qemu.agent", errs.Corrupt, "", err)
	case answer.Error != nil:
		return answer.Error
	case answer.Return == nil:
		return errs.New("qemu.agent", errs.Corrupt, "", "the guest's agent gave no answer")
	}
	if err := json.Unmarshal(answer.Return, result); err != nil {
		return errs.E("qemu.agent", errs.Corrupt, "", err)
	}
	return nil
}
