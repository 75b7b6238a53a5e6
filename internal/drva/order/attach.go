package order

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// Attach takes a host's Hello and answers it with a Welcome or a Refuse among
// the Sends. The caller has checked who the host is. A host that attaches
// again replaces its own earlier connection; a disk is served by one live host
// at a time.
func (c *Core) Attach(conn ConnID, h *wire.Hello, now time.Time) {
	c.now = now
	if c.paused {
		c.parked = append(c.parked, parked{conn, h})
		return
	}
	disks, err := c.checkHello(h)
	if err == nil {
		err = c.checkDisks(h, disks)
	}
	var s *stream
	if err == nil {
		s, err = c.streamFor(h, disks)
	}
	if err != nil {
		c.refuse(conn, err)
		return
	}
	for _, old := range c.order {
		if old.conn != 0 && old.host == h.Host {
			c.refuse(old.conn, errs.New("order.Attach", errs.Conflict, "host "+h.Name, "replaced by a newer connection of the same host").
				WithRemedy("nothing to do, unless two host components run under one identity"))
			c.drop(old)
		}
	}
	s.conn, s.hello, s.next, s.pending, s.resume = conn, disks, h.Next, h, resumesOf(h)
	s.replayed, s.place = false, 0
	s.freezes, s.places = slices.Contains(h.Features, wire.FeatureFreeze), slices.Contains(h.Features, wire.FeaturePlace)
	c.conns[conn] = s
	c.welcome(s, h)
	if c.merge == nil {
		c.pump() // what an earlier connection brought lies before the binding
		c.bind(s)
	}
	c.pump()
}

// checkHello checks the parts of a Hello that need no other host, and returns
// its disks by wire index.
func (c *Core) checkHello(h *wire.Hello) (map[uint16]dr.Disk, *errs.Error) {
	bad := func(format string, a ...any) *errs.Error {
		return errs.New("order.Attach", errs.Invalid, "host "+h.Name, fmt.Sprintf(format, a...)).
			WithRemedy("correct the host component's configuration")
	}
	if h.Host.IsZero() {
		return nil, bad("the host has no identity")
	}
	if _, ok := dr.ParseAckRule(h.Ack); !ok {
		return nil, bad("unknown ack rule %q", h.Ack)
	}
	if h.First == 0 || h.Next < h.First {
		return nil, bad("its stream stands at %d to %d, sequences begin at 1", h.First, h.Next)
	}
	disks, ids := map[uint16]dr.Disk{}, map[dr.DiskID]bool{}
	for _, vm := range h.VMs {
		if vm.Config.ID.IsZero() {
			return nil, bad("VM %q has no identity", vm.Config.Name)
		}
		for _, d := range vm.Disks {
			if _, twice := disks[d.Index]; twice || ids[d.Disk.ID] {
				return nil, bad("disk %s or its index %d is announced twice", d.Disk.ID, d.Index)
			}
			if d.Disk.ID.IsZero() || d.Disk.VM != vm.Config.ID || !validSize(d.Disk.Size) {
				return nil, bad("disk %s of VM %s: no identity, another VM, or a size of %d bytes", d.Disk.ID, vm.Config.ID, d.Disk.Size)
			}
			disks[d.Index], ids[d.Disk.ID] = d.Disk, true
		}
	}
	return disks, nil
}

// checkDisks refuses a host that brings a disk another live host serves, or
// more hosts and disks than a domain may have.
func (c *Core) checkDisks(h *wire.Hello, disks map[uint16]dr.Disk) *errs.Error {
	live, fresh := 0, 0
	for _, d := range disks {
		if _, known := c.state.byID[d.ID]; !known {
			fresh++
		}
	}
	mine := make(map[dr.DiskID]bool, len(disks))
	for _, d := range disks {
		mine[d.ID] = true
	}
	for _, s := range c.order {
		if s.conn == 0 || s.host == h.Host {
			continue
		}
		live++
		if s.pending != nil {
			fresh += len(s.hello) // at most: bound after the merge
		}
		for _, d := range s.hello {
			if mine[d.ID] {
				return errs.New("order.Attach", errs.Conflict, "disk "+d.ID.String(),
					fmt.Sprintf("attached by host %s and now also by host %s", s.name, h.Name)).
					WithRemedy("a disk is written by one host at a time: stop its VM, or its protection, on one of the two")
			}
		}
	}
	if live >= MaxHosts || len(c.state.disks)+fresh > MaxDisks || int(c.state.lastIndex)+fresh > MaxIndex {
		return errs.New("order.Attach", errs.Full, "host "+h.Name,
			fmt.Sprintf("a domain has at most %d attached hosts and %d disks", MaxHosts, MaxDisks)).
			WithRemedy("divide the VMs over several protected domains")
	}
	return nil
}

// streamFor finds the stream h goes on with, or starts one.
func (c *Core) streamFor(h *wire.Hello, disks map[uint16]dr.Disk) (*stream, *errs.Error) {
	for _, s := range c.order {
		if s.host != h.Host || s.nonce != h.Nonce || h.Next <= s.received {
			continue
		}
		for w, i := range s.binds {
			d, mine := disks[w]
			if bound := c.state.disks[i]; mine && bound != nil && bound.owner == s.session && bound.ID != d.ID {
				return nil, errs.New("order.Attach", errs.Invalid, "disk "+d.ID.String(),
					fmt.Sprintf("host %s gave it index %d, which meant disk %s in the same run", h.Name, w, bound.ID)).
					WithRemedy("restart the host component: indices may change only between its runs")
			}
		}
		s.gap = h.First > s.received+1 || c.merge != nil && c.merge.lost[s.session]
		s.ack, _ = dr.ParseAckRule(h.Ack)
		return s, nil
	}
	c.top++
	ack, _ := dr.ParseAckRule(h.Ack)
	s := c.addStream(&session{number: c.top, host: h.Host, name: plainName(h.Name), nonce: h.Nonce, ack: ack, last: h.First - 1})
	return s, nil
}

// plainName makes a name safe to show and cheap to encode.
func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) {
			return '?'
		}
		return r
	}, s[:min(len(s), MaxName)])
	return s
}

// welcome decides which disks the host must sync from the start, and answers.
func (c *Core) welcome(s *stream, h *wire.Hello) {
	_, logged := c.state.sessions[s.session]
	w := &wire.Welcome{Session: s.session, Known: logged && !s.gap}
	if logged {
		w.Durable = s.durable
	}
	s.resync, s.resumed = map[uint16]bool{}, map[uint16]bool{}
	for index, d := range s.hello {
		switch {
		case c.needsSync(s, index):
			s.resync[index] = true
			w.Unsynced = append(w.Unsynced, index)
			if c.state.disks[c.state.byID[d.ID]] != nil {
				w.Hashed = append(w.Hashed, index) // the container may have an earlier state of it
			}
		case s.resume[index] != nil && !s.staysSynced(c.state.disks[c.state.byID[d.ID]], index):
			s.resumed[index] = true
			w.Resumed = append(w.Resumed, index)
			if known := c.state.disks[c.state.byID[d.ID]]; known != nil && known.origin != 0 {
				w.Hashed = append(w.Hashed, index) // the container has just this state of it
			}
		}
	}
	slices.Sort(w.Unsynced)
	slices.Sort(w.Hashed)
	slices.Sort(w.Resumed)
	w.Features = []string{wire.FeatureHash}
	c.send(Send{Conn: s.conn, Type: wire.TypeWelcome, Welcome: w})
}

// needsSync reports whether a disk that s brings must be synced from the
// start: its content is not complete in the log, and s is not the session that
// is completing it; or another run wrote it last, and s does not go on where
// that one ended.
func (c *Core) needsSync(s *stream, w uint16) bool {
	d := c.state.disks[c.state.byID[s.hello[w].ID]]
	switch {
	case d == nil || s.gap:
		return true
	case d.owner == s.session:
		return !d.synced && d.syncing != s.session
	}
	return !c.resumes(s, d, w)
}

// bind writes into the log what an attached host's Hello changes: disks,
// their loss of sync, the session.
func (c *Core) bind(s *stream) {
	h := s.pending
	s.pending = nil
	indices := make([]uint16, 0, len(s.hello))
	for w := range s.hello {
		indices = append(indices, w)
	}
	slices.Sort(indices)
	binds := make(map[uint16]uint16, len(indices))
	retell := false
	for _, w := range indices {
		index, untold := c.bindDisk(s, w)
		binds[w] = index
		retell = retell || untold
	}
	c.bindSession(s, h, binds)
	for i := range h.VMs {
		c.bindVM(&h.VMs[i].Config)
	}
	c.forgetStreams()
	clear(s.unbound)
	if retell {
		c.reconnect(s, "the state of its disks changed while replays were put in order")
	}
}

// bindDisk brings the disk's entry up to date. untold: the disk needs a sync
// and the host was not told.
func (c *Core) bindDisk(s *stream, w uint16) (index uint16, untold bool) {
	want := s.hello[w]
	d := c.state.disks[c.state.byID[want.ID]]
	if d == nil {
		d = &disk{Disk: want, index: c.state.lastIndex + 1}
		c.ownJSON(record.Disk, d.index, d.body())
	} else if d.Size != want.Size || d.VM != want.VM || d.seed {
		changed := *d
		changed.Size, changed.VM, changed.seed = want.Size, want.VM, false
		c.ownJSON(record.Disk, d.index, changed.body())
	}
	index = d.index
	d = c.state.disks[index]
	lost := s.unbound[w] || c.needsSync(s, w)
	switch {
	case lost || s.resync[w]:
		if d.synced || d.syncing != 0 || d.suspended {
			c.unsync(d)
		}
	case d.owner != s.session && !s.staysSynced(d, w):
		c.suspend(d, s)
	}
	return index, lost && !s.resync[w]
}

// unsync takes a disk's content for incomplete from here on.
func (c *Core) unsync(d *disk) {
	c.own(record.Record{Kind: record.TrackBegin, Disk: d.index})
	c.event(Event{Kind: DiskUnsynced, Disk: d.ID})
}

func (c *Core) bindSession(s *stream, h *wire.Hello, binds map[uint16]uint16) {
	se := c.state.sessions[s.session]
	same := se != nil && se.ack == s.ack && len(se.binds) == len(binds)
	for w, i := range binds {
		d := c.state.disks[i]
		same = same && se.binds[w] == i && d.owner == s.session
	}
	if same {
		s.binds = se.binds
		return
	}
	b := SessionBody{Session: s.session, Host: s.host, Name: s.name, Nonce: s.nonce, Ack: s.ack.String(), Binds: []Bind{}}
	if se == nil {
		b.Last = h.First - 1
	}
	for w, i := range binds {
		b.Binds = append(b.Binds, Bind{w, i})
	}
	slices.SortFunc(b.Binds, func(x, y Bind) int { return cmp.Compare(x.Wire, y.Wire) })
	r := mustEncode(record.Session, &b)
	r.Session = s.session
	c.own(r)
	s.binds = c.state.sessions[s.session].binds
	for _, n := range c.state.endable(s.session) {
		c.own(record.Record{Kind: record.Session, Session: n})
	}
}

// bindVM logs a VM's configuration when it is new or has changed.
func (c *Core) bindVM(cfg *dr.VMConfig) {
	r, err := encode(record.Meta, cfg)
	if err != nil || c.metas[cfg.ID] == r.CRC && c.metas[cfg.ID] != 0 {
		return // over 1 MiB cannot be: the Hello that brought it is smaller
	}
	if len(c.metas) >= 2*MaxDisks {
		clear(c.metas)
	}
	c.metas[cfg.ID] = r.CRC
	c.own(r)
}

// reconnect makes a host say Hello again.
func (c *Core) reconnect(s *stream, words string) {
	if s.conn == 0 {
		return
	}
	c.refuse(s.conn, errs.New("order.Attach", errs.Transient, "host "+s.name, words).
		WithRemedy("nothing to do: the host component connects again"))
	c.drop(s)
}

// forgetStreams drops streams of sessions the log has forgotten.
func (c *Core) forgetStreams() {
	c.order = slices.DeleteFunc(c.order, func(s *stream) bool {
		gone := s.conn == 0 && len(s.queue) == 0 && c.state.sessions[s.session] == nil
		if gone {
			delete(c.streams, s.session)
		}
		return gone
	})
}

// ReplayEnd tells that a host has replayed all it announced; live records
// follow.
func (c *Core) ReplayEnd(conn ConnID, now time.Time) {
	c.now = now
	s := c.conns[conn]
	if s == nil || s.replayed {
		return
	}
	s.replayed = true
	s.received = max(s.received, s.next-1)
	if c.merge != nil {
		c.merge.ended[s.session] = true
	}
	c.pump()
}

// Forget drops a VM from the domain: checkpoints do not wait for it any more.
// Kind Conflict while a live host serves it, NotFound when it has no disk,
// Unavailable while a restart is merged.
func (c *Core) Forget(vm dr.VMID, now time.Time) error {
	c.now = now
	if c.merge != nil {
		return errs.New("order.Forget", errs.Unavailable, "vm "+vm.String(), "hosts are still replaying after a restart").
			WithRemedy("repeat when the replay is over")
	}
	var gone []*disk
	for _, d := range c.state.disks {
		if d.VM != vm {
			continue
		}
		if s := c.streams[d.owner]; s != nil && s.conn != 0 {
			return errs.New("order.Forget", errs.Conflict, "vm "+vm.String(), "host "+s.name+" still protects it").
				WithRemedy("unprotect the VM on its host first")
		}
		gone = append(gone, d)
	}
	if len(gone) == 0 {
		return errs.New("order.Forget", errs.NotFound, "vm "+vm.String(), "no such VM in the domain")
	}
	slices.SortFunc(gone, func(a, b *disk) int { return cmp.Compare(a.index, b.index) })
	for _, d := range gone {
		c.own(record.Record{Kind: record.Disk, Disk: d.index})
	}
	return nil
}
