package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
)

// What a running guest feels of coming under protection and out of it: its
// disk raw behind the host component, and qcow2 behind our server alone, which
// reaches the image through the driver's storage daemon.
var (
	switchFigures   = []string{"attach_ms", "detach_ms"}
	qcow2Figures    = []string{"attach_qcow2_ms", "detach_qcow2_ms"}
	failOpenFigures = []string{"failopen_ms"}
	reportFigures   = []string{"failopen_report_ms"}
)

const (
	liveSwitches  = 20
	liveFailOpens = 5
	// lookAtGuest is the pause between looks at how many writes a guest was
	// acknowledged: the grain of what failopen_ms can tell.
	lookAtGuest = 2 * time.Millisecond
)

// errLostWrites is what ends the bench when a disk misses a write.
var errLostWrites = errors.New("lost or torn writes")

// liveStage measures with real guests, one after the other.
func (b *bench) liveStage(ctx context.Context) error {
	switches, opens := liveSwitches, liveFailOpens
	if b.quick {
		switches, opens = 2, 1
	}
	if b.wants(switchFigures...) || b.wants(failOpenFigures...) {
		if err := b.liveRaw(ctx, switches, opens); err != nil {
			return err
		}
	}
	if b.wants(reportFigures...) {
		if err := b.liveWatched(ctx, opens); err != nil {
			return err
		}
	}
	if b.wants(qcow2Figures...) {
		return b.liveQcow2(ctx, switches)
	}
	return nil
}

// liveRaw attaches a guest's raw disk to a host component and detaches it,
// again and again; then kills the host component under it and fails open. In
// the end the disk must hold every write that the guest was acknowledged, and
// the container, once the host component was there again, the disk.
func (b *bench) liveRaw(ctx context.Context, switches, opens int) (err error) {
	const name = "live-stop"
	s, err := b.newSystem(ctx, systemSpec{name: name, ack: "async", size: pattern.DiskBytes, quota: gib, blank: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	g, err := b.bootGuest(ctx, liveSpec{name: name + "-guest", image: s.disk, format: "raw", policy: "stop"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	t := &liveTimes{}
	serve := func() (hypervisor.Attachment, func() error, error) { return s.attachment(ctx, g) }
	for range switches {
		if err := g.inAndOut(ctx, t, serve); err != nil {
			return err
		}
	}
	slowest := g.Slowest()
	for range opens {
		if err := s.failOpen(ctx, b, g, t); err != nil {
			return err
		}
	}
	writes, err := g.verify(ctx, s.dir)
	if err != nil {
		return err
	}
	if err := s.restartBlind(ctx, b, (*proc).stop); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	verified := fmt.Sprintf("%d acknowledged writes verified, 0 lost", writes)
	b.switchFigure(switchFigures, t, bound{"<=", 50}, fmt.Sprintf("%s; slowest write of the guest meanwhile, by its own clock, %d ms", verified, slowest.Milliseconds()))
	b.openFigure(failOpenFigures[0], t, verified)
	return nil
}

// attachment is the host component's export, which stays when it is detached.
func (s *system) attachment(ctx context.Context, g *liveGuest) (hypervisor.Attachment, func() error, error) {
	src, err := g.vm.Prepare(ctx, liveDevice, hypervisor.InPath)
	if err == nil && src.Path != s.disk {
		err = fmt.Errorf("the driver names %q as the disk, not %s", src.Path, s.disk)
	}
	return hypervisor.Attachment{Socket: s.socket, Export: "disk0", Capture: hypervisor.InPath}, func() error { return nil }, err
}

// liveTimes are what was measured, in milliseconds.
type liveTimes struct {
	in, out []float64
	// Of fail-open: how long the call took, and the time until the guest's next
	// acknowledged write since the call and since the kill.
	call, felt, killed []float64
	// The driver's routes, each once.
	switched, opened []string
}

// addOnce adds words that are not there yet.
func addOnce(to []string, words ...string) []string {
	for _, w := range words {
		if !slices.Contains(to, w) {
			to = append(to, w)
		}
	}
	return to
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// inAndOut attaches the guest's disk to what serve makes and detaches it.
func (g *liveGuest) inAndOut(ctx context.Context, t *liveTimes, serve func() (hypervisor.Attachment, func() error, error)) error {
	a, end, err := serve()
	if err != nil {
		return err
	}
	in, err := g.vm.Attach(ctx, liveDevice, a)
	if err != nil {
		return errors.Join(err, end())
	}
	if err := g.goesOn(ctx); err != nil {
		return errors.Join(err, end())
	}
	out, err := g.vm.Detach(ctx, liveDevice)
	if err := errors.Join(err, end()); err != nil {
		return err
	}
	t.in, t.out = append(t.in, ms(in.Pause)), append(t.out, ms(out.Pause))
	t.switched = addOnce(t.switched, in.Route, out.Route)
	return g.goesOn(ctx)
}

// failOpen kills the host component that the guest writes through, and gives
// the guest its own disk back.
func (s *system) failOpen(ctx context.Context, b *bench, g *liveGuest, t *liveTimes) error {
	a, _, err := s.attachment(ctx, g)
	if err != nil {
		return err
	}
	if _, err := g.vm.Attach(ctx, liveDevice, a); err != nil {
		return err
	}
	if err := s.awaitStreaming(ctx); err != nil {
		return err
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
	type seen struct {
		at  time.Time
		err error
	}
	next := make(chan seen, 1)
	// Each worker has one write under way: what one more than all of them were
	// acknowledged was begun after the kill, or repeated.
	go func() {
		at, err := g.acknowledgedAfter(ctx, before+pattern.Workers)
		next <- seen{at, err}
	}()
	called := time.Now()
	sw, err := g.vm.FailOpen(ctx, liveDevice)
	took := time.Since(called)
	first := <-next
	if err := errors.Join(err, first.err); err != nil {
		return err
	}
	t.call, t.felt, t.killed = append(t.call, ms(took)), append(t.felt, ms(first.at.Sub(called))), append(t.killed, ms(first.at.Sub(killed)))
	t.opened = addOnce(t.opened, sw.Route)
	if err := g.goesOn(ctx); err != nil {
		return err
	}
	// The guest writes past the host component now, which protects its disk
	// again once it is attached again: nothing to wait for before.
	return s.restartBlind(ctx, b, func(*proc) error { return nil })
}

// restartBlind starts the host component again after a guest wrote around it:
// what its sidecar says is true no more, and must go before (ADR 16).
func (s *system) restartBlind(ctx context.Context, b *bench, end func(*proc) error) error {
	if err := end(s.filter); err != nil {
		return err
	}
	if err := os.Remove(s.disk + ".holdfast"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.startFilter(ctx, b)
}

// liveQcow2 is liveRaw without host component: the export is our server alone,
// over the storage daemon that has the image open.
func (b *bench) liveQcow2(ctx context.Context, switches int) (err error) {
	const name = "live-qcow2"
	image := filepath.Join(b.dir, name)
	if _, err := b.sp.run(ctx, "qemu-img", "qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(pattern.DiskBytes)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(image)) }()
	g, err := b.bootGuest(ctx, liveSpec{name: name, image: image, format: "qcow2", policy: "stop"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	st := &stage{sp: b.sp, sockets: b.sockets}
	t := &liveTimes{}
	for range switches {
		err := g.inAndOut(ctx, t, func() (hypervisor.Attachment, func() error, error) {
			src, err := g.vm.Prepare(ctx, liveDevice, hypervisor.InPath)
			if err != nil {
				return hypervisor.Attachment{}, nil, err
			}
			socket := filepath.Join(b.sockets, name+"-export")
			p, err := st.serveNBD(ctx, name+"-export", socket, []string{b.self, "serve", "-remote", src.Socket, "-export", src.Export,
				"-size", fmt.Sprint(pattern.DiskBytes), "-socket", socket})
			if err != nil {
				return hypervisor.Attachment{}, nil, err
			}
			return hypervisor.Attachment{Socket: socket, Capture: hypervisor.InPath}, stopAll(socket, p), nil
		})
		if err != nil {
			return err
		}
	}
	slowest := g.Slowest()
	writes, err := g.verify(ctx, b.dir)
	if err != nil {
		return err
	}
	b.switchFigure(qcow2Figures, t, bound{}, fmt.Sprintf("%d acknowledged writes verified, 0 lost; slowest write of the guest meanwhile, by its own clock, %d ms", writes, slowest.Milliseconds()))
	return nil
}

// switchFigure adds the figures of attaching and detaching.
func (b *bench) switchFigure(names []string, t *liveTimes, want bound, note string) {
	for i, v := range [][]float64{t.in, t.out} {
		f := spread(names[i], "ms", fmt.Sprintf("pause of the disk, %d times under load, route %s", len(v), strings.Join(t.switched, ", ")), want, v)
		b.addLive(f, note)
	}
}

// openFigure adds the figure of failing open: what the guest waited since the
// call.
func (b *bench) openFigure(name string, t *liveTimes, note string) {
	if len(t.felt) == 0 {
		return
	}
	f := spread(name, "ms", fmt.Sprintf("from the call to the guest's next acknowledged write, %d SIGKILLs of the host component", len(t.felt)), bound{"<=", 1000}, t.felt)
	b.addLive(f, fmt.Sprintf("since the kill %.0f ms, worst %.0f; the call itself %.0f, worst %.0f; route %s; %s",
		median(t.killed), slices.Max(t.killed), median(t.call), slices.Max(t.call), strings.Join(t.opened, ", "), note))
}

// addLive adds a figure if it is wanted; its worst is said beside it.
func (b *bench) addLive(f figure, note string) {
	if !b.wants(f.Name) {
		return
	}
	b.figures = append(b.figures, f)
	b.notes = append(b.notes, fmt.Sprintf("%s: worst %.1f ms; %s", f.Name, f.max, note))
}
