package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

// Site is what protection at the recovery site is made of.
type Site struct {
	// Identity is how the DRVA here opens the container, as fields of its
	// configuration: "key", "passphrase_file" or "kms".
	Identity func(access map[string]string) map[string]string
	// Platform is the host component's platform block for VMs with these monitors.
	Platform func(monitors []string) any
	// DiskName is what the platform calls a VM's disk by its place.
	DiskName func(disks []dr.VMDisk, place int) string
	// Launch returns the process of the product that answers on socket. If nobody
	// does, it starts one with args, which outlives this process, its log in dir.
	Launch func(ctx context.Context, dir, name, socket string, args ...string) (Process, error)
	// Running lists the processes of the product that were started with args, under
	// this name.
	Running func(name string, args ...string) []Process
	// End ends a process in order, and by force if it does not obey; no effect on
	// one that is gone.
	End func(ctx context.Context, p Process) error
}

// Recovery path, step 11: decide. Somebody has looked at the VMs; what they wrote
// counts from here on.

// commit makes the recovery final.
func (r *Run) commit(context.Context) error {
	return r.change(func(rec *Record) { rec.Committed, rec.Decide = true, time.Time{} })
}

// protectPath is a name below the directory of the protection here.
func (r *Run) protectPath(name ...string) string {
	return r.path(append([]string{"protect"}, name...)...)
}

// Recovery path, step 12: protect. The fork's DRVA and a host component begin
// where the guests' disks are; only what differs from the point is shipped.

// protect configures the protection of the VMs here, and starts it when their
// disks are whole.
func (r *Run) protect(ctx context.Context) error {
	rec := r.Record()
	if r.s.opts.Site == nil || rec.Request.NoProtect {
		return nil
	}
	if err := r.boot(ctx); err != nil { // one that ended since
		return err
	}
	if !rec.Hydrated {
		return nil // the owner launches it once the disks are plain files
	}
	return r.launch(ctx)
}

// configure writes certificates and configurations. still: the VMs stand still,
// and their disks' sidecars say all; else the disks are compared.
func (r *Run) configure(ctx context.Context, still bool) error {
	rec := r.Record()
	if err := r.adopt(ctx); err != nil {
		return err
	}
	if err := durable.RemoveTree(r.s.fs, r.protectPath()); err != nil { // what an earlier life left unfinished
		return err
	}
	for _, d := range []string{r.protectPath(), r.protectPath("s")} {
		if err := durable.MkdirAll(r.s.fs, d); err != nil {
			return err
		}
	}
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	host := dr.HostID{UUID: derive(rec.ID, dr.UUID{}, "host")}
	err = errors.Join(
		control.InitAuthority(r.protectPath("ca"), "recovery "+rec.ID.String()[:8]),
		control.Issue(r.protectPath("ca"), r.protectPath("drva-tls"), control.RoleDRVA, rec.Domain.String(), []string{"127.0.0.1"}),
		control.Issue(r.protectPath("ca"), r.protectPath("host-tls"), control.RoleHost, host.String(), nil),
	)
	if err != nil {
		return err
	}
	quota := rec.Request.Protect.Quota
	if quota == 0 {
		quota = defaultQuota
	}
	cfg := map[string]any{
		"container": rec.Request.URL, "timeline": rec.Fork, "log": r.protectPath("log"), "quota": quota,
		"listen": listen, "tls": r.protectPath("drva-tls"), "status": r.protectPath("drva.sock"),
	}
	if rec.Request.Protect.Interval != "" {
		cfg["interval"] = rec.Request.Protect.Interval
	}
	if len(rec.Request.Protect.Copies) > 0 {
		cfg["copies"] = rec.Request.Protect.Copies
	}
	for k, v := range r.s.opts.Site.Identity(rec.Request.Access) {
		cfg[k] = v
	}
	if err := r.writeJSON(r.protectPath("drva.json"), cfg); err != nil {
		return err
	}
	entries, monitors := r.entries(still)
	if err := live.WriteRecord(r.s.fs, r.protectPath("live.json"), entries); err != nil {
		return err
	}
	return r.writeJSON(r.protectPath("host.json"), map[string]any{
		"domain": rec.Domain, "host": host, "name": "recovery-" + rec.ID.String()[:8], "vms": []any{},
		"drva": listen, "tls": r.protectPath("host-tls"), "status": r.protectPath("host.sock"),
		"platform": r.s.opts.Site.Platform(monitors),
		"live":     map[string]any{"sockets": r.protectPath("s"), "record": r.protectPath("live.json")},
	})
}

// defaultQuota is the replication log at the recovery site when nothing is said,
// bytes: it stands beside the recovered disks.
const defaultQuota = 4 << 30

// entries are the VMs as the host component takes them: protected already, each
// disk under the id it has in the container, and to be compared with it unless
// its VM stands still and it has a sidecar.
func (r *Run) entries(still bool) (entries []live.Entry, monitors []string) {
	rec := r.Record()
	for _, v := range rec.VMs {
		// A VM that has just ended is protected all the same: it is started again,
		// and what is not in the record now would never come to be protected.
		vm := r.vm(v.Config.ID)
		if vm != nil {
			v.Monitor = vm.Monitor()
		}
		if v.Monitor != "" {
			monitors = append(monitors, v.Monitor)
		}
		e := live.Entry{Config: v.Config}
		for i, d := range v.Config.Disks {
			for _, have := range rec.Disks {
				if have.ID == d.ID {
					known := still && vm != nil && iofilter.SidecarPath(r.diskPath(&have)) != ""
					e.Disks = append(e.Disks, live.EntryDisk{
						ID: d.ID, Name: r.s.opts.Site.DiskName(v.Config.Disks, i), Path: r.diskPath(&have),
						Socket: r.protectPath("s", d.ID.String()[:13]+".sock"), Unseen: !known, Still: known,
					})
				}
			}
		}
		if len(e.Disks) > 0 {
			entries = append(entries, e)
		}
	}
	return entries, monitors
}

// freeAddress finds a port nobody listens on now: the host component must find
// the DRVA again after a restart of either.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", errs.E("recovery.protect", errs.Unavailable, "127.0.0.1", err)
	}
	return ln.Addr().String(), ln.Close()
}

func (r *Run) writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return errs.E("recovery.write", errs.Internal, path, err)
	}
	return durable.WriteFile(r.s.fs, path, append(b, '\n'))
}

// launch starts the DRVA and the host component, unless they run.
func (r *Run) launch(ctx context.Context) error {
	rec := r.Record()
	site := r.s.opts.Site
	if site == nil || rec.Request.NoProtect {
		return nil
	}
	if !rec.Hydrated {
		return errs.New("recovery.reprotect", errs.Unavailable, r.dir, "the VMs' disks are still being filled: they are protected once they are whole").
			WithRemedy("wait for it: holdfast recover status " + r.dir)
	}
	if _, err := r.s.fs.Stat(r.protectPath("host.json")); errs.Is(err, errs.NotFound) { // it is written last
		if err := r.configure(ctx, false); err != nil {
			return err
		}
	}
	if err := r.retarget(ctx); err != nil {
		return err
	}
	if err := r.readdress(ctx); err != nil {
		return err
	}
	for _, b := range boxes {
		if err := r.start(ctx, &b); err != nil {
			return err
		}
	}
	return nil
}

// start starts a box as it is configured, unless it runs.
func (r *Run) start(ctx context.Context, b *box) error {
	p, err := r.s.opts.Site.Launch(ctx, r.protectPath(), b.name, r.protectPath(b.socket), r.args(b)...)
	if err != nil {
		return err
	}
	return r.change(func(rec *Record) { rec.noteProcess(p) })
}

// launched reports whether a box was started.
func (rec *Record) launched(b *box) bool {
	return slices.ContainsFunc(rec.Launched, func(p Process) bool { return p.Name == b.name })
}

func (rec *Record) noteProcess(p Process) {
	for i, have := range rec.Launched {
		if have.Name == p.Name {
			rec.Launched[i] = p
			return
		}
	}
	rec.Launched = append(rec.Launched, p)
}

// endProcesses ends the protection here: the host component first, which takes
// the guests' disks off its sockets.
func (r *Run) endProcesses(ctx context.Context) error {
	if r.s.opts.Site == nil {
		return nil
	}
	for _, b := range slices.Backward(boxes) {
		if err := r.endBox(ctx, &b); err != nil {
			return err
		}
	}
	return r.change(func(rec *Record) { rec.Launched = nil })
}

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

// firstPoint waits until the container holds a point of the fork to which the
// VMs here can be recovered.
func (r *Run) firstPoint(ctx context.Context) error {
	rec := r.Record()
	if r.s.opts.Site == nil || rec.Request.NoProtect {
		return errs.New("recovery.reprotect", errs.Invalid, r.dir, "the run was begun without protection").
			WithRemedy("protect its VMs with a DRVA and a host component of yours, on timeline " + rec.Fork.String())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, protectLimit, errors.New("no recovery point in time"))
	defer cancel()
	tries := 0
	return pollOr(ctx, "recovery.reprotect", r.protectPath("drva.sock"), func() error { return r.keepUp(ctx, &tries) }, func(s *drvaStatus) (bool, error) {
		var h iofilter.Status
		if err := control.CallLocal(ctx, r.protectPath("host.sock"), "/status", nil, &h); err == nil {
			var left, total int64
			for _, d := range h.Disks {
				left, total = left+d.DirtyBytes, total+d.Size
			}
			r.progress(total-left, total)
		} else if err := r.keepUp(ctx, &tries); err != nil {
			return false, err
		}
		return rec.covers(s.Checkpoints.LastPublished), nil
	})
}

// covers reports whether a point is one of the fork's own that holds every disk
// of the run.
func (rec *Record) covers(p *dr.Checkpoint) bool {
	if p == nil || rec.Checkpoint == nil || p.ID <= rec.Checkpoint.ID {
		return false
	}
	for _, d := range rec.Disks {
		found := false
		for _, have := range p.Disks {
			found = found || have.ID == d.ID && have.Synced
		}
		if !found {
			return false
		}
	}
	for _, m := range p.Missing {
		if rec.VM(m) != nil {
			return false
		}
	}
	return p.Scope == dr.Group || len(rec.Request.VMs) > 0
}

// poll asks a box for its status until ok says so, or fails.
func poll[T any](ctx context.Context, op, socket string, ok func(*T) (bool, error)) error {
	return pollOr(ctx, op, socket, func() error { return nil }, ok)
}

// pollOr is poll; silent is called when the box does not answer, and ends it by
// an error.
func pollOr[T any](ctx context.Context, op, socket string, silent func() error, ok func(*T) (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		s := new(T)
		if last = control.CallLocal(ctx, socket, "/status", nil, s); last == nil {
			done, err := ok(s)
			if done || err != nil {
				return err
			}
		} else if err := silent(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errs.E(op, errs.Canceled, filepath.Base(socket), errors.Join(context.Cause(ctx), last))
		case <-tick.C:
		}
	}
}

func newTimer(d time.Duration) *time.Timer { return time.NewTimer(d) }
