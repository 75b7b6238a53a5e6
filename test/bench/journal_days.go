package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/meter"
)

var (
	requestFigures       = []string{"requests_per_day_idle", "requests_per_day_busy"}
	amplificationFigures = []string{"write_amplification", "storage_amplification"}
)

func seededRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 13)) }

// days is a domain that lives by a virtual clock, with the real publisher and
// the real maintainer over a store in memory.
type days struct {
	*guests
	st     *mem.Store
	bill   *meter.Store
	keeper *maintain.Maintainer
	wait   time.Duration // until the next pass
	due    time.Time     // of the next pass
	report *maintain.Report
	passes int
}

// newDays makes one at a fixed moment.
func newDays(ctx context.Context, o guestsOptions) (*days, error) {
	o.clock = newVirtualClock(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	d := &days{st: mem.NewAt(o.clock.Wall), wait: maintain.DefaultInterval}
	d.bill = meter.New(d.st)
	var err error
	if d.guests, err = newGuests(ctx, d.bill, o); err != nil {
		return nil, err
	}
	if d.keeper, err = maintain.New(ctx, d.c, maintain.Options{By: "bench", Clock: d.clock}); err != nil {
		return nil, err
	}
	d.due = d.clock.Wall()
	return d, nil
}

// maintain makes a pass when one is due, and waits as Maintainer.Run does:
// its interval after work, ever longer without.
func (d *days) maintain(ctx context.Context) error {
	for !d.clock.Wall().Before(d.due) {
		var err error
		if d.report, err = d.keeper.Pass(ctx); err != nil {
			return err
		}
		if len(d.report.Alarms) > 0 {
			return fmt.Errorf("maintenance raised alarms: %v", d.report.Alarms)
		}
		d.passes++
		d.wait = min(2*d.wait, maintain.MostInterval)
		if d.report.Changed {
			d.wait = maintain.DefaultInterval
		}
		if !d.report.More {
			d.due = d.clock.Wall().Add(d.wait)
		}
	}
	return nil
}

// step lets time pass, publishes what was written, and maintains.
func (d *days) step(ctx context.Context, by time.Duration) error {
	d.clock.advance(by)
	if err := d.cut(ctx); err != nil {
		return err
	}
	return d.maintain(ctx)
}

// requests counts what a domain asks of its store in a day: publisher and
// maintainer, every request of every sort. The day that counts is the third:
// by then objects are packed and deleted as fast as they come.
func (b *bench) requests(ctx context.Context, dir string) ([]figure, error) {
	idle, err := b.countDay(ctx, dir, requestFigures[0], 1, drva.Heartbeat)
	if err != nil {
		return nil, fmt.Errorf("idle: %w", err)
	}
	busy, err := b.countDay(ctx, dir, requestFigures[1], 10, drva.DefaultInterval)
	if err != nil {
		return nil, fmt.Errorf("busy: %w", err)
	}
	return []figure{
		spread(requestFigures[0], "requests", "a domain that writes nothing: publisher and maintainer", bound{"<=", 1500}, []float64{idle}),
		spread(requestFigures[1], "requests", "ten VMs that write all the time, a checkpoint every 5 s: publisher and maintainer", bound{"<=", 20_000}, []float64{busy}),
	}, nil
}

const (
	// countDays is how long a domain lives whose last day is counted.
	countDays = 3
	// countChunks is the size of its disks.
	countChunks = 64
)

// countDay runs a domain of so many VMs for days and returns the requests of
// the last one. More than one VM writes; one does not.
func (b *bench) countDay(ctx context.Context, dir, name string, vms int, every time.Duration) (float64, error) {
	d, err := newDays(ctx, guestsOptions{disks: vms, chunks: countChunks, seed: 1})
	if err != nil {
		return 0, err
	}
	defer d.close()
	if err := d.baseline(ctx, countChunks); err != nil {
		return 0, err
	}
	day := time.Duration(b.sized(int(24*time.Hour), int(time.Hour)))
	var before meter.Counts
	var stored int64
	passes := 0
	for range b.sized(countDays, 2) {
		before, passes, stored = d.bill.Counts(), d.passes, d.stored
		for range int(day / every) {
			if err := d.scribble(vms); err != nil {
				return 0, err
			}
			if err := d.step(ctx, every); err != nil {
				return 0, err
			}
		}
	}
	c := d.bill.Counts()
	if made := c.Creates - before.Creates; made < uint64(day/every) {
		return 0, fmt.Errorf("%d objects were created in a day of checkpoints every %v: the count is wrong", made, every)
	}
	b.remark("%s: the last %v of a domain of %d VMs, a checkpoint every %v, all requests counted: %d creates, %d reads, %d stats, %d lists, %d deletes, %d locks looked at; %d passes of maintenance; %.2f bytes written for each of a journal object",
		name, day, vms, every, c.Creates-before.Creates, c.Reads-before.Reads, c.Stats-before.Stats, c.Lists-before.Lists, c.Deletes-before.Deletes, c.Locks-before.Locks, d.passes-passes,
		float64(c.BytesIn-before.BytesIn)/float64(d.stored-stored))
	return float64(c.Requests() - before.Requests()), d.verify(ctx, "latest", filepath.Join(dir, name), d.head)
}

// scribble writes a block of each of many VMs, and none of a single one.
func (d *days) scribble(vms int) error {
	if vms == 1 {
		return nil
	}
	for disk := range vms {
		if err := d.write(disk, d.rng.Uint32N(countChunks), 1<<d.rng.IntN(dr.BlocksPerChunk)); err != nil {
			return err
		}
	}
	return nil
}

const (
	// monthEvery is the time between checkpoints of the month: a minute, so
	// that the first tier of the default schedule thins nothing.
	monthEvery = time.Minute
	// monthPass is the time between passes: an hour, as full merges are anyhow.
	monthPass = time.Hour
	// monthChunks is the disk: 512 MiB.
	monthChunks = 8192
	// monthSlack is how many checkpoints lie behind the newest manifest or
	// leave with the one after it.
	monthSlack = 2 * int(monthPass/monthEvery)
	// monthGarbage is how much garbage may lie beside what is in use, in per
	// cent.
	monthGarbage = 15
)

// amplification lives through a month of a busy disk and compares what was
// written to the store with what the guests' changes alone take, and what the
// store holds with what is needed.
func (b *bench) amplification(ctx context.Context, dir string) ([]figure, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(monthGarbage)) // 5 GB of objects in memory
	d, err := newDays(ctx, guestsOptions{disks: 1, chunks: b.sized(monthChunks, 512), seed: 2})
	if err != nil {
		return nil, err
	}
	defer d.close()
	if err := d.baseline(ctx, 500); err != nil {
		return nil, err
	}
	m := &month{days: d, bench: b, kept: make(map[dr.CheckpointID][][]uint16)}
	length := b.sized(30, 3)
	for day := range length {
		if err := m.day(ctx); err != nil {
			return nil, fmt.Errorf("day %d: %w", day+1, err)
		}
	}
	if err := m.verify(ctx, dir); err != nil {
		return nil, err
	}
	written := float64(d.bill.Counts().BytesIn) / float64(d.stored)
	held := median(m.held)
	st := d.report.Stats
	b.remark("%d days of a disk of %d MiB, a checkpoint a minute, default retention, a pass an hour: guests wrote %d MiB; published %d MiB; written to the store in all %d MiB; %d objects deleted",
		length, len(d.head[0])*dr.BlockSize/mib, d.raw/mib, d.stored/mib, d.bill.Counts().BytesIn/mib, d.bill.Counts().Deletes)
	b.remark("at the end: stored %d MiB, live %d MiB, reclaimable %d MiB, index %d KiB; with what waits for its grace of %v the store holds %.2f x live",
		st.Stored/mib, st.Live/mib, st.Reclaimable/mib, st.Index>>10, maintain.DefaultGrace, median(m.graced))
	return []figure{
		spread(amplificationFigures[0], "ratio", "all bytes written to the store over bytes of journal objects", bound{"<=", 2}, []float64{written}),
		spread(amplificationFigures[1], "ratio", "bytes stored, what waits to be deleted left out, over live bytes; daily from the second day", bound{"<=", 1.3}, m.held),
		{Name: "storage_amplification_with_grace", Value: median(m.graced), Unit: "ratio", Against: "everything in the store over live bytes", min: slices.Min(m.graced), max: slices.Max(m.graced), note: fmt.Sprintf("%.2f without the grace", held)},
	}, nil
}

// month is the busy month, with some of its checkpoints remembered.
type month struct {
	*days
	bench        *bench
	log          uint32 // where the guest's log goes on
	number       int
	held, graced []float64
	kept         map[dr.CheckpointID][][]uint16
}

// day writes for a day: a fifth is appended to a log, two thirds lie in a hot
// fiftieth of the disk, the rest are files written in one go.
func (m *month) day(ctx context.Context) error {
	d := m.days
	const minutes = 24 * 60
	for minute := range minutes {
		if err := m.minute(minute); err != nil {
			return err
		}
		d.clock.advance(monthEvery)
		if minute == minutes-1 {
			m.kept[d.cp+1] = [][]uint16{slices.Clone(d.head[0])}
		}
		if err := d.cut(ctx); err != nil {
			return err
		}
		if minute%int(monthPass/monthEvery) == 0 {
			d.due = d.clock.Wall()
			if err := d.maintain(ctx); err != nil {
				return err
			}
			d.due = d.clock.Wall().Add(24 * time.Hour)
		}
	}
	m.number++
	s := d.report.Stats
	if m.number > 1 && s.Live > 0 {
		var all int64
		if err := store.Walk(ctx, d.st, "", func(in store.Info) error { all += in.Size; return nil }); err != nil {
			return err
		}
		m.held = append(m.held, float64(s.Stored+s.Index-s.Reclaimable)/float64(s.Live))
		m.graced = append(m.graced, float64(all)/float64(s.Live))
		fmt.Fprintf(os.Stderr, "day %d  stored %d, live %d, reclaimable %d, all %d MiB\n", m.number, s.Stored/mib, s.Live/mib, s.Reclaimable/mib, all/mib)
	}
	return nil
}

// minute is some four versions.
func (m *month) minute(minute int) error {
	d := m.days
	chunks := uint32(len(d.head[0]) / dr.BlocksPerChunk)
	hot := max(1, chunks/50)
	for range 3 {
		n := 4 + d.rng.IntN(9)
		mask := uint16((1<<n - 1) << d.rng.IntN(17-n))
		if err := d.write(0, chunks/2+d.rng.Uint32N(hot), mask); err != nil {
			return err
		}
	}
	m.log++
	if err := d.write(0, m.log%(chunks/40+1), 0xffff); err != nil {
		return err
	}
	if minute%30 != 0 {
		return nil
	}
	first := d.rng.Uint32N(chunks)
	for i := range uint32(18) {
		if err := d.write(0, (first+i)%chunks, 0xffff); err != nil {
			return err
		}
	}
	return nil
}

// verify rebuilds the oldest and newest of the remembered checkpoints that
// retention kept, and compares them.
func (m *month) verify(ctx context.Context, dir string) error {
	h, err := m.c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return err
	}
	if n, most := len(h.Checkpoints()), maintain.DefaultSchedule().Points()+monthSlack; n > most {
		return fmt.Errorf("%d checkpoints are retained, and the schedule keeps up to %d", n, most)
	}
	var there []dr.CheckpointID
	for _, cp := range h.Checkpoints() {
		if m.kept[cp.ID] != nil {
			there = append(there, cp.ID)
		}
	}
	if len(there) < 2 {
		return errors.New("retention kept no old checkpoint that is the last of its day")
	}
	for _, id := range []dr.CheckpointID{there[0], there[len(there)/2], there[len(there)-1]} {
		if err := m.guests.verify(ctx, fmt.Sprintf("#%d", id), filepath.Join(dir, "rebuilt"), m.kept[id]); err != nil {
			return fmt.Errorf("checkpoint %d: %w", id, err)
		}
	}
	return nil
}
