package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
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

// liveConfig is how running VMs are protected.
type liveConfig struct {
	Sockets  string            `json:"sockets"`                   // directory of the disks' sockets
	Record   string            `json:"record"`                    // file that says what is protected
	Direct   bool              `json:"direct,omitempty"`          // bypass the host's page cache
	LeaveNew bool              `json:"leave_new_disks,omitempty"` // do not adopt disks that are added
	Hang     iofilter.Duration `json:"hang,omitempty"`            // after so long without an answer the guests go on alone
	Capture  string            `json:"capture,omitempty"`         // "in-path" (default) or "mirror"
	Unwatch  bool              `json:"no_watchdog,omitempty"`
}

// openRecord reads what is protected.
func (h *hostProcess) openRecord() (*live.Record, error) {
	c := &h.cfg.Live
	if c.Sockets == "" || c.Record == "" || h.cfg.Status == "" {
		return nil, errs.New("iofilter.live", errs.Invalid, "live", "a platform is named, and not where sockets and the record are to be").
			WithRemedy("set live.sockets, live.record and status")
	}
	if _, ok := hypervisor.ParseCapture(c.Capture); !ok {
		return nil, errs.New("iofilter.live", errs.Invalid, "live.capture", "unknown way of capture: "+c.Capture).
			WithRemedy("use in-path or mirror")
	}
	return live.OpenRecord(durable.OS{}, c.Record)
}

// manage keeps up with the platform until ctx ends. The guests are taken off the
// sockets then, unless keep says otherwise.
func (h *hostProcess) manage(ctx context.Context, keep func() bool) error {
	p, err := h.connect(ctx)
	if p == nil || err != nil {
		return err
	}
	record, err := h.openRecord()
	if err != nil {
		return err
	}
	f, _, _ := h.now()
	capture, _ := hypervisor.ParseCapture(h.cfg.Live.Capture) // openRecord has judged the word
	m := live.New(live.Config{
		Platform: p, Host: f, Record: record, Sockets: h.cfg.Live.Sockets, Direct: h.cfg.Live.Direct,
		LeaveNew: h.cfg.Live.LeaveNew, Capture: capture, Logger: h.log,
	})
	h.setManager(m)
	defer h.setManager(nil)
	return m.Run(ctx, keep)
}

// connect returns the platform: at once, or, in the place of another process,
// when that has let go of it; then guests are served already, and it is tried
// until ctx ends, which gives nil.
func (h *hostProcess) connect(ctx context.Context) (hypervisor.Platform, error) {
	if _, _, p := h.now(); p != nil {
		return p, nil
	}
	select {
	case <-h.left:
	case <-ctx.Done():
		return nil, nil
	}
	for {
		p, err := openPlatform(ctx, &h.cfg.Platform, h.log)
		if err == nil {
			h.setPlatform(p)
			return p, nil
		}
		h.log.Error("the hypervisor cannot be reached, trying on", "err", err, "remedy", errs.RemedyOf(err))
		t := time.NewTimer(connectRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, nil
		}
	}
}

// setManager says who answers calls about VMs; nil: nobody, for now.
func (h *hostProcess) setManager(m *live.Manager) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.manager = m
	if m != nil {
		close(h.managed)
	} else {
		h.managed = make(chan struct{})
	}
}

// awaitManager returns who answers calls about VMs, which in a start and in a
// hand-over may take a moment.
func (h *hostProcess) awaitManager(ctx context.Context) (*live.Manager, error) {
	h.mu.Lock()
	managed := h.managed
	h.mu.Unlock()
	t := time.NewTimer(managedLimit)
	defer t.Stop()
	select {
	case <-managed:
	case <-t.C:
	case <-ctx.Done():
	}
	if _, m, _ := h.now(); m != nil {
		return m, nil
	}
	return nil, notConnected(h.cfg.Name)
}

// protectRequest is the body of a local /protect, /unprotect or /resize call.
type protectRequest struct {
	VM      string   `json:"vm"`
	Skip    []string `json:"skip,omitempty"`
	Capture string   `json:"capture,omitempty"`
	Release bool     `json:"release,omitempty"`
	Disk    string   `json:"disk,omitempty"` // of /resize, as Size
	Size    int64    `json:"size,omitempty"` // bytes
}

// liveCalls adds the local calls of a host component with a platform.
func (h *hostProcess) liveCalls(to map[string]control.Handler) {
	call := func(do func(context.Context, *live.Manager, *protectRequest) (live.Report, error)) control.Handler {
		return func(ctx context.Context, body []byte) (any, error) {
			var r protectRequest
			if err := decodeCall("iofilter.protect", body, &r); err != nil {
				return nil, err
			}
			m, err := h.awaitManager(ctx)
			if err != nil {
				return nil, err
			}
			return do(ctx, m, &r)
		}
	}
	to["/protect"] = call(func(ctx context.Context, m *live.Manager, r *protectRequest) (live.Report, error) {
		return m.Protect(ctx, r.VM, live.Options{Skip: r.Skip, Capture: r.Capture})
	})
	to["/unprotect"] = call(func(ctx context.Context, m *live.Manager, r *protectRequest) (live.Report, error) {
		return m.Unprotect(ctx, r.VM, iofilter.UnprotectOptions{Release: r.Release})
	})
	to["/resize"] = call(func(ctx context.Context, m *live.Manager, r *protectRequest) (live.Report, error) {
		return m.Resize(ctx, r.VM, r.Disk, r.Size)
	})
}

func newProtectCommand() *cobra.Command {
	var r protectRequest
	var wait bool
	cmd := &cobra.Command{
		Use:   "protect SOCKET VM",
		Short: "Protect a running VM, without a restart of it",
		Long: `Has the host component that answers on SOCKET protect a VM of its hypervisor (the
"platform" of its configuration), by name or UUID: from the return on every write
of the guest is captured, and the first copy is under way. Disks that are added to
the VM later are protected when they appear.

--capture says how. in-path: the guest's disk is the host component, which writes to
the image; a qcow2 or other image is opened by a qemu-storage-daemon meanwhile.
mirror: QEMU goes on writing to the image itself, and sends each write here before
it answers the guest; reads never pass the host component, and if it fails the
guest does not notice.`,
		Example: "  holdfast protect /run/holdfast/iofilter.sock erp1 --wait\n  holdfast protect /run/holdfast/iofilter.sock erp2 --capture mirror",
		Args:    exactArgs("SOCKET", "VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.VM = args[1]
			var rep live.Report
			if err := control.CallLocal(cmd.Context(), args[0], "/protect", r, &rep); err != nil {
				return err
			}
			if wait {
				if err := awaitCopy(cmd, args[0], &rep); err != nil {
					return err
				}
			}
			return print(cmd, rep, func(w io.Writer) { printProtection(w, &rep, "protected") })
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().StringArrayVar(&r.Skip, "skip", nil, "disk to leave out, by name; may be repeated")
	cmd.Flags().StringVar(&r.Capture, "capture", "", "in-path or mirror (default: live.capture of the configuration)")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the first copy is complete")
	return cmd
}

func newUnprotectCommand() *cobra.Command {
	var r protectRequest
	cmd := &cobra.Command{
		Use:   "unprotect SOCKET VM",
		Short: "End the protection of a running VM, without a restart of it",
		Long: `Has the host component that answers on SOCKET end the protection of a VM, by name
or UUID: its guest goes on with its own disks alone. Its recovery points stay.`,
		Example: "  holdfast unprotect /run/holdfast/iofilter.sock erp1",
		Args:    exactArgs("SOCKET", "VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.VM = args[1]
			var rep live.Report
			if err := control.CallLocal(cmd.Context(), args[0], "/unprotect", r, &rep); err != nil {
				return err
			}
			return print(cmd, rep, func(w io.Writer) { printProtection(w, &rep, "not protected any more") })
		},
	}
	addOutputFlag(cmd)
	cmd.Flags().BoolVar(&r.Release, "release", false, "hand it over: the domain keeps the VM, and another host goes on")
	return cmd
}

func newResizeCommand() *cobra.Command {
	var r protectRequest
	cmd := &cobra.Command{
		Use:   "resize SOCKET VM DISK SIZE",
		Short: "Grow a disk of a protected, running VM, without a restart of it",
		Long: `Has the host component that answers on SOCKET grow a raw disk of a VM that it
protects, as it is named in "holdfast status". The VM stands still for some
milliseconds, in which the image and the host component get the new size: no write
is lost, and none passes unseen. What was added is copied.

QEMU refuses to grow a disk with a host component in its path otherwise. A disk that
is captured by a mirror, is no raw image, or was attached by libvirt's block copy is
unprotected, resized, and protected again.`,
		Example: "  holdfast resize /run/holdfast/iofilter.sock erp1 vdb 200GiB",
		Args:    exactArgs("SOCKET", "VM", "DISK", "SIZE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.VM, r.Disk = args[1], args[2]
			if r.Size, err = parseSize("SIZE", args[3]); err != nil {
				return err
			}
			var rep live.Report
			if err := control.CallLocal(cmd.Context(), args[0], "/resize", r, &rep); err != nil {
				return err
			}
			return print(cmd, rep, func(w io.Writer) { printProtection(w, &rep, "resized") })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func printProtection(w io.Writer, rep *live.Report, word string) {
	fmt.Fprintf(w, "vm %s\t%s\n", rep.Name, word)
	for _, d := range rep.Disks {
		switch {
		case d.Skipped != "":
			fmt.Fprintf(w, "disk %s\tleft out: %s\n", d.Name, d.Skipped)
		case d.Off:
			fmt.Fprintf(w, "disk %s\tattached when the VM starts\n", d.Name)
		default:
			fmt.Fprintf(w, "disk %s\tby %s, the guest's I/O stood still for %.1f ms\n", d.Name, d.Route, float64(d.Pause)/float64(time.Millisecond))
		}
	}
}

// awaitCopy waits until the first copies of a VM's disks are complete, and
// tells on stderr how far they are.
func awaitCopy(cmd *cobra.Command, socket string, rep *live.Report) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	told := ""
	for {
		var s iofilter.Status
		if err := control.CallLocal(cmd.Context(), socket, "/status", nil, &s); err != nil {
			return err
		}
		var left, eta int64
		waiting := false
		for i := range s.Disks {
			d := &s.Disks[i]
			if d.VM != rep.VM {
				continue
			}
			left, eta = left+d.DirtyBytes, max(eta, d.ETASeconds)
			waiting = waiting || d.State != iofilter.Streaming && d.State != iofilter.NotActive && d.State != iofilter.BackPressure
		}
		if !waiting {
			return nil
		}
		if line := fmt.Sprintf("%s to copy, ETA %s", sizeOf(left), time.Duration(eta)*time.Second); line != told {
			fmt.Fprintln(cmd.ErrOrStderr(), line)
			told = line
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-tick.C:
		}
	}
}

// startWatchdog starts a watchdog of this process and lets it go its own way.
func startWatchdog(path string) error {
	const op = "iofilter.startWatchdog"
	exe, err := os.Executable()
	if err != nil {
		return errs.E(op, errs.Internal, "", err)
	}
	start, err := live.StartOf(os.Getpid())
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "iofilter-watchdog", "--config", path, "--pid", strconv.Itoa(os.Getpid()), "--start", strconv.FormatUint(start, 10))
	cmd.Stderr = os.Stderr
	// A session of its own: what ends this process, or its terminal, must not
	// end the one that looks after its guests then.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keepInherited(); err != nil {
		return errs.E(op, errs.Unavailable, exe, err)
	}
	if err := cmd.Start(); err != nil {
		return errs.E(op, errs.Unavailable, exe, err)
	}
	go func() { _ = cmd.Wait() }() // it usually outlives us; if not, it is not to stay a zombie
	return nil
}

func newWatchdogCommand() *cobra.Command {
	var path string
	var pid int
	var start uint64
	cmd := &cobra.Command{
		Use:   "iofilter-watchdog --config FILE --pid PID --start TICKS",
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
			return runWatchdog(cmd, &cfg, pid, start)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "the host component's configuration file")
	cmd.Flags().IntVar(&pid, "pid", 0, "its process")
	cmd.Flags().Uint64Var(&start, "start", 0, "when that began, in clock ticks")
	return cmd
}

func runWatchdog(cmd *cobra.Command, cfg *ioFilterConfig, pid int, start uint64) error {
	log, err := logger(cmd)
	if err != nil {
		return err
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
		Process: p, Hang: time.Duration(cfg.Live.Hang), Logger: log,
		Connect: func(ctx context.Context) (hypervisor.Platform, error) { return openPlatform(ctx, &cfg.Platform, log) },
		Open:    func() (*live.Record, error) { return live.OpenRecord(durable.OS{}, cfg.Live.Record) },
	}
	return w.Run(ctx)
}
