package libvirt_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// patience bounds every wait here: ample for a loaded machine.
const patience = 6 * time.Minute

func TestMain(m *testing.M) {
	if words := os.Getenv(orphanRole); words != "" {
		p, err := libvirt.NewProvider(context.Background(), libvirt.ProviderOptions{Socket: os.Getenv(socketVar)})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(hypervisortest.Parent(p, words))
	}
	code := m.Run()
	libvirttest.Clean()
	os.Exit(code)
}

// rig is a site with one ledger guest.
type rig struct {
	*testing.T
	ctx   context.Context
	site  *libvirttest.Site
	p     *libvirt.Platform
	guest libvirttest.Guest
	image string

	console *ledger.Console
	stop    context.CancelFunc // ends the load
	ended   chan error         // how the load ended
	worst   atomic.Int64       // slowest commit since the last look, ns
}

// newRig defines the guest and connects to its site.
func newRig(t *testing.T, opt libvirt.Options, disk libvirttest.Disk) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience+time.Duration(rounds(t, 0))*5*time.Second) // of the whole test
	t.Cleanup(cancel)
	image, err := ledger.BuildImage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, ctx: ctx, site: libvirttest.Start(t)}
	r.image = filepath.Join(r.site.Dir, "ledger.img")
	if disk.Format == "qcow2" {
		r.tool("qemu-img", "convert", "-O", "qcow2", image, r.image)
	} else if err := ledger.CopyImage(ctx, r.image, image); err != nil {
		t.Fatal(err)
	}
	disk.Path = r.image
	r.guest = libvirttest.Guest{Name: "ledger", Disks: []libvirttest.Disk{disk}, Serial: filepath.Join(r.site.Dir, "serial")}
	r.site.Define(r.guest)
	opt.Socket = r.site.Socket
	r.p = r.connect(opt)
	return r
}

func (r *rig) connect(opt libvirt.Options) *libvirt.Platform {
	r.Helper()
	p, err := libvirt.Connect(r.ctx, opt)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { p.Close() })
	return p
}

func (r *rig) tool(name string, args ...string) {
	r.Helper()
	if out, err := exec.CommandContext(r.ctx, name, args...).CombinedOutput(); err != nil {
		r.Fatalf("%s: %v: %s (run 'make deps')", name, err, out)
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// boot starts the guest, waits until it is up and returns what it found.
func (r *rig) boot() ledger.Boot {
	r.Helper()
	r.site.Virsh("start", r.guest.Name, "--paused")
	nc, err := net.Dial("unix", r.guest.Serial)
	r.must(err)
	r.console = ledger.NewConsole(nc)
	r.Cleanup(func() { r.console.Close() })
	r.site.Virsh("resume", r.guest.Name)
	b, err := r.console.WaitReady(r.ctx)
	r.must(err)
	return b
}

// load commits one row after the other until quiet.
func (r *rig) load() {
	r.Helper()
	n, _, err := r.console.Status(r.ctx)
	r.must(err)
	ctx, stop := context.WithCancel(r.ctx)
	r.stop, r.ended = stop, make(chan error, 1)
	go func() {
		for n++; ; n++ {
			begin := time.Now()
			if err := r.console.Put(ctx, n, 0, talk.DefaultBytes); err != nil {
				r.ended <- err
				return
			}
			if took := int64(time.Since(begin)); took > r.worst.Load() {
				r.worst.Store(took)
			}
		}
	}()
}

// quiet ends the load; that it had not ended by itself is checked.
func (r *rig) quiet() {
	r.Helper()
	r.stop()
	if err := <-r.ended; !errs.Is(err, errs.Canceled) {
		r.Fatalf("the guest's load ended: %v", err)
	}
}

// goesOn waits until the guest was acknowledged some more commits.
func (r *rig) goesOn() {
	r.Helper()
	from := r.console.Acked()
	r.until("the guest's commits go on", func() bool { return r.console.Acked() >= from+20 })
}

func (r *rig) until(what string, is func() bool) {
	r.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.Fatalf("waited in vain: %s", what)
		}
	}
}

func (r *rig) vm() hypervisor.LiveVM {
	r.Helper()
	vm, err := r.p.VM(r.ctx, r.guest.Name)
	r.must(err)
	return vm
}

// worstCommit returns the slowest commit since it was asked last.
func (r *rig) worstCommit() time.Duration { return time.Duration(r.worst.Swap(0)) }

// check judges the guest's disk, which nobody writes, against what the guest
// was acknowledged.
func (r *rig) check(acked uint64) {
	r.Helper()
	image := r.image
	if r.guest.Disks[0].Format == "qcow2" {
		image += ".raw"
		r.tool("qemu-img", "convert", "-U", "-O", "raw", r.image, image)
		defer os.Remove(image)
	}
	rep, err := ledger.CheckImage(r.ctx, image)
	r.must(err)
	if rep.Bad != 0 || rep.Max < acked {
		r.Fatalf("the disk holds rows up to %d with %d faults %q; the guest was acknowledged %d", rep.Max, rep.Bad, rep.Problems, acked)
	}
}

// sourceXML returns the <source> and its disk's type, in the XML of the
// running VM or, inactive, of its definition.
func (r *rig) diskXML(flags ...string) string {
	r.Helper()
	xml := r.site.Virsh(append([]string{"dumpxml", r.guest.Name}, flags...)...)
	i, j := strings.Index(xml, "<disk "), strings.Index(xml, "</disk>")
	if i < 0 || j < i {
		r.Fatalf("no disk in %s", xml)
	}
	return xml[i:j]
}

// serve starts an NBD server for path.
func serve(t *testing.T, dir, path string) hypervisortest.Export {
	t.Helper()
	f, err := os.CreateTemp(dir, "nbd-")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	socket := f.Name() + ".s"
	cmd := exec.Command("nbdkit", "-f", "-U", socket, "-e", "disk", "file", path)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (run 'make deps')", err)
	}
	var dead atomic.Bool
	kill := func() {
		if !dead.Swap(true) {
			cmd.Process.Signal(syscall.SIGKILL)
			cmd.Wait()
		}
	}
	t.Cleanup(kill)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if nc, err := net.Dial("unix", socket); err == nil {
			nc.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nbdkit does not listen")
		}
	}
	return hypervisortest.Export{Attachment: hypervisor.Attachment{Socket: socket, Export: "disk"}, Kill: kill}
}

// written returns how many writes the guest was acknowledged, at least: a
// commit is a page of the database's log and a transaction of the file system.
func (r *rig) written() uint64 { return 5 * r.console.Acked() }

func TestPlatform(t *testing.T) {
	for name, opt := range map[string]libvirt.Options{
		"blockcopy": {Route: libvirt.RouteCopy}, "monitor": {Route: libvirt.RouteMonitor},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, opt, libvirttest.Disk{})
			opt.Socket = r.site.Socket
			r.boot()
			r.load()
			hypervisortest.RunPlatform(t, hypervisortest.LiveRig{
				Platform: r.p,
				Reopen:   func(t *testing.T) hypervisor.Platform { return r.connect(opt) },
				VM:       r.guest.Name, Disk: "vda",
				Captures: []hypervisor.Capture{hypervisor.InPath, hypervisor.Mirror},
				Fixed:    opt.Route == libvirt.RouteCopy,
				Export: func(t *testing.T, src hypervisor.Source, c hypervisor.Capture) hypervisortest.Export {
					path := src.Path
					if c == hypervisor.Mirror {
						path = filepath.Join(t.TempDir(), "scratch")
						fi, err := os.Stat(r.image)
						if err == nil {
							err = os.WriteFile(path, nil, 0o600)
						}
						if err == nil {
							err = os.Truncate(path, fi.Size())
						}
						if err != nil {
							t.Fatal(err)
						}
					}
					return serve(t, r.site.Dir, path)
				},
				Load: &hypervisortest.Load{
					Written: r.written,
					Verify: func(t *testing.T) {
						r.quiet()
						acked := r.console.Acked()
						r.site.Virsh("suspend", r.guest.Name)
						r.check(acked)
						t.Logf("%d commits, none lost", acked)
					},
				},
				Provoke: map[hypervisor.ChangeKind]func(*testing.T){
					hypervisor.ChangedState: func(*testing.T) {
						r.site.Virsh("suspend", r.guest.Name)
						r.site.Virsh("resume", r.guest.Name)
					},
				},
				PowerOff: func(*testing.T) { r.site.Virsh("destroy", r.guest.Name) },
			})
		})
	}
}
