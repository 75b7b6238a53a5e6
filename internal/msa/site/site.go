package site

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"holdfast/internal/msa/problem"
)

// Platform is what runs VMs at a site. Names are stable.
type Platform string

// The platforms.
const (
	QEMU    Platform = "qemu"
	Libvirt Platform = "libvirt"
	VSphere Platform = "vsphere"
	Azure   Platform = "azure"
	Fake    Platform = "fake" // of tests and demonstrations
)

// Site is a place with hypervisor hosts that lives or dies together.
type Site struct {
	Meta
	Platform  Platform `json:"platform"`
	Endpoints []string `json:"endpoints,omitempty"` // addresses of the platform, as qemu+tls://node1/system
	Manager   string   `json:"manager,omitempty"`   // address of the site's manager, as https://msa-b:8443
	Zone      string   `json:"zone,omitempty"`      // time zone of the people there, for reports
	MaxBoots  int      `json:"max_boots,omitempty"` // VMs started at once, over all plans; 0: 10
}

// Kind is KindSite.
func (*Site) Kind() Kind { return KindSite }

// DefaultBoots is how many VMs a site starts at once when it is not said.
const DefaultBoots = 10

// Boots is how many VMs are started at once.
func (s *Site) Boots() int {
	if s.MaxBoots == 0 {
		return DefaultBoots
	}
	return s.MaxBoots
}

// Check adds every problem the site has by itself.
func (s *Site) Check(l *problem.List) {
	c := CheckHead(l, s)
	problem.OneOf(c, "platform", s.Platform, QEMU, Libvirt, VSphere, Azure, Fake)
	c.Count("endpoints", len(s.Endpoints), MaxEndpoints)
	for i, e := range s.Endpoints {
		checkURL(c.Index("endpoints", i), e, nil)
	}
	if s.Manager != "" {
		checkURL(c.At("manager"), s.Manager, []string{"https"})
	}
	c.Text("zone", s.Zone, MaxName)
	problem.Within(c, "max_boots", s.MaxBoots, 0, 1000)
}

// checkURL demands an absolute address, of one of some schemes unless they are
// nil, without a password: secrets are kept elsewhere and never shown.
func checkURL(c problem.Checker, text string, schemes []string) {
	if len(text) > MaxURL {
		c.Block(problem.Range, fmt.Sprintf("the address has %d bytes", len(text)), fmt.Sprintf("use at most %d", MaxURL))
		return
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Path == "" {
		c.Block(problem.Form, fmt.Sprintf("%q is not an address", text), "write SCHEME://HOST/PATH")
		return
	}
	if schemes != nil && !slices.Contains(schemes, u.Scheme) {
		c.Block(problem.Form, fmt.Sprintf("scheme %q is not possible here", u.Scheme), "use one of "+strings.Join(schemes, ", "))
	}
	if _, secret := u.User.Password(); secret {
		c.Block(problem.Form, "the address holds a password", "store the credential with the object's secret, and leave it out here")
	}
}

// Trust says how far a pairing has come. Names are stable.
type Trust string

// The states of trust.
const (
	Proposed  Trust = ""          // a token was made, nobody has used it
	Presented Trust = "presented" // the peer has shown its certificate; a person must confirm the fingerprint
	Trusted   Trust = "trusted"   // confirmed
	Revoked   Trust = "revoked"   // un-paired, or its certificate has changed
)

// SitePair is the agreement of two sites' managers to work together. Nothing in
// it is needed for recovery from a disaster.
type SitePair struct {
	Meta
	Local       Name   `json:"local"`
	Peer        Name   `json:"peer"`
	Address     string `json:"address,omitempty"`     // of the peer's manager
	Fingerprint string `json:"fingerprint,omitempty"` // of the peer's certificate: 64 hexadecimal digits
	Trust       Trust  `json:"trust,omitempty"`
}

// Kind is KindPair.
func (*SitePair) Kind() Kind { return KindPair }

// Check adds every problem the pair has by itself.
func (p *SitePair) Check(l *problem.List) {
	c := CheckHead(l, p)
	needName(c, "local", p.Local, "site")
	needName(c, "peer", p.Peer, "site")
	if p.Local == p.Peer && p.Local != "" {
		c.At("peer").Block(problem.Contrary, "a site is not its own peer", "name two sites")
	}
	if p.Address != "" {
		checkURL(c.At("address"), p.Address, []string{"https"})
	}
	problem.OneOf(c, "trust", p.Trust, Proposed, Presented, Trusted, Revoked)
	if p.Fingerprint != "" && !isHex(p.Fingerprint, 64) {
		c.At("fingerprint").Block(problem.Form, "it is not the SHA-256 of a certificate", "write 64 of 0-9 and a-f, as the peer shows it")
	}
	if p.Trust == Trusted && p.Fingerprint == "" {
		c.At("fingerprint").Block(problem.Missing, "a trusted peer has no fingerprint", "confirm the peer's certificate again")
	}
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// Store is a place for containers: an object store or a directory. It holds no
// credential: those are sealed apart and never returned.
type Store struct {
	Meta
	URL        string `json:"url"`                  // as s3://host/bucket, azblob://account/container, file:///srv/dr
	Site       Name   `json:"site,omitempty"`       // where it is; empty: at neither site
	Credential Name   `json:"credential,omitempty"` // name of the sealed secret; empty: none is needed
	Lock       string `json:"lock,omitempty"`       // against deletion: "", "governance" or "compliance"
	ReadOnly   bool   `json:"read_only,omitempty"`  // recovery only: nothing is published to it
}

// Kind is KindStore.
func (*Store) Kind() Kind { return KindStore }

// Check adds every problem the store has by itself.
func (s *Store) Check(l *problem.List) {
	c := CheckHead(l, s)
	if s.URL == "" {
		c.At("url").Block(problem.Missing, "the store has no address", "write its URL")
	} else {
		checkURL(c.At("url"), s.URL, nil)
	}
	if s.Site != "" {
		needName(c, "site", s.Site, "site")
	}
	if s.Credential != "" {
		needName(c, "credential", s.Credential, "credential")
	}
	problem.OneOf(c, "lock", s.Lock, "", "governance", "compliance")
}

// Role is what an appliance is. Names are stable.
type Role string

// The roles.
const (
	DRVA     Role = "drva"
	IOFilter Role = "iofilter"
	RocVA    Role = "rocva"
)

// Appliance is a box the manager looks after.
type Appliance struct {
	Meta
	Role      Role   `json:"role"`
	Site      Name   `json:"site"`
	Address   string `json:"address,omitempty"`  // as 10.0.0.5:7480
	Host      Ref    `json:"host,omitempty"`     // IOFilter: its hypervisor host; RocVA: the one on which it starts VMs
	Draining  bool   `json:"draining,omitempty"` // takes no new domain; what it has moves away
	LogPool   int64  `json:"log_pool,omitempty"` // DRVA: bytes for replication logs; 0: it says itself
	Bandwidth string `json:"bandwidth,omitempty"`
}

// Kind is KindBox.
func (*Appliance) Kind() Kind { return KindBox }

// Check adds every problem the appliance has by itself.
func (a *Appliance) Check(l *problem.List) {
	c := CheckHead(l, a)
	problem.OneOf(c, "role", a.Role, DRVA, IOFilter, RocVA)
	needName(c, "site", a.Site, "site")
	c.Text("address", a.Address, MaxRef)
	c.Text("host", string(a.Host), MaxRef)
	if a.Role == IOFilter && a.Host == "" {
		c.At("host").Block(problem.Missing, "a host component is on no host", "name its hypervisor host")
	}
	if a.LogPool != 0 {
		problem.Within(c, "log_pool", a.LogPool, MinLogSize, MaxLogSize)
	}
	checkBandwidth(c, "bandwidth", a.Bandwidth)
}
