package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"holdfast/internal/msa/site"
)

// SiteKey is the key of a site's containers.
type SiteKey struct {
	Site      Name   `json:"site"`
	Recipient string `json:"recipient" doc:"Its public half, age1…: who makes a container for the site adds it to those who can open it"`
}

// DomainStatus is how the protection of a domain stands.
type DomainStatus struct {
	Domain   Name          `json:"domain"`
	Folder   Ref           `json:"folder,omitempty"`
	At       Name          `json:"at,omitempty" doc:"The site that protects it now; missing: none does"`
	State    string        `json:"state" doc:"created, configuring, initial-sync, protected, paused-user, paused-system, backpressure, tracking, delta-sync, disconnected or error"`
	Cause    string        `json:"cause,omitempty" doc:"Why it is not protected"`
	Remedy   string        `json:"remedy,omitempty"`
	Failover string        `json:"failover" doc:"Where its recovery stands"`
	Reversed bool          `json:"reversed,omitempty" doc:"It is protected against its home direction"`
	Box      Name          `json:"appliance,omitempty" doc:"The appliance that has it"`
	Leaving  bool          `json:"leaving,omitempty" doc:"It is about to be another appliance's"`
	URL      string        `json:"container,omitempty"`
	ID       string        `json:"container_id,omitempty"`
	Newest   *time.Time    `json:"newest,omitempty" doc:"The newest recovery point; missing: none is known"`
	Points   int64         `json:"points,omitempty" doc:"How many recovery points there are, as far as it is told"`
	RPO      site.Span     `json:"rpo,omitempty" doc:"How old the newest recovery point is"`
	Target   site.Span     `json:"rpo_target,omitempty"`
	VMs      []VMStatus    `json:"vms,omitempty"`
	Stores   []DomainStore `json:"stores,omitempty" doc:"Its stores, the one it is published to first"`
}

// DomainStore is how a store of a domain stands.
type DomainStore struct {
	Store  Name       `json:"store"`
	Copy   bool       `json:"copy,omitempty" doc:"It gets a copy; missing: the domain is published to it"`
	State  string     `json:"state,omitempty" doc:"copying, behind, current, away, full, error or fenced; missing: nobody tells"`
	Cause  string     `json:"cause,omitempty"`
	Remedy string     `json:"remedy,omitempty"`
	Newest *time.Time `json:"newest,omitempty" doc:"The newest recovery point there; missing: none is known"`
	Lag    site.Span  `json:"lag,omitempty" doc:"How much older that is than in the first store"`
}

// VMStatus is how the protection of a VM stands.
type VMStatus struct {
	VM     string   `json:"vm" doc:"Its id; missing in the inventory: what the domain calls it"`
	Name   Ref      `json:"name"`
	Host   Ref      `json:"host,omitempty"`
	State  string   `json:"state" doc:"As of a domain; missing: no host component tells of it"`
	Cause  string   `json:"cause,omitempty"`
	Remedy string   `json:"remedy,omitempty"`
	Bare   []string `json:"unprotected_disks,omitempty"`
}

// DomainStatus returns how a domain's protection stands.
func (c *Client) DomainStatus(ctx context.Context, domain Name) (out DomainStatus, err error) {
	return out, c.Call(ctx, http.MethodGet, "/domains/"+url.PathEscape(string(domain))+"/status", nil, nil, &out)
}

// SiteKey returns the key of the site's containers.
func (c *Client) SiteKey(ctx context.Context) (out SiteKey, err error) {
	return out, c.Call(ctx, http.MethodGet, "/site-key", nil, nil, &out)
}

// BoxStatus is what an appliance is to be, and what it tells that it is.
type BoxStatus struct {
	Name     Name         `json:"name"`
	Role     string       `json:"role"`
	Health   string       `json:"health" doc:"unseen, alive, skewed or silent; missing: it is not enrolled"`
	Told     *time.Time   `json:"told,omitempty" doc:"When it told last; missing: never"`
	Started  *time.Time   `json:"started,omitempty" doc:"When its agent began"`
	Ready    bool         `json:"ready" doc:"It is what it is to be"`
	Draining bool         `json:"draining,omitempty"`
	Domains  []Name       `json:"domains,omitempty" doc:"That it is to serve, protect VMs of, or be able to recover"`
	Leaving  []Name       `json:"leaving,omitempty" doc:"That it has to let go of"`
	Lives    []Name       `json:"lives,omitempty" doc:"Whose committed recovery is in it"`
	Problems []BoxProblem `json:"problems,omitempty"`
}

// BoxProblem is something that an appliance could not do yet; it goes on trying.
type BoxProblem struct {
	Object string `json:"object"`
	Words  string `json:"words"`
	Remedy string `json:"remedy,omitempty"`
}

// BoxStatus returns how an appliance stands to what it is to be.
func (c *Client) BoxStatus(ctx context.Context, box Name) (out BoxStatus, err error) {
	return out, c.Call(ctx, http.MethodGet, "/appliances/"+url.PathEscape(string(box))+"/status", nil, nil, &out)
}
