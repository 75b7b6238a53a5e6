package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

// lentWithin is how long a host component may take to lend a new socket to its
// watchdog, twice the product's pause between two looks.
const lentWithin = time.Second

// liveWatched kills a host component that protects a VM by name, again and again,
// and leaves the rest to its watchdog: the guest's errors would reach it. In the
// end the disk must hold every write that the guest was acknowledged, and the
// container the disk.
func (b *bench) liveWatched(ctx context.Context, opens int) (err error) {
	const name = "live-watched"
	s := b.planSystem(systemSpec{name: name, ack: "async", size: pattern.DiskBytes, quota: gib, blank: true})
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.build(ctx, b); err != nil {
		return err
	}
	g, err := b.bootGuest(ctx, liveSpec{name: name + "-guest", image: s.disk, format: "raw", watched: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := s.startWatched(ctx, b, g); err != nil {
		return err
	}
	var rep live.Report
	if err := control.CallLocal(ctx, s.filterStatus, "/protect", map[string]string{"vm": liveVM}, &rep); err != nil {
		return err
	}
	s.diskID = rep.Disks[0].ID
	if err := s.awaitWhole(ctx); err != nil {
		return err
	}
	if err := s.openReplay(ctx); err != nil {
		return err
	}
	t := &liveTimes{}
	for range opens {
		if err := s.killWatched(ctx, b, g, t); err != nil {
			return err
		}
	}
	writes, err := g.verify(ctx, s.dir)
	if err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	f := spread(reportFigures[0], "ms", fmt.Sprintf("from the SIGKILL of the host component to the guest's next acknowledged write, %d times", len(t.killed)), bound{"<=", 1000}, t.killed)
	b.addLive(f, fmt.Sprintf("by the watchdog, errors would reach the guest; %d acknowledged writes verified, 0 lost", writes))
	return nil
}

// watchedFile is the configuration file of a host component with a hypervisor.
type watchedFile struct {
	filterFile
	VMs      []iofilter.VM  `json:"vms"` // none is listed
	Platform map[string]any `json:"platform"`
	Live     map[string]any `json:"live"`
}

// startWatched starts the host component beside a guest's monitor, with its
// watchdog, and returns when it answers.
func (s *system) startWatched(ctx context.Context, b *bench, g *liveGuest) error {
	path := filepath.Join(s.dir, "host.json")
	file := watchedFile{
		filterFile: filterFile{Config: s.filterConfig(), DRVA: s.drvaAddr, TLS: filepath.Join(s.dir, "host-tls"), Status: s.filterStatus},
		VMs:        []iofilter.VM{},
		Platform:   map[string]any{"qmp": []any{map[string]any{"socket": g.qmp}}},
		Live:       map[string]any{"sockets": b.sockets, "record": filepath.Join(s.dir, "live.json")},
	}
	if err := writeConfig(path, file); err != nil {
		return err
	}
	var err error
	if s.filter, err = b.sp.start(s.name+"-iofilter", s.binary, "iofilter", "--config", path); err != nil {
		return err
	}
	return s.awaitAnswer(ctx, s.filter, s.filterStatus)
}

// awaitWhole waits until the one disk is in its guest's path and its copy complete.
func (s *system) awaitWhole(ctx context.Context) error {
	return await(ctx, syncedWithin, "the sync of "+s.name, func() (bool, error) {
		if err := aliveAll([]*proc{s.drva, s.filter}); err != nil {
			return false, err
		}
		st, err := s.filterState(ctx)
		return err == nil && len(st.Disks) == 1 && !slices.ContainsFunc(st.Disks, func(d iofilter.DiskStatus) bool {
			return d.Clients == 0 || d.State != iofilter.Streaming || d.DirtyBytes > 0
		}), err
	})
}

// killWatched kills the host component that the guest writes through and starts
// another one when the guest has gone on.
func (s *system) killWatched(ctx context.Context, b *bench, g *liveGuest, t *liveTimes) error {
	select {
	case <-time.After(lentWithin):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := g.goesOn(ctx); err != nil {
		return err
	}
	killed := time.Now()
	s.filter.kill()
	before, err := g.side.acknowledged(liveDevice)
	if err != nil {
		return err
	}
	at, err := g.acknowledgedAfter(ctx, before+pattern.Workers) // as in failOpen
	if err != nil {
		return err
	}
	t.killed = append(t.killed, ms(at.Sub(killed)))
	if err := g.goesOn(ctx); err != nil {
		return err
	}
	if err := os.Remove(s.filterStatus); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.startWatched(ctx, b, g); err != nil {
		return err
	}
	return s.awaitWhole(ctx)
}
