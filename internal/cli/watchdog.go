package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/iofilter/takeover"
)

const (
	// watchdogCommand is the command of a watchdog.
	watchdogCommand = "iofilter-watchdog"
	// firstInherited is the first descriptor that a process is given besides the
	// standard ones.
	firstInherited = 3
	// retireLimit is how long the watchdog of an earlier process may take to end:
	// it finishes what it does to one guest.
	retireLimit = 5 * time.Second
)

// startWatchdog starts a watchdog of this process, with other as its end of the
// connection.
func startWatchdog(path string, other *os.File) (*os.Process, error) {
	const op = "iofilter.startWatchdog"
	exe, err := os.Executable()
	if err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	start, err := live.StartOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil { // by which the next process knows what was left: see retireWatchdogs
		return nil, errs.E(op, errs.Internal, path, err)
	}
	cmd := exec.Command(exe, watchdogCommand, "--config", path, "--pid", strconv.Itoa(os.Getpid()), "--start", strconv.FormatUint(start, 10), "--lent", strconv.Itoa(firstInherited))
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{other}
	// A session of its own: what ends this process, or its terminal, must not
	// end the one that looks after its guests then.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keepInherited(); err != nil {
		return nil, errs.E(op, errs.Unavailable, exe, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, errs.E(op, errs.Unavailable, exe, err)
	}
	return cmd.Process, nil
}

// watch starts the watchdog, if there is to be one.
func (h *hostProcess) watch() error {
	if !h.cfg.Platform.isSet() || h.cfg.Live.Unwatch {
		return nil
	}
	g := &live.Guard{
		Start:   func(other *os.File) (*os.Process, error) { return startWatchdog(h.path, other) },
		Sockets: h.lent, Tell: h.watched, Logger: h.log,
	}
	if err := g.Begin(); err != nil {
		return err
	}
	h.guard = g
	return nil
}

// guarded keeps a watchdog until end is called.
func (h *hostProcess) guarded(ctx context.Context) (end func()) {
	if h.guard == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { h.guard.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

// lent are the sockets of the disks that were protected by name: of the others a
// watchdog takes nobody off.
func (h *hostProcess) lent() []iofilter.Socket {
	f, _, _ := h.now()
	if f == nil {
		return nil
	}
	return slices.DeleteFunc(f.Sockets(), func(s iofilter.Socket) bool {
		return slices.ContainsFunc(h.cfg.VMs, func(vm iofilter.VM) bool {
			return slices.ContainsFunc(vm.Disks, func(d iofilter.Disk) bool { return d.Socket == s.Path })
		})
	})
}

// watched takes in how the watchdog is.
func (h *hostProcess) watched(w iofilter.WatchdogStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchdog = &w
	if h.filter != nil {
		h.filter.Watched(w)
	}
}

// retireWatchdogs ends the watchdogs that earlier processes with this
// configuration left: the guests are this process's now. One that is taking a
// guest off does so to the end; what it serves of the disks it lets go of.
func retireWatchdogs(ctx context.Context, path string, log *slog.Logger) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return errs.E("iofilter.retireWatchdogs", errs.Internal, path, err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return errs.E("iofilter.retireWatchdogs", errs.Internal, "/proc", err)
	}
	want := watchdogCommand + "\x00--config\x00" + path + "\x00--pid\x00"
	var failed []error
	for _, file := range all {
		b, err := os.ReadFile(file)
		_, about, found := strings.Cut(string(b), want)
		if err != nil || !found || strings.HasPrefix(about, strconv.Itoa(os.Getpid())+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		log.Info("the watchdog of an earlier process is told to end", "pid", pid)
		failed = append(failed, retire(ctx, pid))
	}
	return errors.Join(failed...)
}

func retire(ctx context.Context, pid int) error {
	start, err := live.StartOf(pid)
	if err != nil {
		return nil // it has ended
	}
	p, err := live.OpenProcess(pid, start, nil)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Stop(ctx, retireLimit)
}

func newWatchdogCommand() *cobra.Command {
	var path string
	var pid, lent int
	var start uint64
	cmd := &cobra.Command{
		Use:   watchdogCommand + " --config FILE --pid PID --start TICKS",
		Short: "Take guests off a host component that is dead or hangs",
		Long: `Started by the host component itself: asks it every second whether it lives, kills it
when it has not answered for its configuration's live.hang, and takes the guests'
disks off its sockets, so that they go on alone. It never touches another process
of the same number: the start time must be the one named.`,
		Example: "  holdfast iofilter-watchdog --config node1.json --pid 4711 --start 123456",
		Hidden:  true, // the host component starts it
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg ioFilterConfig
			if err := readConfig(path, &cfg); err != nil {
				return err
			}
			return runWatchdog(cmd, &cfg, pid, start, lent)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "the host component's configuration file")
	cmd.Flags().IntVar(&pid, "pid", 0, "its process")
	cmd.Flags().Uint64Var(&start, "start", 0, "when that began, in clock ticks")
	cmd.Flags().IntVar(&lent, "lent", 0, "descriptor over which it lends its sockets (0: it does not)")
	return cmd
}

func runWatchdog(cmd *cobra.Command, cfg *ioFilterConfig, pid int, start uint64, lent int) error {
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	var sockets *live.Sockets
	if lent >= firstInherited {
		if sockets, err = live.HoldSockets(os.NewFile(uintptr(lent), "host component")); err != nil {
			return err
		}
		defer sockets.Close()
	}
	log = log.With("host", cfg.Name, "role", "watchdog")
	ctx := cmd.Context()
	p, err := live.OpenProcess(pid, start, func(ctx context.Context) error {
		var out done
		return control.CallLocal(ctx, cfg.Status, "/ping", nil, &out)
	})
	if err != nil {
		return err
	}
	defer p.Close()
	w := &live.Watchdog{
		Heir:    func() bool { return takeover.Inherited(cfg.Status + heirSuffix) },
		Sockets: sockets,
		Process: p, Hang: time.Duration(cfg.Live.Hang), Logger: log,
		Connect: func(ctx context.Context) (hypervisor.Platform, error) { return openPlatform(ctx, &cfg.Platform, log) },
		Open:    func() (*live.Record, error) { return live.OpenRecord(durable.OS{}, cfg.Live.Record) },
	}
	return w.Run(ctx)
}
