package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Host is the appliance of a hypervisor host: a process of the host component for each
// domain that has VMs on it. Make it with NewHost. Safe for concurrent use.
type Host struct {
	box
	platforms platforms

	members map[string]*member // guarded by box.mu; by directory
}

// member is a domain on this host.
type member struct {
	h    *Host
	unit *unit
	dir  string

	turn sync.Mutex // one change or look at a time; guards the next two
	want setup.HostDomain
	wait map[dr.VMID]patience // of VMs that could not be protected

	mu   sync.Mutex                // guards the rest
	seen *iofilter.Status          // nil: it does not answer
	err  error                     // why
	bare map[dr.VMID]live.Report   // what the last protect said
	vms  map[dr.VMID]setup.Problem // why a VM is not protected
}

// patience is when something is tried again.
type patience struct {
	pause time.Duration
	next  time.Time
}

func (p patience) after() patience {
	p.pause = min(max(2*p.pause, 5*time.Second), 5*time.Minute)
	p.next = time.Now().Add(p.pause)
	return p
}

// memberFile says in a domain's directory which domain it is.
const memberFile = "domain.json"

// NewHost returns the appliance of a directory; it does nothing before Run or Setup.
func NewHost(o Options) *Host {
	h := &Host{box: newBox(o), members: map[string]*member{}}
	h.platforms.open = o.Platform
	return h
}

func (h *Host) hostDir() string { return filepath.Join(h.Dir, "host") }

// member returns the domain of a directory, as it is known by now.
func (h *Host) member(name string, want setup.HostDomain) *member {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.members[name]
	if m == nil {
		dir := filepath.Join(h.hostDir(), name)
		m = &member{h: h, dir: dir, unit: newUnit(&h.Boxes, h.log.With("domain", want.Name), "host", dir, "iofilter"), want: want,
			wait: map[dr.VMID]patience{}, bare: map[dr.VMID]live.Report{}, vms: map[dr.VMID]setup.Problem{}}
		h.members[name] = m
	}
	return m
}

// all are the members, in order.
func (h *Host) all() (out []*member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.members)) {
		out = append(out, h.members[name])
	}
	return out
}

// Setup makes the host what it is to be: VMs and domains that are not its any more are
// unprotected on return, and their guests go on.
func (h *Host) Setup(ctx context.Context, s *setup.Setup) error {
	h.applying.Lock()
	defer h.applying.Unlock()
	if err := h.take(s); err != nil {
		return err
	}
	if err := h.apply(ctx, s); err != nil {
		return err
	}
	h.is(s)
	return nil
}

// Run keeps the processes.
func (h *Host) Run(ctx context.Context) error {
	defer h.platforms.close()
	h.applying.Lock()
	if s := h.load(); s != nil && h.current() == nil {
		h.mu.Lock()
		h.now = s
		h.mu.Unlock()
		if err := h.apply(ctx, s); err != nil {
			h.tell("appliance", err)
		} else {
			h.is(s)
		}
	}
	h.applying.Unlock()
	var looking sync.WaitGroup
	defer looking.Wait()
	every(ctx, func(ctx context.Context) {
		for _, m := range h.all() {
			if m.turn.TryLock() { // else it is at work still
				looking.Go(func() {
					defer m.turn.Unlock()
					m.look(ctx)
				})
			}
		}
	})
	return nil
}

// apply brings members to what they are to be, those that are left from an earlier life
// as well.
func (h *Host) apply(ctx context.Context, s *setup.Setup) error {
	wanted := map[string]setup.HostDomain{}
	if s.Host != nil {
		for _, d := range s.Host.Domains {
			wanted[d.ID.String()[:8]] = d
		}
	}
	left, err := durable.OS{}.ReadDir(h.hostDir())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	var failed []error
	for _, e := range left {
		if _, ok := wanted[e.Name]; ok || !e.Dir {
			continue
		}
		failed = append(failed, h.leave(ctx, e.Name))
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		d := wanted[name]
		failed = append(failed, h.member(name, d).become(ctx, s, d))
	}
	return errors.Join(failed...)
}

// leave lets go of a domain.
func (h *Host) leave(ctx context.Context, name string) error {
	var was setup.HostDomain
	if text, err := durable.ReadFile(durable.OS{}, filepath.Join(h.hostDir(), name, memberFile), maxConfig); err == nil {
		_ = json.Unmarshal(text, &was) // its name is for people alone
	}
	m := h.member(name, was)
	m.turn.Lock()
	defer m.turn.Unlock()
	if err := m.letGo(ctx, nil); err != nil {
		return err
	}
	if err := m.unit.end(ctx); err != nil {
		return err
	}
	if err := durable.RemoveTree(durable.OS{}, m.dir); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.members, name)
	h.mu.Unlock()
	h.log.Info("the domain has nothing on this host any more", "domain", was.Name)
	return nil
}

func (m *member) socket() string { return filepath.Join(m.dir, "status.sock") }
func (m *member) record() string { return filepath.Join(m.dir, "live.json") }
func (m *member) object() string { return "domain " + string(m.want.Name) }

// hostFile is the configuration of "holdfast iofilter", as it reads it.
type hostFile struct {
	Domain   dr.DomainID `json:"domain"`
	Host     dr.HostID   `json:"host"`
	Name     string      `json:"name"`
	Ack      string      `json:"ack,omitempty"`
	DRVA     string      `json:"drva"`
	TLS      string      `json:"tls"`
	Status   string      `json:"status"`
	Platform any         `json:"platform"`
	Live     struct {
		Sockets string `json:"sockets"`
		Record  string `json:"record"`
	} `json:"live"`
}

// become lets go of VMs that are not the domain's any more, and configures its process.
// A domain without a DRVA is not begun to be protected; what is protected already goes
// on, its guests' changes being remembered.
func (m *member) become(ctx context.Context, s *setup.Setup, d setup.HostDomain) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	if err := durable.MkdirAll(durable.OS{}, filepath.Join(m.dir, "s")); err != nil {
		return err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return errs.E("appliance.become", errs.Internal, m.object(), err)
	}
	if err := writeIfOther(filepath.Join(m.dir, memberFile), string(text)); err != nil {
		return err
	}
	m.want = d
	clear(m.wait)
	if err := m.letGo(ctx, d.VMs); err != nil {
		return err
	}
	if d.DRVA == "" {
		m.h.tell(m.object(), errs.New("appliance.Setup", errs.Unavailable, m.object(), "it is placed on no DRVA").WithRemedy("see at the manager why: a DRVA may be missing, silent or full"))
		return nil
	}
	content, err := m.config(s)
	if err != nil {
		return err
	}
	return m.unit.configured(ctx, content)
}

func (m *member) config(s *setup.Setup) ([]byte, error) {
	f := hostFile{Domain: m.want.ID, Host: s.Host.ID, Name: string(s.Host.Ref), Ack: m.want.Ack, DRVA: m.want.DRVA, TLS: m.h.Dir, Status: m.socket()}
	if f.Name == "" {
		f.Name = m.h.Name
	}
	var err error
	if f.Platform, err = m.h.Config(s.Platform, s.Endpoints); err != nil {
		return nil, err
	}
	f.Live.Sockets, f.Live.Record = filepath.Join(m.dir, "s"), m.record()
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, errs.E("appliance.config", errs.Internal, m.object(), err)
	}
	return append(b, '\n'), nil
}

// recorded are the VMs that the process protects, or would if it ran.
func (m *member) recorded() ([]dr.VMID, error) {
	r, err := live.OpenRecord(durable.OS{}, m.record())
	if err != nil {
		return nil, err
	}
	var out []dr.VMID
	for _, e := range r.Entries() {
		out = append(out, e.Config.ID)
	}
	return out, nil
}

// letGo unprotects the VMs that are protected and not among keep. One that is not on this
// host any more is handed over: the domain has it elsewhere.
func (m *member) letGo(ctx context.Context, keep []setup.HostVM) error {
	protected, err := m.recorded()
	if err != nil {
		return err
	}
	protected = slices.DeleteFunc(protected, func(id dr.VMID) bool {
		return slices.ContainsFunc(keep, func(v setup.HostVM) bool { return v.ID == id })
	})
	if len(protected) == 0 || !m.unit.isConfigured() {
		return nil
	}
	m.unit.soon()
	if err := m.unit.up(ctx, m.socket()); err != nil { // it alone can take its guests off
		return err
	}
	var failed []error
	for _, id := range protected {
		release := len(keep) == 0 || !m.here(ctx, id)
		limited, cancel := context.WithTimeout(ctx, actLimit)
		var rep live.Report
		err := control.CallLocal(limited, m.socket(), "/unprotect", map[string]any{"vm": id.String(), "release": release}, &rep)
		cancel()
		if err != nil && !errs.Is(err, errs.NotFound) {
			failed = append(failed, err)
			continue
		}
		m.unit.log.Info("the VM is not protected any more", "vm", id, "released", release)
		m.mu.Lock()
		delete(m.bare, id)
		delete(m.vms, id)
		m.mu.Unlock()
	}
	return errors.Join(failed...)
}

// here reports whether a VM is on this host. What does not answer is taken for yes.
func (m *member) here(ctx context.Context, id dr.VMID) bool {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_, err := m.h.vm(ctx, id)
	return !errs.Is(err, errs.NotFound)
}

// look sees that the process runs, and that it protects what it is to. The caller has
// the turn.
func (m *member) look(ctx context.Context) {
	if !m.unit.isConfigured() {
		return
	}
	err := m.unit.up(ctx, m.socket())
	var st iofilter.Status
	if err == nil {
		err = ask(ctx, m.socket(), "/status", nil, &st)
	}
	m.mu.Lock()
	m.seen, m.err = nil, err
	if err == nil {
		m.seen = &st
	}
	m.mu.Unlock()
	if m.want.DRVA != "" {
		m.h.tell(m.object(), err)
	}
	if err != nil || m.want.DRVA == "" {
		return
	}
	for _, vm := range m.want.VMs {
		if slices.ContainsFunc(st.Disks, func(d iofilter.DiskStatus) bool { return d.VM == vm.ID }) {
			m.protected(vm.ID)
			continue
		}
		m.protect(ctx, vm)
	}
}

func (m *member) protected(id dr.VMID) {
	delete(m.wait, id)
	m.mu.Lock()
	delete(m.vms, id)
	m.mu.Unlock()
}

// protect protects a VM, unless that failed a moment ago.
func (m *member) protect(ctx context.Context, vm setup.HostVM) {
	if ctx.Err() != nil || time.Now().Before(m.wait[vm.ID].next) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	var rep live.Report
	err := control.CallLocal(limited, m.socket(), "/protect", map[string]any{"vm": vm.ID.String()}, &rep)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		m.unit.log.Info("the VM is protected", "vm", vm.Ref)
		m.protected(vm.ID)
		m.mu.Lock()
		m.bare[vm.ID] = rep
		m.mu.Unlock()
		return
	}
	m.wait[vm.ID] = m.wait[vm.ID].after()
	m.unit.log.Warn("the VM is not protected", "vm", vm.Ref, "err", err, "again in", m.wait[vm.ID].pause)
	m.mu.Lock()
	m.vms[vm.ID] = setup.ProblemOf(m.object()+"/"+string(vm.Ref), err)
	m.mu.Unlock()
}

// domain finds a member by name. Kind NotFound.
func (h *Host) domain(name site.Name) (*member, error) {
	if s := h.current(); s != nil && s.Host != nil {
		for _, d := range s.Host.Domains {
			if d.Name == name {
				return h.member(d.ID.String()[:8], d), nil
			}
		}
	}
	return nil, errs.New("appliance", errs.NotFound, "domain "+string(name), "it has nothing on this host")
}

// platforms keeps the connection to the hypervisor, for what is not a process's: power,
// placeholders, old VMs.
type platforms struct {
	open func(ctx context.Context, p site.Platform, endpoints []string) (hypervisor.Platform, error)

	mu   sync.Mutex
	p    hypervisor.Platform // nil: not connected
	what string              // what p was opened for
}

// get returns the hypervisor that a Setup names.
func (c *platforms) get(ctx context.Context, s *setup.Setup) (hypervisor.Platform, error) {
	const op = "appliance.platform"
	if s == nil || c.open == nil {
		return nil, errs.New(op, errs.Unavailable, "platform", "the manager has not said yet what this host is").WithRemedy("repeat in a moment")
	}
	what := string(s.Platform)
	for _, e := range s.Endpoints {
		what += " " + e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p != nil && c.what == what {
		return c.p, nil
	}
	if c.p != nil {
		_ = c.p.Close() // of a platform that is not this host's any more
		c.p = nil
	}
	p, err := c.open(ctx, s.Platform, s.Endpoints)
	if err != nil {
		return nil, err
	}
	c.p, c.what = p, what
	go func() { // nobody else reads what happens
		for range p.Changes() {
		}
	}()
	return p, nil
}

func (c *platforms) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p != nil {
		_ = c.p.Close() // VMs run on
		c.p = nil
	}
}

// byName orders domains for reports.
func byName(a, b setup.DomainReport) int { return cmp.Compare(a.Name, b.Name) }
