package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"holdfast/internal/errs"
)

// message is anything QEMU says on QMP: the greeting, an answer or an event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
	ID       *uint64         `json:"id"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
}

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Desc }

// decodeMessage reads one line of QMP.
func decodeMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, errs.E("qemu.qmp", errs.Corrupt, "", fmt.Errorf("not a message: %w", err))
	}
	if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
		return message{}, errs.New("qemu.qmp", errs.Corrupt, "", "a message of no known kind")
	}
	return m, nil
}

// qmp is a client of one QEMU's control socket. run reads; execute is safe for
// concurrent use.
type qmp struct {
	conn    net.Conn
	onEvent func(event string, data json.RawMessage) // called by run, in order; must not block on qmp
	greeted chan struct{}                            // closed by run at the greeting

	mu      sync.Mutex
	pending map[uint64]chan message // guarded by mu; each has room for its one answer
	next    uint64                  // guarded by mu; id of the next command
	dead    error                   // guarded by mu; why run ended; nil while it runs
	done    chan struct{}           // closed by run at its end
}

func newQMP(conn net.Conn, onEvent func(string, json.RawMessage)) *qmp {
	return &qmp{
		conn: conn, onEvent: onEvent, greeted: make(chan struct{}),
		pending: map[uint64]chan message{}, done: make(chan struct{}),
	}
}

// run reads until the connection ends, which Close of conn or QEMU's end do.
// Every message that arrived before has been delivered when it returns.
func (q *qmp) run() {
	err := q.read()
	if errors.Is(err, io.EOF) {
		err = errors.New("QEMU closed its control socket")
	}
	q.mu.Lock()
	q.dead = errs.E("qemu.Execute", errs.Unavailable, "", err)
	q.mu.Unlock()
	close(q.done)
}

func (q *qmp) read() error {
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(nil, maxMessage)
	greeted := false
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		m, err := decodeMessage(line)
		if err != nil {
			return err
		}
		switch {
		case m.Event != "":
			q.onEvent(m.Event, m.Data)
		case m.Greeting != nil:
			if !greeted {
				greeted = true
				close(q.greeted)
			}
		case m.ID != nil:
			q.answer(*m.ID, m)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

// answer hands m to whoever waits for it, if anybody still does.
func (q *qmp) answer(id uint64, m message) {
	q.mu.Lock()
	ch := q.pending[id]
	delete(q.pending, id)
	q.mu.Unlock()
	if ch != nil {
		ch <- m
	}
}

// negotiate waits for the greeting and leaves the mode in which QEMU takes no
// other command.
func (q *qmp) negotiate(ctx context.Context) error {
	select {
	case <-q.greeted:
		return q.execute(ctx, "qmp_capabilities", nil, nil)
	case <-q.done:
		return q.deadErr()
	case <-ctx.Done():
		return canceled(ctx)
	}
}

func (q *qmp) deadErr() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dead
}

func canceled(ctx context.Context) error {
	return errs.E("qemu.Execute", errs.Canceled, "", context.Cause(ctx))
}

// execute runs one command; args and result may be nil. A command whose ctx
// ends was sent all the same and may still take effect.
func (q *qmp) execute(ctx context.Context, command string, args, result any) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	id, ch, err := q.send(ctx, command, args)
	if err != nil {
		return err
	}
	var m message
	select {
	case m = <-ch:
	case <-q.done:
		select {
		case m = <-ch: // it answered and then ended
		default:
			return q.deadErr()
		}
	case <-ctx.Done():
		q.answer(id, message{}) // nobody waits any more
		return canceled(ctx)
	}
	if m.Error != nil {
		return errs.E("qemu.Execute", errs.Conflict, command, m.Error)
	}
	if result != nil {
		if err := json.Unmarshal(m.Return, result); err != nil {
			return errs.E("qemu.Execute", errs.Corrupt, command, err)
		}
	}
	return nil
}

// send writes one command and returns where its answer will be.
func (q *qmp) send(ctx context.Context, command string, args any) (uint64, chan message, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead != nil {
		return 0, nil, q.dead
	}
	if len(q.pending) >= maxPending {
		return 0, nil, errs.New("qemu.Execute", errs.Full, command, "too many commands are waiting for QEMU")
	}
	id := q.next
	q.next++
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return 0, nil, errs.E("qemu.Execute", errs.Invalid, command, err)
	}
	// A QEMU that reads nothing must not hold the caller beyond its time.
	deadline, _ := ctx.Deadline()
	if err := q.conn.SetWriteDeadline(deadline); err != nil {
		return 0, nil, errs.E("qemu.Execute", errs.Unavailable, command, err)
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		// Half a command may be out: the stream is no use any more.
		q.conn.Close()
		return 0, nil, errs.E("qemu.Execute", errs.Unavailable, command, err)
	}
	ch := make(chan message, 1)
	q.pending[id] = ch
	return id, ch, nil
}
