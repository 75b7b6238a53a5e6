package rocva

import (
	"strings"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// The files of a domain's access; their names are the words of recovery.Request.Access.
const (
	keyFile         = "key"         // the age secret key
	credentialsFile = "credentials" // KEY=VALUE lines
)

// writeAccess leaves what opens a domain's container where runs find it, also those of a
// later process that the manager does not reach.
func (s *Appliance) writeAccess(d *setup.Domain) error {
	dir := s.path("access", string(d.Name))
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return err
	}
	files := map[string]string{keyFile: d.Identity, credentialsFile: d.Credentials}
	for i := range d.Copies {
		files[copyCredentials(i)] = d.Copies[i].Credentials
	}
	for name, text := range files {
		path := dir + "/" + name
		if have, err := durable.ReadFile(durable.OS{}, path, maxSeeds); err == nil && string(have) == text {
			continue
		}
		if err := durable.WriteFile(durable.OS{}, path, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// access is how a domain's container is opened.
func (s *Appliance) access(d *setup.Domain) map[string]string {
	out := map[string]string{keyFile: s.path("access", string(d.Name), keyFile)}
	if strings.TrimSpace(d.Credentials) != "" {
		out[credentialsFile] = s.path("access", string(d.Name), credentialsFile)
	}
	return out
}

// domain returns a domain as the newest setup has it. Kind Unavailable.
func (s *Appliance) domain(name site.Name) (*setup.Domain, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told.RocVA != nil {
		for _, d := range s.told.RocVA.Domains {
			if d.Name == name {
				return &d, nil
			}
		}
	}
	return nil, errs.New("rocva", errs.Unavailable, "domain "+string(name), "the manager has not told this appliance how to open its container").
		WithRemedy("wait until the appliance has its newest setup, and see that the domain's stores are registered")
}

// request is a recovery of a domain here, without its point.
func (s *Appliance) request(name site.Name) (recovery.Request, error) {
	p, err := s.ready()
	if err != nil {
		return recovery.Request{}, err
	}
	d, err := s.domain(name)
	if err != nil {
		return recovery.Request{}, err
	}
	q := recovery.Request{
		URL: d.Container, Access: s.access(d), Mode: recovery.Instant, Networks: map[string]hypervisor.Network{},
		Platform: p.Platform, Accelerator: p.Accelerator, Label: string(name),
		Protect: recovery.ProtectRequest{Quota: d.Settings.LogSize},
	}
	if d.Settings.Interval != 0 {
		q.Protect.Interval = d.Settings.Interval.D().String()
	}
	return q, nil
}

// network says what stands behind a network of this site. Kind NotFound.
func (s *Appliance) network(ref site.Ref) (hypervisor.Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told.RocVA != nil {
		for _, n := range s.told.RocVA.Networks {
			switch {
			case n.Ref != ref:
			case s.told.Platform == site.QEMU:
				return hypervisor.Network{Kind: hypervisor.User}, nil // QEMU by itself has no networks to name
			default:
				return hypervisor.Network{Kind: hypervisor.Named, Name: string(ref)}, nil
			}
		}
	}
	return hypervisor.Network{}, errs.New("rocva", errs.NotFound, "network "+string(ref), "the site has no such network").
		WithRemedy("see the site's inventory, and correct the mappings")
}
