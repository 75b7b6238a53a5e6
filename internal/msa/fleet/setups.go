package fleet

import (
	"cmp"
	"context"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Setup returns what a box is to be. Kind NotFound: it is no appliance of this site.
func (f *Fleet) Setup(ctx context.Context, tx *db.Tx, name site.Name) (*setup.Setup, error) {
	s, err := f.stand(ctx, tx)
	if err != nil {
		return nil, err
	}
	return f.setup(ctx, tx, s, name)
}

func (f *Fleet) setup(ctx context.Context, tx *db.Tx, s *standing, name site.Name) (*setup.Setup, error) {
	a := s.boxes[name]
	if a == nil {
		return nil, errs.New("fleet.Setup", errs.NotFound, "appliance "+string(name), "no appliance of this site is configured under this name").
			WithRemedy("configure it: holdfast apply -f, kind appliance")
	}
	out := &setup.Setup{Role: a.Role, Site: f.Site}
	if s.own != nil {
		out.Platform = s.own.Platform
		var err error
		if out.Endpoints, err = f.endpoints(ctx, tx, s.own, a); err != nil {
			return nil, err
		}
	}
	if t := s.told[name]; t != nil {
		out.Serial = t.serial
	}
	m := &maker{Fleet: f, s: s, ctx: ctx, tx: tx}
	var err error
	switch a.Role {
	case site.DRVA:
		out.DRVA, err = m.drva(a)
	case site.IOFilter:
		out.Host, err = m.host(a)
	case site.RocVA:
		out.RocVA, err = m.rocva()
	}
	if err != nil {
		return nil, err
	}
	return out, out.Seal()
}

// endpoints are those of the site that a box uses. Of libvirt each is a host of its own:
// a box has the one that reaches its host, as the inventory has found out. While that is
// not known it has none, which means the host's own daemon: another host's would do harm.
// A recovery appliance that is said to be on no host has the first. Of other platforms
// all are of every box.
func (f *Fleet) endpoints(ctx context.Context, tx *db.Tx, own *site.Site, a *site.Appliance) ([]string, error) {
	if own.Platform != site.Libvirt || len(own.Endpoints) < 2 {
		return own.Endpoints, nil
	}
	if a.Role == site.DRVA {
		return nil, nil
	}
	if a.Role == site.RocVA && a.Host == "" {
		return own.Endpoints[:1], nil
	}
	inv, err := inventory.Places(ctx, tx, f.Site)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range inv.Hosts {
		if h := &inv.Hosts[i]; h.Ref == a.Host && slices.Contains(own.Endpoints, h.Endpoint) {
			return []string{h.Endpoint}, nil
		}
	}
	return nil, nil
}

// maker makes one setup.
type maker struct {
	*Fleet
	s   *standing
	ctx context.Context
	tx  *db.Tx
	k   *siteKey // nil: not opened yet
}

// drva is what a DRVA is to be: it has the domains that were given to it.
func (m *maker) drva(a *site.Appliance) (*setup.DRVA, error) {
	out := &setup.DRVA{Listen: a.Address, LogPool: a.LogPool, Bandwidth: a.Bandwidth}
	for _, d := range m.s.domains {
		p := m.s.places[d.Name]
		if p == nil || p.drva != a.Name || p.leaving || p.id == "" {
			continue
		}
		x, err := m.domain(d, p)
		if err != nil {
			return nil, err
		}
		out.Domains = append(out.Domains, *x)
	}
	return out, nil
}

// rocva is what a recovery appliance is to be able to do: recover every domain of this
// site and of those that are recovered here.
func (m *maker) rocva() (*setup.RocVA, error) {
	out := &setup.RocVA{MaxBoots: site.DefaultBoots}
	if m.s.own != nil {
		out.MaxBoots = m.s.own.Boots()
	}
	for _, d := range m.s.domains {
		if p := m.s.places[d.Name]; p != nil && p.id != "" {
			x, err := m.domain(d, p)
			if err != nil {
				return nil, err
			}
			if d.To != m.Site {
				x.Mode = site.Failover // nothing stands by at the site that the domain is at
			}
			x.Preseed = d.Preseed
			out.Domains = append(out.Domains, *x)
		}
	}
	inv, err := inventory.Places(m.ctx, m.tx, m.Site)
	if errs.Is(err, errs.NotFound) {
		return out, nil
	}
	if err == nil {
		out.Networks = inv.Networks
	}
	return out, err
}

// domain is a domain as a box needs it. What its store's credentials do not let be is
// told by the containers' look; the box then does without.
func (m *maker) domain(d *site.ProtectedDomain, p *place) (*setup.Domain, error) {
	id, err := p.domainID()
	if err != nil {
		return nil, err
	}
	if m.k == nil {
		k, err := m.key(m.ctx, m.tx)
		if err != nil {
			return nil, err
		}
		m.k = &k
	}
	identity := m.k.text
	if p.opens == openGiven {
		identity = m.Given
	}
	out := &setup.Domain{Name: d.Name, ID: id, Container: p.url, Identity: identity, Suspended: d.Suspended, Mode: d.Mode, Settings: settingsOf(d)}
	if _, st, err := m.s.container(d); err == nil {
		out.Settings.Lock = st.Lock
		if out.Credentials, err = m.opens(st); err != nil {
			return nil, err
		}
	}
	for _, c := range m.s.copies(d) {
		x := setup.Copy{Store: c.store.Name, Container: c.url}
		if x.Credentials, err = m.opens(c.store); err != nil {
			return nil, err
		}
		out.Copies = append(out.Copies, x)
	}
	return out, nil
}

// opens is what opens a store, "" where it is not known.
func (m *maker) opens(st *site.Store) (string, error) {
	a, err := m.credentials(m.ctx, m.tx, string(st.Credential))
	if err == nil || errs.Is(err, errs.NotFound) || errs.Is(err, errs.Invalid) {
		return a.Text(), nil
	}
	return "", err
}

func settingsOf(d *site.ProtectedDomain) setup.Settings {
	return setup.Settings{
		Ack: d.Ack, Interval: d.Interval, AppInterval: d.AppInterval, RPOTarget: d.RPOTarget, Retention: d.Retention, Priority: d.Priority,
		Compression: d.Compression, Bandwidth: d.Bandwidth, LogSize: d.LogSize,
	}
}

// host is what a host component is to be: for each domain that this site protects, the
// VMs of it that are on the host.
func (m *maker) host(a *site.Appliance) (*setup.Host, error) {
	out := &setup.Host{Ref: a.Host}
	if id, err := dr.ParseUUID(m.s.enrols[a.Name].BoxID); err == nil {
		out.ID = dr.HostID{UUID: id}
	}
	view, err := m.Inventory.View(m.ctx, m.tx, m.Site)
	if err != nil || view == nil {
		return out, err
	}
	for _, d := range m.s.domains {
		p := m.s.places[d.Name]
		if p == nil || p.id == "" || !m.s.ours(m.Site, d) {
			continue
		}
		x := setup.HostDomain{Name: d.Name, Ack: d.Ack, Suspended: d.Suspended}
		if x.ID, err = p.domainID(); err != nil {
			return nil, err
		}
		if box := m.s.boxes[p.drva]; box != nil && !p.leaving {
			x.DRVA = box.Address
		}
		x.VMs = vmsOn(view, d, a.Host)
		if len(x.VMs) > 0 {
			out.Domains = append(out.Domains, x)
		}
	}
	return out, nil
}

// vmsOn lists the VMs of a domain that are on a host.
func vmsOn(view *site.View, d *site.ProtectedDomain, host site.Ref) (list []setup.HostVM) {
	for _, ref := range d.VMs {
		vm, _, _ := view.VM(ref)
		if vm == nil || vm.Host != host || !vm.PlaceholderFor.IsZero() || slices.ContainsFunc(list, func(x setup.HostVM) bool { return x.ID == vm.ID }) {
			continue
		}
		list = append(list, setup.HostVM{ID: vm.ID, Ref: vm.Ref})
	}
	slices.SortFunc(list, func(a, b setup.HostVM) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return list
}
