package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/recovery"
)

// undoTime bounds what a command undoes after Ctrl-C.
const undoTime = 2 * time.Minute

func newRecoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Test, migrate, fail over, fail back: whole recoveries, each in a directory",
		Long: `A recovery is done in a directory DIR of its own: run.json there says what was asked
and how far it came; disks, sockets and evidence lie beside it. Whatever kills the
command, "recover resume DIR" goes on, and "rollback DIR" or "cleanup DIR" undo it.

  test      look at a point beside production, in an isolated network; then cleanup
  disaster  the source is lost: fence it, boot here, look, then commit or rollback
  planned   move the domain here without losing a write; an error puts the source
            back in service
  failback  planned, in the other direction, onto disks that held the domain before
  clone     disks of a point as VMs of their own

With --mode instant (the default) VMs boot at once and their disks are filled while
they run; the command serves them and ends when they are whole. With --mode full it
builds the disks first. VMs outlive the command; it finds them again.

Between boot and commit nothing is published, and nothing is decided by itself unless
--auto says so. After the commit the VMs are protected here, on a timeline of their
own, unless --no-protect.`,
	}
	cmd.AddCommand(
		newRecoverTest(), newRecoverDisaster(), newRecoverPlanned(), newRecoverFailback(), newRecoverClone(),
		newRecoverCommit(), newRecoverRollback(), newRecoverReprotect(), newRecoverCleanup(),
		newRecoverResume(), newRecoverCancel(), newRecoverStatus(), newRecoverReport(), newRecoverList(),
	)
	return cmd
}

// recoverFlags are the choices of a new run.
type recoverFlags struct {
	id       identityFlags
	timeline timelineFlag
	q        recovery.Request
	mode     string
	accel    string
	groups   []string
	networks []string
	override []string
	auto     string
	evidence time.Duration
	platform providerFlags
}

func (f *recoverFlags) add(cmd *cobra.Command) {
	f.id.add(cmd)
	f.timeline.add(cmd)
	f.platform.add(cmd)
	addOutputFlag(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.q.At, "at", "latest", "which checkpoint, as for restore --at")
	fl.StringSliceVar(&f.q.VMs, "vm", nil, "only this VM, by name or id (repeatable)")
	fl.StringVar(&f.mode, "mode", string(recovery.Instant), "instant: boot at once; full: build the disks first")
	fl.StringArrayVar(&f.groups, "group", nil, `VMs that start together, as "db1,db2"; groups start in the order given, the rest last`)
	fl.IntVar(&f.q.Parallel, "parallel", 0, "VMs started at once (0: 4)")
	fl.Int64Var(&f.q.Rate, "fill-rate", 0, "with --mode instant: what filling in the background may read, bytes per second (0: no bound)")
	fl.StringArrayVar(&f.networks, "network", nil, `what a recorded network is here, as lan=isolated, lan=user or lan=NAME (default: isolated)`)
	fl.StringArrayVar(&f.override, "override", nil, `change of a VM, as "erp1:cpus=2,memory=4096,name=erp1-dr,network.lan=dr"`)
	fl.StringVar(&f.accel, "accel", "", "kvm or tcg; default: kvm where it was proved to work")
	fl.BoolVar(&f.q.ExitOnReset, "exit-on-reset", false, "a guest that reboots ends instead")
	fl.StringVar(&f.q.By, "by", "", "who asks for it")
	fl.StringVar(&f.q.Note, "note", "", "why, for the report")
}

// addCommit adds the choices of runs that are committed.
func (f *recoverFlags) addCommit(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.auto, "auto", "", "commit or rollback by itself, when nobody has decided --after (default: never)")
	fl.DurationVar(&f.q.After, "after", 0, "when --auto decides, after the last VM's start")
	fl.BoolVar(&f.q.NoProtect, "no-protect", false, "do not protect the VMs here after the commit")
	fl.Int64Var(&f.q.Protect.Quota, "log-quota", 0, "replication log here, bytes (0: 4 GiB)")
	fl.StringVar(&f.q.Protect.Interval, "interval", "", "between checkpoints here (default: 5s)")
}

// request completes the request with what the command line says.
func (f *recoverFlags) request(ctx context.Context, url string) (recovery.Request, error) {
	q := f.q
	q.URL, q.Mode, q.Accelerator, q.Auto = url, recovery.Mode(f.mode), hypervisor.Accelerator(f.accel), recovery.Decision(f.auto)
	q.Evidence = f.evidence
	q.Platform = map[string]string{"platform": f.platform.platform, "libvirt": f.platform.libvirt}
	var err error
	if q.Access, err = f.id.access(); err != nil {
		return q, err
	}
	if f.timeline.name != "" {
		c, err := openContainer(ctx, url, &f.id)
		if err != nil {
			return q, err
		}
		t, err := f.timeline.id(ctx, c)
		if err != nil {
			return q, err
		}
		q.Timeline = t.String()
	}
	for _, g := range f.groups {
		q.Groups = append(q.Groups, strings.Split(g, ","))
	}
	if q.Networks, err = parseNetworks(f.networks); err != nil {
		return q, err
	}
	q.Overrides, err = parseOverrides(f.override)
	return q, err
}

// access says where the identity is, without any secret.
func (f *identityFlags) access() (map[string]string, error) {
	if _, err := f.load(); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, v := range map[string]string{"key": f.key, "passphrase_file": f.passphrase, "credentials": f.credentials} {
		if v == "" {
			continue
		}
		if v == "-" {
			return nil, usageError{fmt.Errorf("a recovery goes on after its command has ended: give the passphrase in a file")}
		}
		path, err := filepath.Abs(v)
		if err != nil {
			return nil, usageError{err}
		}
		out[name] = path
	}
	if f.service != "" {
		out["kms"] = f.service
	}
	return out, nil
}

// identityAt is the inverse of access.
func identityAt(access map[string]string) *identityFlags {
	return &identityFlags{key: access["key"], passphrase: access["passphrase_file"], service: access["kms"], credentials: access["credentials"]}
}

func parseNetworks(words []string) (map[string]hypervisor.Network, error) {
	out := map[string]hypervisor.Network{}
	for _, w := range words {
		name, to, ok := strings.Cut(w, "=")
		if !ok || name == "" || to == "" {
			return nil, usageError{fmt.Errorf("--network %q: write it as lan=isolated, lan=user or lan=NAME", w)}
		}
		switch to {
		case "isolated":
			out[name] = hypervisor.Network{Kind: hypervisor.Isolated}
		case "user":
			out[name] = hypervisor.Network{Kind: hypervisor.User}
		default:
			out[name] = hypervisor.Network{Kind: hypervisor.Named, Name: to}
		}
	}
	return out, nil
}

func parseOverrides(words []string) (map[string]recovery.Override, error) {
	out := map[string]recovery.Override{}
	for _, w := range words {
		vm, rest, ok := strings.Cut(w, ":")
		bad := usageError{fmt.Errorf(`--override %q: write it as "VM:cpus=2,memory=4096,name=NEW,network.OLD=NEW"`, w)}
		if !ok || vm == "" {
			return nil, bad
		}
		o := out[vm]
		for _, pair := range strings.Split(rest, ",") {
			key, v, ok := strings.Cut(pair, "=")
			var err error
			switch from, isNet := strings.CutPrefix(key, "network."); {
			case !ok || v == "":
				return nil, bad
			case isNet:
				if o.Networks == nil {
					o.Networks = map[string]string{}
				}
				o.Networks[from] = v
			case key == "cpus":
				o.CPUs, err = strconv.Atoi(v)
			case key == "memory":
				o.MemoryMiB, err = strconv.ParseInt(v, 10, 64)
			case key == "name":
				o.Name = v
			default:
				return nil, bad
			}
			if err != nil {
				return nil, bad
			}
		}
		out[vm] = o
	}
	return out, nil
}

func newRecoverTest() *cobra.Command {
	var f recoverFlags
	cmd := &cobra.Command{
		Use:   "test URL DIR",
		Short: "Boot a point beside production, to look at it",
		Long: `Boots the VMs of a checkpoint in an isolated network, from the container at URL, in
DIR. Production and its replication are not touched: the container gets a pin, and no
journal object; what the VMs write stays in DIR. Serial output and a screenshot of each
VM are kept in DIR/evidence.

Returns when the VMs run and their disks are whole. "recover cleanup DIR" removes VMs,
disks, sockets and the pin, and leaves evidence and report. Ctrl-C cleans up at once.`,
		Example: `  holdfast recover test file:///srv/dr/erp /var/tmp/t1 --key recovery.key
  holdfast recover test file:///srv/dr/erp /var/tmp/t1 --key recovery.key --at "nearest:14:03" --vm erp1
  holdfast recover cleanup /var/tmp/t1`,
		Args: exactArgs("URL", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return beginRun(cmd, recovery.Test, args[0], args[1], &f)
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&f.evidence, "look-after", 20*time.Second, "when screenshots are taken, after the last VM's start")
	return cmd
}

func newRecoverDisaster() *cobra.Command {
	var f recoverFlags
	cmd := &cobra.Command{
		Use:   "disaster URL DIR",
		Short: "Fail over: the source is lost or given up",
		Long: `Recovers the domain of the container at URL here, in DIR. Before the first boot the
source is fenced in the store: whoever still publishes there, a zombie, is refused and
told so. The point is chosen after that, so that nothing published before is missed. A
fork of the history begins at it.

Then the VMs run, on a copy of their own, and nothing is published: look at them, and
decide. "recover commit DIR" makes it final and protects them here; "recover rollback
DIR --at ANOTHER" discards them and tries another point. Nothing is decided by itself
unless --auto and --after say so; "recover status DIR" reminds.

What the source's guests write after the fence is not in any recovery point. It stays
on their disks and in their DRVA's log.`,
		Example: `  holdfast recover disaster file:///srv/dr/erp /var/lib/dr/erp --key recovery.key
  holdfast recover disaster s3://dr/erp /var/lib/dr/erp --key recovery.key --group db1 --group app1,app2
  holdfast recover commit /var/lib/dr/erp`,
		Args: exactArgs("URL", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return beginRun(cmd, recovery.Disaster, args[0], args[1], &f)
		},
	}
	f.add(cmd)
	f.addCommit(cmd)
	cmd.Flags().BoolVar(&f.q.Forced, "forced", false, "say in the report that the source was not asked")
	return cmd
}

// sourceFlags say where the site is that protects the domain now.
type sourceFlags struct {
	drva, run, stop, start string
	hosts                  []string
	limit                  time.Duration
}

func (f *sourceFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.drva, "source-drva", "", "status socket of the source's DRVA")
	fl.StringArrayVar(&f.hosts, "source-host", nil, "status socket of a host component of the source (repeatable)")
	fl.StringVar(&f.stop, "guest-stop", "", "command that shuts a guest down; $HOLDFAST_VM and $HOLDFAST_VM_ID name it (default: wait until somebody has)")
	fl.StringVar(&f.start, "guest-start", "", "command that starts a guest again when the migration is called off")
	fl.DurationVar(&f.limit, "guest-limit", 0, "how long one guest may take to shut down (0: 5m)")
	fl.StringVar(&f.run, "from-run", "", "directory of the recovery that holds the domain now, in place of all these")
}

func (f *sourceFlags) where() (map[string]string, error) {
	if f.run == "" && (f.drva == "" || len(f.hosts) == 0) {
		return nil, usageError{fmt.Errorf("say where the domain is now: --source-drva and --source-host, or --from-run")}
	}
	return map[string]string{"drva": f.drva, "hosts": strings.Join(f.hosts, "\n"), "stop": f.stop, "start": f.start, "limit": f.limit.String(), "run": f.run}, nil
}

const plannedLong = `Moves the domain of the container at URL here, in DIR, without losing a write: the
source publishes what it has, its guests are shut down in order, last started first, it
publishes its last checkpoint, and exactly that is recovered. An error before the
source's history is ended starts its guests again, and protection there goes on.

The source is reached by the sockets of its DRVA and host components (forward them
with ssh -L where they are elsewhere), or, if it is itself a recovery done here, by
--from-run. Guests are shut down by --guest-stop, which is run for each; without it the
command waits until somebody has shut them down.`

func newRecoverPlanned() *cobra.Command {
	var f recoverFlags
	var src sourceFlags
	cmd := &cobra.Command{
		Use:   "planned URL DIR",
		Short: "Move the domain here, without losing a write",
		Long:  plannedLong,
		Example: `  holdfast recover planned file:///srv/dr/erp /var/lib/dr/erp --key recovery.key \
      --source-drva /run/holdfast/drva.sock --source-host /run/holdfast/node1.sock \
      --guest-stop 'virsh shutdown "$HOLDFAST_VM"' --guest-start 'virsh start "$HOLDFAST_VM"'`,
		Args: exactArgs("URL", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if f.q.Source, err = src.where(); err != nil {
				return err
			}
			return beginRun(cmd, recovery.Planned, args[0], args[1], &f)
		},
	}
	f.add(cmd)
	f.addCommit(cmd)
	src.add(cmd)
	return cmd
}

func newRecoverFailback() *cobra.Command {
	var f recoverFlags
	var src sourceFlags
	var onto []string
	cmd := &cobra.Command{
		Use:   "failback URL DIR",
		Short: "Move the domain back, onto disks that held it before",
		Long: plannedLong + `

--onto names disks that held the domain before: only what differs is read. Where the
old site is gone, leave it out: the disks are built anew from the container.`,
		Example: `  holdfast recover failback file:///srv/dr/erp /var/lib/a/erp --key recovery.key --from-run /var/lib/dr/erp`,
		Args:    exactArgs("URL", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if f.q.Source, err = src.where(); err != nil {
				return err
			}
			if f.q.Onto, err = parseOnto(onto); err != nil {
				return err
			}
			return beginRun(cmd, recovery.Failback, args[0], args[1], &f)
		},
	}
	f.add(cmd)
	f.addCommit(cmd)
	src.add(cmd)
	cmd.Flags().StringArrayVar(&onto, "onto", nil, "an old disk, as DISK-ID=PATH (repeatable)")
	return cmd
}

func parseOnto(words []string) (map[dr.DiskID]string, error) {
	out := map[dr.DiskID]string{}
	for _, w := range words {
		id, path, ok := strings.Cut(w, "=")
		u, err := dr.ParseUUID(id)
		if !ok || err != nil || path == "" {
			return nil, usageError{fmt.Errorf("--onto %q: write it as DISK-ID=PATH; holdfast inspect tells the ids", w)}
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, usageError{err}
		}
		out[dr.DiskID{UUID: u}] = abs
	}
	return out, nil
}

func newRecoverClone() *cobra.Command {
	var f recoverFlags
	var boot bool
	cmd := &cobra.Command{
		Use:   "clone URL DIR",
		Short: "Build the disks of a point as VMs of their own",
		Long: `Builds the disks of a checkpoint in DIR as VMs of their own: other identities, other
card addresses, so that they can run beside production. With --boot they are started,
in an isolated network unless --network says otherwise. The container is only read.`,
		Example: `  holdfast recover clone file:///srv/dr/erp /var/tmp/c1 --key recovery.key --at tag:before-upgrade --vm erp1 --boot`,
		Args:    exactArgs("URL", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.q.NoBoot = !boot
			if f.q.NoBoot {
				f.mode = string(recovery.Full)
			}
			return beginRun(cmd, recovery.Clone, args[0], args[1], &f)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&boot, "boot", false, "start them")
	return cmd
}

// beginRun does a new run from the command line.
func beginRun(cmd *cobra.Command, op recovery.Operation, url, dir string, f *recoverFlags) error {
	q, err := f.request(cmd.Context(), url)
	if err != nil {
		return err
	}
	return withService(cmd, &f.platform, func(s *recovery.Service) error {
		r, err := s.Begin(dir, op, q)
		if err != nil {
			return err
		}
		return ownRun(cmd, r, func(ctx context.Context) error { return r.Do(ctx, recovery.Recover) })
	})
}

// ownRun does something of a run in the foreground, shows how it goes, and looks
// after it for as long as it needs a process.
func ownRun(cmd *cobra.Command, r *recovery.Run, do func(context.Context) error) (err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Serve(); err != nil {
		return err
	}
	ctx := cmd.Context()
	stop := showRun(cmd.ErrOrStderr(), r)
	err = do(ctx)
	stop()
	if err == nil {
		if e := print(cmd, r.Status(), func(w io.Writer) { printRun(w, r.Status()) }); e != nil {
			return e
		}
		stop = showRun(cmd.ErrOrStderr(), r)
		err = r.Attend(ctx)
		stop()
	}
	rec := r.Record()
	if ctx.Err() == nil || rec.Operation != recovery.Test && rec.Operation != recovery.Clone || rec.State == recovery.Clean {
		return err
	}
	// Ctrl-C in a test leaves nothing behind.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	fmt.Fprintln(cmd.ErrOrStderr(), "interrupted: cleaning up")
	if e := r.Do(undo, recovery.Cleanup); e != nil {
		return errors.Join(err, e)
	}
	if err == nil {
		err = errs.E("recover", errs.Canceled, r.Dir(), context.Cause(ctx))
	}
	return err
}

// showRun tells what a run does, line by line, until stop is called.
func showRun(w io.Writer, r *recovery.Run) (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		told, quiet := "", time.Time{}
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			line := runLine(r.Status())
			if line == "" || line == told || time.Since(quiet) < time.Second && strings.HasPrefix(told, stepPart(line)) {
				continue
			}
			fmt.Fprintln(w, line)
			told, quiet = line, time.Now()
		}
	}()
	return func() { close(done); <-over }
}

// stepPart is a line without its numbers.
func stepPart(line string) string { s, _, _ := strings.Cut(line, "  "); return s }

// runLine is one line of how a run goes; empty: it rests.
func runLine(st *recovery.Status) string {
	if h := st.Hydration; h != nil && !st.State.Active() {
		line := fmt.Sprintf("%s: disks are filled  %s of %s", st.State, sizeOf(h.Bytes), sizeOf(h.Total))
		if h.ETA >= 0 {
			line += fmt.Sprintf(", %s/s, ETA %v", sizeOf(int64(h.Rate)), (time.Duration(h.ETA) * time.Second))
		}
		if h.Stalled != "" {
			line += "; " + h.Stalled
		}
		return line
	}
	if !st.State.Active() || len(st.Steps) == 0 {
		return ""
	}
	s := st.Steps[len(st.Steps)-1]
	line := fmt.Sprintf("%s: %s", st.State, s.Name)
	if s.Total > 0 && s.Status == recovery.Running {
		line += fmt.Sprintf("  %d%%", 100*s.Bytes/s.Total)
	}
	return line
}

func printRun(w io.Writer, st *recovery.Status) {
	fmt.Fprintf(w, "%s\t%s\n", st.Operation, st.State)
	fmt.Fprintf(w, "directory\t%s\n", st.Dir)
	fmt.Fprintf(w, "domain\t%s %s\n", dash(st.Name), st.Domain)
	if st.Checkpoint != nil {
		fmt.Fprintf(w, "checkpoint\t%d of %s\n", st.Checkpoint.ID, timeOf(st.Checkpoint.Time))
	}
	if st.Fence != 0 {
		fmt.Fprintf(w, "fenced\ttimeline %s by epoch %d\n", st.Parent, st.Fence)
	}
	if !st.Fork.IsZero() {
		fmt.Fprintf(w, "goes on as\ttimeline %s\n", st.Fork)
	}
	for i := range st.VMs {
		v := &st.VMs[i]
		fmt.Fprintf(w, "vm %s\t%s\n", v.Config.Name, dash(v.State))
		if v.Serial != "" {
			fmt.Fprintf(w, "  serial port\t%s\n", v.Serial)
		}
		if v.Error != "" {
			fmt.Fprintf(w, "  error\t%s\n", v.Error)
		}
	}
	for _, s := range st.Steps {
		for _, words := range s.Warnings {
			fmt.Fprintf(w, "warning\t%s: %s\n", s.Name, words)
		}
	}
	if h := st.Hydration; h != nil {
		fmt.Fprintf(w, "disks filled\t%s of %s\n", sizeOf(h.Bytes), sizeOf(h.Total))
		if h.Stalled != "" {
			fmt.Fprintf(w, "  stalled\t%s\n", h.Stalled)
		}
	}
	if st.Error != "" {
		fmt.Fprintf(w, "error\t%s\n", st.Error)
		if st.Remedy != "" {
			fmt.Fprintf(w, "  remedy\t%s\n", st.Remedy)
		}
	}
	if st.Interrupted {
		fmt.Fprintf(w, "interrupted\tno process looks after it\n")
	}
	for _, d := range st.Down {
		fmt.Fprintf(w, "down\t%s\n", d)
	}
	if st.Reminder != "" {
		fmt.Fprintf(w, "reminder\t%s\n", st.Reminder)
	}
	if st.Next != "" {
		fmt.Fprintf(w, "next\t%s\n", st.Next)
	}
}
