package iofilter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// pauses is what people have paused: all the host has and will have, or
// nothing, but for the disks in Except. In the file it is JSON.
type pauses struct {
	All    bool        `json:"all"`
	Except []dr.DiskID `json:"except,omitempty"`
}

// has reports whether a disk is paused.
func (p *pauses) has(id dr.DiskID) bool { return p.All != slices.Contains(p.Except, id) }

// with is p after disks are paused, or resumed.
func (p *pauses) with(ids []dr.DiskID, paused bool) pauses {
	next := pauses{p.All, slices.Clone(p.Except)}
	for _, id := range ids {
		if p.has(id) != paused {
			next = next.toggled(id)
		}
	}
	return next
}

func (p pauses) toggled(id dr.DiskID) pauses {
	if i := slices.Index(p.Except, id); i >= 0 {
		p.Except = slices.Delete(p.Except, i, i+1)
	} else {
		p.Except = append(p.Except, id)
	}
	return p
}

// without forgets disks that are not protected any more.
func (p *pauses) without(ids []dr.DiskID) pauses {
	return pauses{p.All, slices.DeleteFunc(slices.Clone(p.Except), func(id dr.DiskID) bool { return slices.Contains(ids, id) })}
}

func (p *pauses) equal(o *pauses) bool { return p.All == o.All && slices.Equal(p.Except, o.Except) }

// save writes p to path, or removes the file when nothing is paused; durable on
// return. Without a path it is kept in memory alone.
func (p *pauses) save(fs durable.FS, path string) error {
	const op = "iofilter.Pause"
	if path == "" {
		return nil
	}
	err := error(nil)
	if !p.All && len(p.Except) == 0 {
		err = durable.Remove(fs, path)
	} else {
		b, _ := json.Marshal(p) // ids and a bool: cannot fail
		err = durable.WriteFile(fs, path, b)
	}
	if err != nil {
		return errs.E(op, errs.KindOf(err), path, err).WithRemedy("set pause_file to a path that can be written and is kept over a restart")
	}
	return nil
}

// loadPauses reads what was paused when the host component ended. A file that
// is damaged says that all was: to go on by mistake is the worse error.
func loadPauses(fs durable.FS, path string) (p pauses, damaged bool, err error) {
	if path == "" {
		return p, false, nil
	}
	b, err := durable.ReadFile(fs, path, maxPauseFile)
	switch {
	case errs.Is(err, errs.NotFound):
		return p, false, nil
	case err != nil:
		return p, false, errs.E("iofilter.New", errs.KindOf(err), path, err)
	}
	if p, err = parsePauses(b); err != nil {
		return pauses{All: true}, true, nil
	}
	return p, false, nil
}

// parsePauses decodes a file strictly.
func parsePauses(b []byte) (p pauses, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return pauses{}, errs.E("iofilter.New", errs.Corrupt, "pause file", err)
	}
	if len(p.Except) > maxPauses {
		return pauses{}, errs.E("iofilter.New", errs.Corrupt, "pause file", fmt.Errorf("%d disks", len(p.Except)))
	}
	return p, nil
}

// Pause makes disks track until they are resumed: their writes are
// acknowledged by the primary alone and only remembered. A paused host pauses
// what comes to it later too. It holds over restarts and takeovers; durable on
// return, if Config.PauseFile is set. Errors: NotFound; Unavailable (another
// process is taking over: repeat); those of the file. On error nothing has
// changed.
func (f *Filter) Pause(t Target) error { return f.setPause("iofilter.Pause", t, true) }

// Resume ends Pause; what changed meanwhile is sent. Durable and errors as of
// Pause.
func (f *Filter) Resume(t Target) error { return f.setPause("iofilter.Resume", t, false) }

func (f *Filter) setPause(op string, t Target, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.staysLocked(op); err != nil {
		return err
	}
	if _, err := f.findLocked(op, t); err != nil && !t.whole() {
		return err
	}
	next := f.out.pausesWith(t, on)
	if len(next.Except) > maxPauses {
		return errs.New(op, errs.Full, t.String(), "too many disks are paused one by one").WithRemedy("pause the whole host")
	}
	if err := next.save(f.fs, f.cfg.PauseFile); err != nil {
		return err
	}
	f.out.applyPauses(next)
	return nil
}

// staysLocked refuses what another process would not know of: this one is
// handing over to it, or has.
func (f *Filter) staysLocked(op string) error {
	if f.handing == nil {
		return nil
	}
	return errs.New(op, errs.Unavailable, f.cfg.Name, "another process is taking over").WithRemedy("repeat in a moment")
}

// forgetPauses forgets pauses of disks that leave: another time they come as
// others do.
func (f *Filter) forgetPauses(ports []*port) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []dr.DiskID
	for _, p := range ports {
		ids = append(ids, p.conf.ID)
	}
	was := f.out.pausesNow()
	next := was.without(ids)
	if next.equal(&was) {
		return
	}
	f.out.forgetPauses(next)
	if err := next.save(f.fs, f.cfg.PauseFile); err != nil {
		f.log.Warn("the pause of a disk that left cannot be forgotten", "err", err, "remedy", errs.RemedyOf(err))
	}
}

func (o *outlet) pausesNow() pauses {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.users
}

func (o *outlet) forgetPauses(next pauses) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users = next
}

// pausesWith is what is paused once a target is, or is not any more.
func (o *outlet) pausesWith(t Target, on bool) pauses {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t.whole() {
		return pauses{All: on}
	}
	var ids []dr.DiskID
	for _, d := range o.disks {
		if t.matches(d) && d.member.leave == nil {
			ids = append(ids, d.info.ID)
		}
	}
	return o.users.with(ids, on)
}

// applyPauses keeps the writes of disks that are paused outside the stream, and
// lets those in again that are not any more.
func (o *outlet) applyPauses(next pauses) {
	o.mu.Lock()
	defer o.unlock()
	o.users = next
	for _, d := range o.disks {
		switch on := next.has(d.info.ID); {
		case d.member.leave != nil || on == (d.member.paused != ""):
		case on:
			d.member.paused = causePaused
			o.oweLocked(d)
		default:
			d.member.paused = ""
			d.progress.begin(d.dirty.Count(), o.now())
		}
	}
	o.room.Broadcast() // who waits for room on behalf of a paused disk need not
	o.membersMovedLocked(o.now())
	o.restateLocked()
	signal(o.syncKick)
}

// pause and resume change what is paused, in memory alone.
func (o *outlet) pause(t Target)  { o.applyPauses(o.pausesWith(t, true)) }
func (o *outlet) resume(t Target) { o.applyPauses(o.pausesWith(t, false)) }

// pauseAsBefore pauses what was paused in the process before: what it hands
// over, or what the file says.
func (f *Filter) pauseAsBefore(l *Legacy) error {
	was, damaged, err := loadPauses(f.fs, f.cfg.PauseFile)
	if err != nil {
		return err
	}
	if damaged {
		f.log.Error("what tells of pauses is damaged: all disks are paused", "file", f.cfg.PauseFile, "remedy", "holdfast resume")
	}
	if l != nil { // of an earlier version it may have no file
		now := l.pauses()
		if !now.equal(&was) {
			if err := now.save(f.fs, f.cfg.PauseFile); err != nil {
				return err
			}
		}
		was = now
	}
	f.out.applyPauses(was)
	return nil
}

// pauses is what was paused in who leaves the Legacy.
func (l *Legacy) pauses() pauses {
	p := pauses{All: l.Paused}
	for i := range l.Disks {
		if l.Disks[i].Paused != l.Paused {
			p.Except = append(p.Except, l.Disks[i].ID)
		}
	}
	return p
}
