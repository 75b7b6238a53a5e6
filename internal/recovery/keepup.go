package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// box is a process of the protection here, as it is started.
type box struct{ name, socket, command, config string }

// boxes in the order of their start.
var boxes = []box{
	{"drva", "drva.sock", "drva", "drva.json"},
	{"host", "host.sock", "iofilter", "host.json"},
}

// The boxes by name.
var drvaBox, hostBox = &boxes[0], &boxes[1]

// args are what the product is started with.
func (r *Run) args(b *box) []string { return []string{b.command, "--config", r.protectPath(b.config)} }

// endBox ends a box of this run, whether the record tells of it or not: who
// started it may have died before he wrote so.
func (r *Run) endBox(ctx context.Context, b *box) error {
	site := r.s.opts.Site
	all := site.Running(b.name, r.args(b)...)
	for _, p := range r.Record().Launched {
		if p.Name == b.name && !slices.Contains(all, p) {
			all = append(all, p) // it has ended: what watched it may not have
		}
	}
	for _, p := range all {
		if err := site.End(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// relaunch starts VMs and boxes that have ended.
func (r *Run) relaunch(ctx context.Context) error {
	if err := r.boot(ctx); err != nil {
		return err
	}
	return r.launch(ctx)
}

// retarget has the host component look for VMs where they are now: one that was
// started again has another monitor.
func (r *Run) retarget(ctx context.Context) error {
	const op = "recovery.protect"
	path := r.protectPath("host.json")
	if err := r.adopt(ctx); err != nil {
		return err
	}
	_, monitors := r.entries(false)
	cfg, err := r.readJSON(path)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(r.s.opts.Site.Platform(monitors))
	var want any
	if err == nil {
		err = json.Unmarshal(raw, &want)
	}
	if err != nil {
		return errs.E(op, errs.Internal, path, err)
	}
	if len(monitors) == 0 || reflect.DeepEqual(cfg["platform"], want) {
		return nil
	}
	if err := r.endBox(ctx, hostBox); err != nil {
		return err
	}
	cfg["platform"] = want
	return r.writeJSON(path, cfg)
}

// readdress gives the DRVA another address when somebody listens at its own: it was
// free when it was chosen, which may be days ago. The host component, which has it
// from the start, is started again with the new one.
func (r *Run) readdress(ctx context.Context) error {
	const op = "recovery.protect"
	if len(r.s.opts.Site.Running(drvaBox.name, r.args(drvaBox)...)) > 0 {
		return nil // it has it
	}
	at, of := r.protectPath(drvaBox.config), r.protectPath(hostBox.config)
	cfg, err := r.readJSON(at)
	if err != nil {
		return err
	}
	host, err := r.readJSON(of)
	if err != nil {
		return err
	}
	address, ok := cfg["listen"].(string)
	if !ok {
		return errs.New(op, errs.Corrupt, at, "it does not say where the DRVA listens")
	}
	ln, err := net.Listen("tcp", address)
	if err == nil {
		if err := ln.Close(); err != nil || host["drva"] == address {
			return err
		}
	} else if address, err = freeAddress(); err != nil {
		return err
	}
	if err := r.endBox(ctx, hostBox); err != nil {
		return err
	}
	host["drva"], cfg["listen"] = address, address
	if err := r.writeJSON(at, cfg); err != nil { // first: a death between is seen by the two not being the same
		return err
	}
	return r.writeJSON(of, host)
}

// readJSON reads a configuration that the run wrote.
func (r *Run) readJSON(path string) (cfg map[string]any, err error) {
	raw, err := durable.ReadFile(r.s.fs, path, maxRecord)
	if err == nil {
		if err := json.Unmarshal(raw, &cfg); err != nil {
			return nil, errs.E("recovery.protect", errs.Corrupt, path, err)
		}
	}
	return cfg, err
}

// keepUp starts again what has ended of the protection here, a few times: what
// ends again and again does so for a reason.
func (r *Run) keepUp(ctx context.Context, tries *int) error {
	for _, p := range r.Record().Launched {
		if !p.hasEnded() {
			continue
		}
		words := errs.E("recovery.reprotect", errs.Unavailable, p.Name, errors.New("it has ended, and is started again"))
		if *tries++; *tries > maxRelaunch {
			return errs.New("recovery.reprotect", errs.Unavailable, p.Name, fmt.Sprintf("it has ended %d times", *tries)).
				WithRemedy("see " + r.protectPath(p.Name+".log"))
		}
		if err := r.warn(words); err != nil {
			return err
		}
		return r.relaunch(ctx)
	}
	return nil
}

// allRun demands that every VM runs that is to be protected here.
func (r *Run) allRun(ctx context.Context) error {
	rec := r.Record()
	if r.s.opts.Site == nil || rec.Request.NoProtect || rec.Request.NoBoot {
		return nil
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	for _, v := range rec.VMs {
		if v.Recorded != nil && !rec.Request.down(&v) && r.vm(v.Config.ID) == nil {
			return errs.New("recovery.commit", errs.Conflict, v.Config.Name, "this VM has ended: its protection cannot begin").
				WithRemedy("start it again: holdfast recover resume " + r.dir + "; then commit")
		}
	}
	return nil
}
