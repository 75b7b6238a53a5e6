package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/recovery"
)

// Boxes starts and ends processes of this program. The door gives them.
type Boxes struct {
	// Launch returns the process that answers on a status socket, or starts one with
	// args, its output going to a file in dir, and returns when it answers. Kind
	// Unavailable: it ended, and what it said last.
	Launch func(ctx context.Context, dir, name, socket string, args ...string) (recovery.Process, error)
	// Running finds the processes with these arguments, whether they answer or not.
	Running func(name string, args ...string) []recovery.Process
	// End ends one in order, by force if it does not obey, and returns when it is gone.
	End func(ctx context.Context, p recovery.Process) error
}

// unit is one process of a box: it is to run with a configuration. Safe for concurrent
// use.
type unit struct {
	boxes  *Boxes
	log    *slog.Logger
	name   string
	dir    string   // of its files
	config string   // path
	args   []string // by which it is started, and found

	mu    sync.Mutex // one change at a time
	pause time.Duration
	next  time.Time // no start before; zero: at once
	fault error     // of the last start; nil: it went well
}

func newUnit(boxes *Boxes, log *slog.Logger, name, dir string, command string) *unit {
	config := filepath.Join(dir, name+".json")
	return &unit{boxes: boxes, log: log.With("process", name), name: name, dir: dir, config: config, args: []string{command, "--config", config}}
}

func (u *unit) startedPath() string { return filepath.Join(u.dir, u.name+".started") }

// configured has the process's configuration be content: on return it is durable, and no
// process runs with another one. One that answers on one of the sockets is asked to take
// it as it runs; if it does not, it is ended. Kinds: those of durable, and of ending a
// process.
func (u *unit) configured(ctx context.Context, content []byte, sockets ...string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	was, err := durable.ReadFile(durable.OS{}, u.startedPath(), 2*sha256.Size)
	if err == nil && string(was) == digest {
		return nil
	}
	if err != nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Corrupt) {
		return err
	}
	if err := durable.MkdirAll(durable.OS{}, u.dir); err != nil {
		return err
	}
	live, err := u.runsOn(ctx, content, sockets)
	if err != nil {
		return err
	}
	if !live {
		if err := u.endLocked(ctx); err != nil {
			return err
		}
		if err := durable.WriteFile(durable.OS{}, u.config, content); err != nil {
			return err
		}
		u.next, u.pause = time.Time{}, 0
	}
	return durable.WriteFile(durable.OS{}, u.startedPath(), []byte(digest))
}

// runsOn has the process take the configuration as it runs; live: it has. Else the file
// says what it did. The digest goes first: whoever dies in between leaves a process of
// which nothing is said, and the next one asks it again.
func (u *unit) runsOn(ctx context.Context, content []byte, sockets []string) (live bool, err error) {
	was, err := durable.ReadFile(durable.OS{}, u.config, maxConfig)
	if errs.Is(err, errs.NotFound) || len(sockets) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := durable.Remove(durable.OS{}, u.startedPath()); err != nil {
		return false, err
	}
	if err := durable.WriteFile(durable.OS{}, u.config, content); err != nil {
		return false, err
	}
	if u.takes(ctx, sockets) {
		return true, nil
	}
	return false, durable.WriteFile(durable.OS{}, u.config, was)
}

// takes reports whether the process that answers on one of the sockets is by now what its
// file says.
func (u *unit) takes(ctx context.Context, sockets []string) bool {
	for _, s := range sockets {
		var out struct{}
		err := ask(ctx, s, "/reconfigure", nil, &out)
		if err == nil {
			u.log.Info("the process has other settings, and runs on")
			return true
		}
		if !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.NotFound) { // it refuses, or does not know how; else it is not there, and another socket may be
			u.log.Info("the process is started again for its new settings", "why", err)
			return false
		}
	}
	return false
}

// isConfigured reports whether the process was ever to run.
func (u *unit) isConfigured() bool {
	_, err := durable.OS{}.Stat(u.config)
	return err == nil
}

// up sees that the process runs, of which one of the sockets answers, and starts it if it
// does not, unless it was started a moment ago. Kind Unavailable: it does not run.
func (u *unit) up(ctx context.Context, sockets ...string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range sockets {
		if answers(ctx, s) {
			u.pause, u.next, u.fault = 0, time.Time{}, nil
			return nil
		}
	}
	if now := time.Now(); now.Before(u.next) {
		return u.fault
	}
	_, err := u.boxes.Launch(ctx, u.dir, u.name, sockets[0], u.args...)
	if ctx.Err() != nil {
		return errs.E("appliance.up", errs.Canceled, u.name, context.Cause(ctx))
	}
	if err != nil {
		u.pause = min(max(2*u.pause, startFirst), startMost)
		u.next, u.fault = time.Now().Add(u.pause), err
		u.log.Warn("the process does not run", "err", err, "again in", u.pause)
		return err
	}
	u.log.Info("the process runs")
	u.pause, u.next, u.fault = 0, time.Time{}, nil
	return nil
}

// soon has the next up start the process at once.
func (u *unit) soon() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pause, u.next = 0, time.Time{}
}

// end ends the process.
func (u *unit) end(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.endLocked(ctx)
}

func (u *unit) endLocked(ctx context.Context) error {
	for _, p := range u.boxes.Running(u.name, u.args...) {
		if err := u.boxes.End(ctx, p); err != nil {
			return err
		}
		u.log.Info("the process was ended", "pid", p.PID)
	}
	return nil
}

// answers reports whether a process answers on its status socket.
func answers(ctx context.Context, socket string) bool {
	var any struct{}
	return ask(ctx, socket, "/status", nil, &any) == nil
}

// ask makes a local call that is answered at once.
func ask(ctx context.Context, socket, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return control.CallLocal(ctx, socket, path, in, out)
}
