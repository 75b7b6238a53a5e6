package api

import (
	"context"
	"net/http"

	v1 "holdfast/api"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/site"
)

func (s *server) registerFleet() {
	add(s, operation{ID: "get-site-key", Method: http.MethodGet, Path: "/site-key", Tag: "pairing", May: auth.SiteRead, Scoped: true,
		Summary: "The public half of the key that opens this site's containers", Detail: "Paired managers ask for it; who makes a container by hand adds it to those who can open it."}, s.siteKey)
	add(s, operation{ID: "list-domain-statuses", Method: http.MethodGet, Path: "/domain-statuses", Tag: "domains", May: auth.DomainRead, Scoped: true,
		Summary: "How the protection of each domain stands"}, s.listDomainStatuses)
	add(s, operation{ID: "get-domain-status", Method: http.MethodGet, Path: "/domains/{name}/status", Tag: "domains", May: auth.DomainRead, Scoped: true,
		Summary: "How the protection of a domain stands", Detail: "By what its appliances told last."}, s.domainStatus)
	add(s, operation{ID: "get-appliance-status", Method: http.MethodGet, Path: "/appliances/{name}/status", Tag: "appliances", May: auth.BoxRead, Scoped: true,
		Summary: "How an appliance stands to what it is to be"}, s.boxStatus)
}

func (s *server) boxStatus(ctx context.Context, in *NameIn) (*item[v1.BoxStatus], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	return read(ctx, s, func(tx *db.Tx) (v1.BoxStatus, error) {
		a, err := catalog.Find[*site.Appliance](ctx, tx, site.Name(in.Name))
		if err != nil {
			return v1.BoxStatus{}, err
		}
		if !seen(ctx, auth.BoxRead, a.Folder) {
			return v1.BoxStatus{}, unseen(site.KindBox, in.Name)
		}
		return f.BoxStatus(ctx, tx, a.Name)
	})
}

func (s *server) fleet() (*fleet.Fleet, error) {
	if s.Fleet == nil {
		return nil, missing("a fleet of appliances")
	}
	return s.Fleet, nil
}

func (s *server) siteKey(ctx context.Context, _ *none) (*item[v1.SiteKey], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	return read(ctx, s, func(tx *db.Tx) (v1.SiteKey, error) {
		k, err := f.Recipient(ctx, tx)
		return v1.SiteKey{Site: f.Site, Recipient: k}, err
	})
}

func (s *server) listDomainStatuses(ctx context.Context, _ *none) (*every[v1.DomainStatus], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	var list []v1.DomainStatus
	err = s.view(ctx, func(tx *db.Tx) error {
		all, err := f.Statuses(ctx, tx)
		list = nil
		for _, d := range all {
			if seen(ctx, auth.DomainRead, d.Folder) {
				list = append(list, d)
			}
		}
		return err
	})
	return everyOf(list), err
}

func (s *server) domainStatus(ctx context.Context, in *NameIn) (*item[v1.DomainStatus], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	return read(ctx, s, func(tx *db.Tx) (v1.DomainStatus, error) {
		d, err := catalog.Find[*site.ProtectedDomain](ctx, tx, site.Name(in.Name))
		if err != nil {
			return v1.DomainStatus{}, err
		}
		if !seen(ctx, auth.DomainRead, d.Folder) {
			return v1.DomainStatus{}, unseen(site.KindDomain, in.Name)
		}
		return f.Status(ctx, tx, d.Name)
	})
}
