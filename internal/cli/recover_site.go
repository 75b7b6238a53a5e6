package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/journal"
	"holdfast/internal/recovery"
)

const (
	// launchLimit is how long a box may take to answer after its start, and
	// endLimit to end in order.
	launchLimit = 60 * time.Second
	endLimit    = 30 * time.Second
	// launchPoll is how often it is asked meanwhile.
	launchPoll = 50 * time.Millisecond
	// lastWords is how much of a box's log an error quotes, bytes.
	lastWords = 2 << 10
)

// withService makes the service of a command, and closes what it is made of. VMs
// that it started go on.
func withService(cmd *cobra.Command, platform *providerFlags, do func(*recovery.Service) error) (err error) {
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	p, err := platform.open(cmd.Context(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return do(newService(cmd, platform, p, log))
}

// newService makes a service whose runs' VMs are p's.
func newService(cmd *cobra.Command, platform *providerFlags, p hypervisor.Provider, log *slog.Logger) *recovery.Service {
	var s *recovery.Service
	o := recoveryOptions(platform, p, log)
	o.Source = func(ctx context.Context, where map[string]string) (recovery.Source, error) {
		return openSource(ctx, s, where, platform, cmd)
	}
	s = recovery.New(o)
	return s
}

// openAt opens a container with what a request's access names.
func openAt(ctx context.Context, url string, access map[string]string) (*journal.Container, error) {
	return openContainer(ctx, url, identityAt(access))
}

// recoveryOptions are those of a service whose runs' VMs are p's and whose source is
// nowhere.
func recoveryOptions(platform *providerFlags, p hypervisor.Provider, log *slog.Logger) recovery.Options {
	return recovery.Options{
		Provider: p, Logger: log, Open: openAt,
		Site: &recovery.Site{
			Identity: func(access map[string]string) map[string]string { return access },
			Platform: func(monitors []string) any {
				if platform.platform == "libvirt" {
					return platformConfig{Libvirt: platform.libvirt}
				}
				c := platformConfig{}
				for _, m := range monitors {
					c.QMP = append(c.QMP, monitorConfig{Socket: m})
				}
				return c
			},
			DiskName: platform.diskName,
			Launch:   launchBox,
			Running:  boxesWith,
			End:      endBox,
		},
	}
}

// diskName is what the platform calls a disk of a VM it was given.
func (f *providerFlags) diskName(disks []dr.VMDisk, place int) string {
	if f.platform != "libvirt" {
		return "disk" + strconv.Itoa(place) + "-dev" // the id of its device, see package qemu
	}
	prefix := func(bus string) string {
		switch bus {
		case "virtio":
			return "vd"
		case "ide":
			return "hd"
		}
		return "sd"
	}
	n := 0
	for _, d := range disks[:place] {
		if prefix(d.Bus) == prefix(disks[place].Bus) {
			n++
		}
	}
	return prefix(disks[place].Bus) + string(rune('a'+n%26))
}

// platformOf is what runs the VMs of the recovery in dir.
func platformOf(dir string) (*providerFlags, error) {
	req, err := recovery.ReadRequest(dir)
	if err != nil {
		return nil, err
	}
	return &providerFlags{platform: req.Platform["platform"], libvirt: req.Platform["libvirt"]}, nil
}

// openSource reaches the site that protects the domain now.
func openSource(ctx context.Context, s *recovery.Service, where map[string]string, platform *providerFlags, cmd *cobra.Command) (recovery.Source, error) {
	if where["run"] != "" {
		return openSourceRun(ctx, s, where["run"], platform, cmd)
	}
	b := &recovery.Boxes{DRVA: where["drva"], Hosts: strings.Split(where["hosts"], "\n"), Power: &commandPower{stop: where["stop"], start: where["start"], cmd: cmd}}
	if where["limit"] != "" {
		d, err := time.ParseDuration(where["limit"])
		if err != nil {
			return nil, errs.E("recover", errs.Invalid, "guest-limit", err)
		}
		b.Limit = d
	}
	return b, nil
}

// openSourceRun reaches a run that holds the domain now. Its VMs may be another
// platform's than those of the run that takes the domain over.
func openSourceRun(ctx context.Context, s *recovery.Service, dir string, platform *providerFlags, cmd *cobra.Command) (recovery.Source, error) {
	there, err := platformOf(dir)
	if err != nil {
		return nil, err
	}
	if *there == *platform {
		return s.SourceRun(ctx, dir)
	}
	log, err := logger(cmd)
	if err != nil {
		return nil, err
	}
	p, err := there.open(ctx, log)
	if err != nil {
		return nil, err
	}
	src, err := newService(cmd, there, p, log).SourceRun(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &foreignSource{src, p}, nil
}

// foreignSource is a source with a provider of its own.
type foreignSource struct {
	recovery.Source
	provider hypervisor.Provider
}

// Close lets go of both.
func (f *foreignSource) Close() error { return errors.Join(f.Source.Close(), f.provider.Close()) }

// commandPower switches guests by commands of the user.
type commandPower struct {
	stop, start string
	cmd         *cobra.Command
}

// Stop runs the command, or asks people.
func (p *commandPower) Stop(ctx context.Context, vm dr.VMID, name string) error {
	if p.stop == "" {
		fmt.Fprintf(p.cmd.ErrOrStderr(), "shut down the guest %s now\n", name)
		return nil
	}
	return p.run(ctx, p.stop, vm, name)
}

// Start runs the command, or tells people.
func (p *commandPower) Start(ctx context.Context, vm dr.VMID, name string) error {
	if p.start == "" {
		fmt.Fprintf(p.cmd.ErrOrStderr(), "start the guest %s again\n", name)
		return nil
	}
	return p.run(ctx, p.start, vm, name)
}

func (p *commandPower) run(ctx context.Context, line string, vm dr.VMID, name string) error {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	c.Env = append(os.Environ(), "HOLDFAST_VM="+name, "HOLDFAST_VM_ID="+vm.String())
	out, err := c.CombinedOutput()
	if err != nil {
		return errs.E("recover", errs.Unavailable, name, fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out[max(0, len(out)-lastWords):]))))
	}
	return nil
}

// Close has nothing to let go of.
func (p *commandPower) Close() error { return nil }

// launchBox returns the process that answers on socket, and starts one if none
// does. It is found by its socket, so that one started by a command which died
// before it wrote its number down is not started twice.
func launchBox(ctx context.Context, dir, name, socket string, args ...string) (recovery.Process, error) {
	const op = "recover.launch"
	if p, ok := boxAt(name, socket); ok {
		return p, nil
	}
	if len(boxesWith(name, args...)) > 0 { // a command that died has just started it
		err := awaitBox(ctx, filepath.Join(dir, name+".log"), name, socket, func() bool { return len(boxesWith(name, args...)) == 0 })
		if p, ok := boxAt(name, socket); err == nil && ok {
			return p, nil
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return recovery.Process{}, errs.E(op, errs.Unavailable, "the holdfast binary", err)
	}
	path := filepath.Join(dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return recovery.Process{}, errs.E(op, errs.Unavailable, path, err)
	}
	defer log.Close()
	if err := keepInherited(); err != nil {
		return recovery.Process{}, errs.E(op, errs.Unavailable, name, err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives us and our terminal
	if err := cmd.Start(); err != nil {
		return recovery.Process{}, errs.E(op, errs.Unavailable, exe, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its log says why
		close(ended)
	}()
	if err := awaitBox(ctx, path, name, socket, func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	}); err != nil {
		return recovery.Process{}, err
	}
	if p, ok := boxAt(name, socket); ok {
		return p, nil
	}
	return recovery.Process{}, errs.New(op, errs.Unavailable, name, "it ended after its first answer: "+lastOf(path)).WithRemedy("see " + path)
}

// awaitBox waits until a box answers, or over says that it has ended.
func awaitBox(ctx context.Context, log, name, socket string, over func() bool) error {
	const op = "recover.launch"
	ctx, cancel := context.WithTimeoutCause(ctx, launchLimit, errors.New("it did not answer in time"))
	defer cancel()
	for {
		var any struct{}
		if err := control.CallLocal(ctx, socket, "/status", nil, &any); err == nil {
			return nil
		}
		if over() {
			return errs.New(op, errs.Unavailable, name, "it ended at once: "+lastOf(log)).WithRemedy("see " + log)
		}
		select {
		case <-ctx.Done():
			return errs.E(op, errs.Unavailable, name, context.Cause(ctx)).WithRemedy("see " + log)
		case <-time.After(launchPoll):
		}
	}
}

// boxesWith finds the processes that were started with these arguments, whether
// they answer yet or not.
func boxesWith(name string, args ...string) (found []recovery.Process) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	want := "\x00" + strings.Join(args, "\x00") + "\x00"
	for _, path := range all {
		b, err := os.ReadFile(path)
		program, rest, _ := strings.Cut(string(b), "\x00")
		if err != nil || program == "" || "\x00"+rest != want {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if start, err := live.StartOf(pid); err == nil {
			found = append(found, recovery.Process{Name: name, PID: pid, Start: start})
		}
	}
	return found
}

// keepInherited keeps from processes that outlive this one what it was given by
// whoever started it, a lock perhaps. Its own files are closed for them anyway.
func keepInherited() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return nil
}

// boxAt finds the process that answers on a socket.
func boxAt(name, socket string) (recovery.Process, bool) {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		return recovery.Process{}, false
	}
	defer nc.Close()
	raw, err := nc.(*net.UnixConn).SyscallConn()
	if err != nil {
		return recovery.Process{}, false
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return recovery.Process{}, false
	}
	start, err := live.StartOf(int(cred.Pid))
	return recovery.Process{Name: name, PID: int(cred.Pid), Start: start}, err == nil
}

func lastOf(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-lastWords):]))
}

// endBox ends a process in order, and by force if it does not obey, and waits
// until the watchdog beside it has seen that.
func endBox(ctx context.Context, p recovery.Process) error {
	r, err := live.OpenProcess(p.PID, p.Start, nil)
	if errs.Is(err, errs.NotFound) {
		return awaitWatchdog(ctx, p)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if err := unix.Kill(p.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return errs.E("recover.end", errs.Denied, "process "+strconv.Itoa(p.PID), err)
	}
	t := time.NewTimer(endLimit)
	defer t.Stop()
	select {
	case <-r.Gone():
	case <-t.C:
		if err := r.Kill(ctx); err != nil {
			return err
		}
	case <-ctx.Done():
		return errs.E("recover.end", errs.Canceled, "process "+strconv.Itoa(p.PID), context.Cause(ctx))
	}
	return awaitWatchdog(ctx, p)
}

// awaitWatchdog waits until no process watches p any more: a watchdog ends by
// itself once it has taken the guests off what is gone.
func awaitWatchdog(ctx context.Context, p recovery.Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endLimit, errors.New("it did not end in time"))
	defer cancel()
	for {
		pid := watchdogOf(p)
		if pid == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.E("recover.end", errs.Unavailable, "watchdog, process "+pid, context.Cause(ctx)).WithRemedy("repeat; it ends by itself once its guests are gone")
		case <-time.After(launchPoll):
		}
	}
}

// watchdogOf finds the watchdog of a process by its command line, which names
// number and start; empty: there is none.
func watchdogOf(p recovery.Process) string {
	want := fmt.Sprintf("--pid\x00%d\x00--start\x00%d\x00", p.PID, p.Start)
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return ""
	}
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "iofilter-watchdog\x00") && strings.Contains(string(b), want) {
			return filepath.Base(filepath.Dir(path))
		}
	}
	return ""
}
