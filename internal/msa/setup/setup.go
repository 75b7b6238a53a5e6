package setup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Setup is all that one appliance is to be. Of the three parts it has the one of its
// role. The zero value is a box that has nothing to do.
type Setup struct {
	// Generation is a digest of the rest, secrets included: what Seal makes. "": not
	// sealed.
	Generation string `json:"generation"`
	// Serial rises when something is taken away from the box, so that no later setup has
	// the generation of an earlier one that had it not yet.
	Serial   int64         `json:"serial,omitempty"`
	Role     site.Role     `json:"role"`
	Site     site.Name     `json:"site"`
	Platform site.Platform `json:"platform,omitempty"`
	// Endpoints are those of the site's platform that this box uses, as
	// unix:///run/libvirt/libvirt-sock; none: the system's own.
	Endpoints []string `json:"endpoints,omitempty"`

	DRVA  *DRVA  `json:"drva,omitempty"`
	Host  *Host  `json:"host,omitempty"`
	RocVA *RocVA `json:"rocva,omitempty"`
}

// DRVA is what a DRVA is to be: one process, which serves all of its domains.
type DRVA struct {
	Listen    string   `json:"listen"`              // host:port where hosts connect
	LogPool   int64    `json:"log_pool,omitempty"`  // bytes that logs without a size share; 0: it says itself
	Bandwidth string   `json:"bandwidth,omitempty"` // schedule of all domains together; "": no bound
	Domains   []Domain `json:"domains,omitempty"`   // by name
}

// Host is what a host component is to be: one process for each of its domains.
type Host struct {
	ID      dr.HostID    `json:"id"`             // its own, as DRVAs know it
	Ref     site.Ref     `json:"host,omitempty"` // the platform's name of the host
	Domains []HostDomain `json:"domains,omitempty"`
}

// HostDomain is a domain as far as one host has to do with it. A domain that no DRVA has
// been given yet has no DRVA: its VMs go on unprotected until it has.
type HostDomain struct {
	Name      site.Name   `json:"name"`
	ID        dr.DomainID `json:"id"`             // of the container: the DRVA's certificate names it
	DRVA      string      `json:"drva,omitempty"` // host:port
	Ack       string      `json:"ack,omitempty"`  // "async" (also empty), "ordered", "sync"
	Suspended bool        `json:"suspended,omitempty"`
	VMs       []HostVM    `json:"vms,omitempty"` // that are on this host now
}

// HostVM is a VM that is to be protected where it runs.
type HostVM struct {
	ID  dr.VMID  `json:"id"`
	Ref site.Ref `json:"ref"` // its name on the platform
}

// RocVA is what a recovery appliance is to be able to do.
type RocVA struct {
	Domains  []Domain       `json:"domains,omitempty"`  // that may be recovered here
	Networks []site.Network `json:"networks,omitempty"` // of this site
	MaxBoots int            `json:"max_boots"`          // VMs started at once
}

// Domain is a protected domain as a DRVA publishes it, or a recovery appliance reads it.
type Domain struct {
	Name      site.Name   `json:"name"`
	ID        dr.DomainID `json:"id"`
	Container string      `json:"container"` // URL
	// Credentials of its store: KEY=VALUE lines, as package access reads them; "":
	// none are needed.
	Credentials string `json:"credentials,omitempty"`
	// Identity is the text of an age secret key that opens the container.
	Identity string `json:"identity"`
	// Timeline is the one to publish, by id; "": the log's, or the current one.
	Timeline  string    `json:"timeline,omitempty"`
	Suspended bool      `json:"suspended,omitempty"`
	Mode      site.Mode `json:"mode,omitempty"`
	Settings  Settings  `json:"settings"`
	// Preseed are images at the recovery appliance, to whom alone they are told.
	Preseed []site.DiskSeed `json:"preseed,omitempty"`
	// Copies are the container's in the domain's further stores, in their order: a DRVA
	// keeps them, a recovery appliance reads them where the first store is away.
	Copies []Copy `json:"copies,omitempty"`
}

// Copy is a copy of a domain's container in another store.
type Copy struct {
	Store       site.Name `json:"store"`
	Container   string    `json:"container"`             // URL
	Credentials string    `json:"credentials,omitempty"` // as the domain's
}

// Settings are those of a domain's pipeline, as ProtectedDomain has them: zero values
// mean the same.
type Settings struct {
	Ack         string         `json:"ack,omitempty"`
	Interval    site.Span      `json:"interval,omitzero"`
	AppInterval site.Span      `json:"app_interval,omitzero"`
	RPOTarget   site.Span      `json:"rpo_target,omitzero"`
	Retention   site.Retention `json:"retention"`
	Priority    string         `json:"priority,omitempty"`
	Compression string         `json:"compression,omitempty"`
	Bandwidth   string         `json:"bandwidth,omitempty"`
	LogSize     int64          `json:"log_size,omitempty"`
	Lock        string         `json:"lock,omitempty"` // of the store: "", "governance" or "compliance"
}

// Seal sets the generation by what the setup says now. Kind Internal.
func (s *Setup) Seal() error {
	c := *s
	c.Generation = ""
	b, err := json.Marshal(&c)
	if err != nil {
		return errs.E("setup.Seal", errs.Internal, "setup", err)
	}
	sum := sha256.Sum256(b)
	s.Generation = hex.EncodeToString(sum[:16])
	return nil
}

// LogValue tells the generation alone: the rest has secrets.
func (s *Setup) LogValue() slog.Value { return slog.StringValue("setup " + s.Generation) }

// String is as LogValue.
func (s *Setup) String() string { return "setup " + s.Generation }

// Fleet is the manager's side of the exchange, in the transaction of who answers it.
// Both are given a box that has proved its certificate.
type Fleet interface {
	// Setup returns what a box is to be, sealed. Kind NotFound: it is no appliance of
	// this site.
	Setup(ctx context.Context, tx *db.Tx, box site.Name) (*Setup, error)
	// Heard takes what a box tells. Kind Invalid: beyond the bounds.
	Heard(ctx context.Context, tx *db.Tx, box site.Name, r *Report) error
}
