package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"text/tabwriter"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
)

// recovery is what "holdfast restore -o json" prints.
type recovery struct {
	Checkpoint journal.CheckpointInfo `json:"checkpoint"`
	VMs        []struct {
		Config dr.VMConfig `json:"config"`
	} `json:"vms"`
	Disks []struct {
		ID   dr.DiskID `json:"id"`
		VM   dr.VMID   `json:"vm"`
		Path string    `json:"path"`
	} `json:"disks"`
	Bytes int64 `json:"bytes_read"`
}

// recover is site B: the container and a recovery key, nothing else.
func (r *run) recover(ctx context.Context, l *Loss) error {
	ctx, cancel := context.WithTimeoutCause(ctx, recoverLimit, fmt.Errorf("recovery did not finish within %v", recoverLimit))
	defer cancel()
	start := time.Now()
	r.say("\nsite B has only the container and %s", r.short(l.Key))
	var points []journal.CheckpointInfo
	if err := command(ctx, r.opts.Binary, &points, "checkpoints", l.URL, "--key", l.Key, "--all", "-o", "json"); err != nil {
		return err
	}
	r.showPoints(points)
	out := filepath.Join(l.Dir, "vms")
	r.say("$ holdfast restore %s --key %s --at latest --out %s", r.short(l.URL), r.short(l.Key), r.short(out))
	var rec recovery
	if err := command(ctx, r.opts.Binary, &rec, "restore", l.URL, "--key", l.Key, "--at", "latest", "--out", out, "-o", "json"); err != nil {
		return err
	}
	cp := rec.Checkpoint
	r.res.Checkpoint, r.res.BytesBack = cp.ID, rec.Bytes
	r.res.RPO = l.At.Sub(cp.Time)
	r.res.Promised[0], r.res.Promised[1] = l.AckedBefore(cp.Time)
	r.say("rebuilt %d disks at checkpoint %d of %s in %.1f s", len(rec.Disks), cp.ID, cp.Time.UTC().Format("15:04:05.000"), time.Since(start).Seconds())
	if err := r.bootRecovered(ctx, &rec, out); err != nil {
		return err
	}
	r.res.RTO = time.Since(start)
	return nil
}

// showPoints prints the newest few checkpoints, and counts those that matter.
func (r *run) showPoints(points []journal.CheckpointInfo) {
	const few = 5
	w := tabwriter.NewWriter(r.opts.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CHECKPOINT\tTIME\tSCOPE\tRECOVERABLE")
	for i := len(points) - 1; i >= 0; i-- {
		if p := points[i]; p.Recoverable && p.Scope == dr.Group {
			r.res.Points++
		}
	}
	for i, p := range points { // newest first, as the command prints them
		if i == few {
			fmt.Fprintf(w, "… %d more\n", len(points)-few)
			break
		}
		state := "yes"
		if !p.Recoverable {
			state = "no: " + p.Why
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", p.ID, p.Time.UTC().Format("15:04:05.000"), p.Scope, state)
	}
	_ = w.Flush() // the table is for show
}

// bootRecovered boots both guests from their recorded configuration and reads
// what their ledgers hold.
func (r *run) bootRecovered(ctx context.Context, rec *recovery, out string) error {
	var wg sync.WaitGroup
	var failed [guests]error
	var boots [guests]ledger.Boot
	for i := range guests {
		wg.Go(func() { boots[i], failed[i] = r.bootOne(ctx, rec, out, i) })
	}
	wg.Wait()
	for i, err := range failed {
		if err != nil {
			return errs.E("demo.recover", errs.Internal, r.vms[i].Name, err)
		}
	}
	var reports [guests]ledger.Report
	for i, b := range boots {
		r.say("%s is up: VERIFY max=%d bad=%d cause=%d", r.vms[i].Name, b.Max, b.Bad, b.Cause)
		reports[i] = ledger.Report{Max: b.Max, Bad: int(b.Bad), Cause: b.Cause, Problems: b.Problems}
		r.res.Recovered[i] = b.Max
	}
	return ledger.CheckPair(reports[0], reports[1])
}

func (r *run) bootOne(ctx context.Context, rec *recovery, out string, i int) (ledger.Boot, error) {
	id := r.vms[i].ID
	spec := hypervisor.Spec{Sources: map[dr.DiskID]hypervisor.Source{}}
	for _, v := range rec.VMs {
		if v.Config.ID == id {
			spec.Config = v.Config
		}
	}
	if spec.Config.ID != id {
		return ledger.Boot{}, errs.New("demo.boot", errs.Corrupt, r.vms[i].Name, "the container holds no configuration of this VM")
	}
	for _, d := range rec.Disks {
		if d.VM == id {
			spec.Sources[d.ID] = hypervisor.Source{Path: filepath.Join(out, d.Path)}
		}
	}
	vm, console, err := r.boot(ctx, spec, out)
	if err != nil {
		return ledger.Boot{}, err
	}
	defer vm.Kill(context.WithoutCancel(ctx)) //nolint:errcheck // the guest has done its part
	defer console.Close()
	return console.WaitReady(ctx)
}

// boot starts a guest and attaches to its console before its first word.
func (r *run) boot(ctx context.Context, spec hypervisor.Spec, dir string) (hypervisor.VM, *ledger.Console, error) {
	spec.StartOptions = hypervisor.StartOptions{
		WorkDir: dir, Accelerator: r.accel, Serial: true, Paused: true, ExitOnReset: true,
		Networks: map[string]hypervisor.Network{},
	}
	for _, n := range spec.Config.NICs {
		spec.Networks[n.Network] = hypervisor.Network{Kind: hypervisor.Isolated}
	}
	vm, err := r.provider.Start(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	console, err := ledger.Attach(ctx, vm)
	if err == nil {
		_, err = console.WaitReady(ctx)
	}
	if err != nil {
		_ = vm.Kill(context.WithoutCancel(ctx))
		return nil, nil, err
	}
	return vm, console, nil
}

// judge checks the promises against what was seen from outside.
func (r *run) judge() error {
	res := &r.res
	r.table()
	for i := range guests {
		if res.Recovered[i] < res.Promised[i] {
			return errs.New("demo", errs.Corrupt, r.vms[i].Name, fmt.Sprintf(
				"checkpoint %d lost commits: %d were acknowledged before it was cut, %d were recovered", res.Checkpoint, res.Promised[i], res.Recovered[i]))
		}
	}
	return nil
}

// table prints what was measured.
func (r *run) table() {
	res := &r.res
	w := tabwriter.NewWriter(r.opts.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\n\tGUEST 1\tGUEST 2")
	fmt.Fprintf(w, "commits acknowledged at the disaster\t%d\t%d\n", res.Acked[0], res.Acked[1])
	fmt.Fprintf(w, "  of these before checkpoint %d\t%d\t%d\n", res.Checkpoint, res.Promised[0], res.Promised[1])
	fmt.Fprintf(w, "commits recovered\t%d\t%d\n", res.Recovered[0], res.Recovered[1])
	fmt.Fprintf(w, "commits lost (written after the checkpoint)\t%d\t%d\n", lost(res.Acked[0], res.Recovered[0]), lost(res.Acked[1], res.Recovered[1]))
	fmt.Fprintf(w, "RPO (disaster - checkpoint %d)\t%.2f s\n", res.Checkpoint, res.RPO.Seconds())
	fmt.Fprintf(w, "RTO (both guests up)\t%.2f s\n", res.RTO.Seconds())
	fmt.Fprintf(w, "recoverable group checkpoints\t%d\n", res.Points)
	fmt.Fprintf(w, "bytes to the DRVA / to the store / back\t%d\t%d\t%d\n", res.BytesIn, res.BytesOut, res.BytesBack)
	_ = w.Flush() // the table is for show
}

func lost(acked, recovered uint64) uint64 {
	if recovered >= acked {
		return 0
	}
	return acked - recovered
}
