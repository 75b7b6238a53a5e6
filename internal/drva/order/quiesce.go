package order

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/wire"
)

// quiet is the freezing of guests around the cut of a round.
//
//	freeze ──► all hosts have said Frozen, or FreezeWait is over ──► cut ──► thaw
//	                                                                          │
//	AppConsistent iff every VM was frozen before the cut and     ◄── Thawed ──┘
//	thawed after it by our word, and the checkpoint is a group's
//
// Why the cut has what the guests flushed: the freeze of a VM was over before
// its host said Frozen, so what the guest flushed was acknowledged before that,
// so it is in the host's stream, before the marker which the host places when
// it hears Hold, which is sent after Frozen came. Why the guests were frozen at
// the cut: a host that thaws by itself, earlier than Thaw reaches it, says so.
type quiet struct {
	waiting bool // for Frozen
	hosts   []quietHost
}

// quietHost is one host's share.
type quietHost struct {
	stream *stream
	asked  bool   // Freeze was sent
	why    string // nothing it says counts any more, because of this; else ""
	before map[dr.VMID]wire.FreezeVM
	after  map[dr.VMID]wire.FreezeVM
}

// FreezeFault is a VM that kept a checkpoint from being application-consistent.
type FreezeFault struct {
	VM     dr.VMID `json:"vm"`
	Host   string  `json:"host,omitempty"` // its host's name; empty: it has none now
	Reason string  `json:"reason"`
}

// freeze asks the hosts of the round to freeze their guests.
func (c *Core) freeze() {
	r := c.round
	r.quiet = &quiet{waiting: true}
	r.deadline = c.now.Add(c.cfg.FreezeWait)
	for i := range r.parts {
		s := r.parts[i].stream
		h := quietHost{stream: s, asked: s.freezes}
		if h.asked {
			c.send(Send{Conn: s.conn, Type: wire.TypeFreeze, Round: r.number, Limit: c.cfg.FreezeLimit})
		} else {
			h.why = "its host component is of a version that does not freeze guests"
		}
		r.quiet.hosts = append(r.quiet.hosts, h)
	}
	c.frozenSettle()
}

// freezing reports whether the round still waits for guests to freeze.
func (r *round) freezing() bool { return r.quiet != nil && r.quiet.waiting }

// cutKind is what the Checkpoint record says: what is true whatever becomes of
// the freeze, also for a restart that never hears of it.
func (r *round) cutKind() dr.CheckpointKind {
	switch {
	case r.kind != dr.AppConsistent:
		return r.kind
	case r.tag != "":
		return dr.UserTagged
	}
	return dr.CrashConsistent
}

func (q *quiet) host(s *stream) *quietHost {
	if q == nil {
		return nil
	}
	for i := range q.hosts {
		if q.hosts[i].stream == s {
			return &q.hosts[i]
		}
	}
	return nil
}

// Frozen takes a host's report that its guests are frozen, or not. One that
// comes after the cut does not count: those guests froze too late.
func (c *Core) Frozen(conn ConnID, m wire.FreezeReport, now time.Time) {
	c.now = now
	r, s := c.round, c.conns[conn]
	if s == nil || r == nil || r.quiet == nil || r.number != m.Round || !r.freezing() && !c.flaws.countLate {
		return
	}
	if h := r.quiet.host(s); h != nil && h.asked && h.before == nil {
		h.before = byVM(m.VMs)
		if r.freezing() {
			c.frozenSettle()
			c.pump()
		}
	}
}

// Thawed takes a host's report on whether its guests were frozen until now.
func (c *Core) Thawed(conn ConnID, m wire.FreezeReport, now time.Time) {
	c.now = now
	r, s := c.round, c.conns[conn]
	if s == nil || r == nil || r.quiet == nil || r.number != m.Round {
		return
	}
	h := r.quiet.host(s)
	if h == nil || !h.asked || h.after != nil {
		return
	}
	h.after = byVM(m.VMs)
	if r.freezing() && h.why == "" {
		h.why = "it thawed before the checkpoint was cut"
		c.frozenSettle()
	}
	c.roundSettle()
	c.pump()
}

func byVM(vms []wire.FreezeVM) map[dr.VMID]wire.FreezeVM {
	m := make(map[dr.VMID]wire.FreezeVM, len(vms))
	for _, v := range vms {
		m[v.VM] = v
	}
	return m
}

// frozenSettle goes on to the cut once nobody is waited for.
func (c *Core) frozenSettle() {
	for i := range c.round.quiet.hosts {
		if h := &c.round.quiet.hosts[i]; h.why == "" && h.before == nil {
			return
		}
	}
	c.frozen()
}

// frozen cuts, whoever is frozen by now.
func (c *Core) frozen() {
	c.round.quiet.waiting = false
	c.beginCut()
}

// thaw lets the guests go on, now that the cut has its place, and waits for the
// word that they stood still until then.
func (c *Core) thaw() {
	r := c.round
	if r.quiet == nil {
		return
	}
	r.deadline = c.now.Add(max(c.cfg.ConfirmLimit, c.cfg.ThawWait))
	for i := range r.quiet.hosts {
		if h := &r.quiet.hosts[i]; h.asked && h.stream.conn != 0 {
			c.send(Send{Conn: h.stream.conn, Type: wire.TypeThaw, Round: r.number})
		}
	}
}

// thawed reports whether every host has said what it will.
func (q *quiet) thawed() bool {
	if q == nil {
		return true
	}
	for i := range q.hosts {
		if h := &q.hosts[i]; h.why == "" && h.after == nil {
			return false
		}
	}
	return true
}

// quietLost takes a disconnected host out: it thaws its guests by itself.
func (c *Core) quietLost(s *stream) {
	h := c.round.quiet.host(s)
	if h == nil || h.why != "" || h.after != nil {
		return
	}
	h.why = "the link to its host was lost"
	if c.round.freezing() {
		c.frozenSettle()
	}
}

// kindNow decides whether the checkpoint is application-consistent, and says
// what kept it from being so.
func (c *Core) kindNow(r *round, scope dr.Scope) (dr.CheckpointKind, []FreezeFault) {
	if r.quiet == nil {
		return 0, nil
	}
	var faults []FreezeFault
	held, seen := 0, map[dr.VMID]bool{}
	for _, d := range r.cp.Disks {
		if seen[d.VM] {
			continue
		}
		seen[d.VM] = true
		host, state, why := r.quiet.judge(d.VM, r.owner[d.ID], c.flaws.trustFrozen)
		if state == wire.FreezeHeld {
			held++
		}
		if state == wire.FreezeFailed {
			faults = append(faults, FreezeFault{VM: d.VM, Host: host, Reason: why})
		}
	}
	slices.SortFunc(faults, func(a, b FreezeFault) int { return cmp.Compare(a.VM.String(), b.VM.String()) })
	if len(faults) > 0 || held == 0 || scope != dr.Group {
		return 0, faults
	}
	return dr.AppConsistent, nil
}

// judge says how a VM, whose disk a session owned at the cut, took part.
func (q *quiet) judge(vm dr.VMID, owner dr.Session, trust bool) (host string, _ wire.FreezeState, why string) {
	for i := range q.hosts {
		h := &q.hosts[i]
		if h.stream.session != owner {
			continue
		}
		host = h.stream.name
		before, froze := h.before[vm]
		after, thawed := h.after[vm]
		switch {
		case froze && before.State == wire.FreezeFailed:
			return host, wire.FreezeFailed, cmp.Or(before.Reason, "it could not be frozen")
		case froze && (before.State == wire.FreezeExempt || trust):
			return host, before.State, before.Reason
		case h.why != "":
			return host, wire.FreezeFailed, h.why
		case h.before == nil:
			return host, wire.FreezeFailed, "its host did not say in time that it is frozen"
		case !froze:
			return host, wire.FreezeFailed, "its host does not tell of it"
		case !thawed:
			return host, wire.FreezeFailed, "its host did not say whether it stayed frozen"
		case after.State != wire.FreezeHeld:
			return host, wire.FreezeFailed, fmt.Sprintf("it did not stay frozen: %s", cmp.Or(after.Reason, "no reason given"))
		}
		return host, wire.FreezeHeld, ""
	}
	return "", wire.FreezeFailed, "its host was not attached when the checkpoint was cut"
}
