package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"holdfast/internal/msa/file"
	"holdfast/internal/msa/site"
)

// What a site's platform has. They are described where they are defined.
type (
	// VM is a virtual machine as its platform has it.
	VM = site.VM
	// Inventory is all that a platform has.
	Inventory = site.Inventory
)

// InventoryState is how far a site's inventory can be believed.
type InventoryState struct {
	Site         Name       `json:"site"`
	Seen         *time.Time `json:"seen,omitempty" doc:"When the platform answered last; missing: never"`
	Away         *time.Time `json:"away,omitempty" doc:"Since when it does not answer; missing: it does"`
	Words        string     `json:"words,omitempty" doc:"Why, or what of it could not be read"`
	VMs          int        `json:"vms"`
	Running      int        `json:"running"`
	Placeholders int        `json:"placeholders"`
	Generation   int64      `json:"generation" doc:"Another one with each change"`
}

// Placeholder keeps the place of a protected VM at its recovery site.
type Placeholder struct {
	Site   Name       `json:"site"`
	VM     Ref        `json:"vm" doc:"The protected VM's id"`
	Domain Name       `json:"domain"`
	Name   Ref        `json:"name" doc:"The placeholder's own"`
	Folder Ref        `json:"folder,omitempty"`
	State  string     `json:"state" doc:"planned, present, drifted, gone, or used: a recovered VM is in its place"`
	Error  string     `json:"error,omitempty" doc:"Why it could not be made or removed"`
	Due    *time.Time `json:"due,omitempty" doc:"When that is tried again"`
}

// Repair says which placeholders are to be looked at now.
type Repair struct {
	Site   Name `json:"site" maxLength:"63"`
	Domain Name `json:"domain,omitempty" maxLength:"63" doc:"Of this domain alone"`
}

// Repaired is how many placeholders are looked at.
type Repaired struct {
	Placeholders int64 `json:"placeholders"`
}

// Import is documents of containers: see Manager.Import.
type Import struct {
	Documents [][]byte `json:"documents" minItems:"1" maxItems:"250" doc:"As they were in the containers, each base64"`
}

// Imported is what was imported.
type Imported struct {
	Changes file.Changes `json:"changes" doc:"The objects that were made"`
	Left    []LeftOut    `json:"left" doc:"Those that were not"`
	Sites   []Name       `json:"sites" doc:"Sites whose inventory was taken over as their managers knew it"`
	Faults  []Fault      `json:"faults" doc:"What is wrong with the outcome, and does not keep it from being stored"`
}

// LeftOut is an object that was not imported.
type LeftOut struct {
	Kind Kind   `json:"kind"`
	Name Name   `json:"name"`
	Why  string `json:"why"`
}

// VMOptions say which VMs a list has. What is zero does not filter.
type VMOptions struct {
	Folder  Ref    // of the platform: this one and those below
	Name    string // that contain it, in whichever case
	Running string // "yes" or "no"
	Cursor  string // of the page before
	Limit   int    // at most so many; 0: 100
}

// Inventories returns how every site's inventory stands.
func (c *Client) Inventories(ctx context.Context) (list []InventoryState, err error) {
	var page Page[InventoryState]
	err = c.Call(ctx, http.MethodGet, "/inventories", nil, nil, &page)
	return page.Items, err
}

// Inventory returns what a site has besides VMs.
func (c *Client) Inventory(ctx context.Context, of Name) (inv Inventory, err error) {
	err = c.Call(ctx, http.MethodGet, "/inventories/"+url.PathEscape(string(of)), nil, nil, &inv)
	return inv, err
}

// VMs returns a page of a site's VMs, by name.
func (c *Client) VMs(ctx context.Context, of Name, o VMOptions) (page Page[VM], err error) {
	q := ListOptions{Folder: o.Folder, Cursor: o.Cursor, Limit: o.Limit}.query()
	if o.Name != "" {
		q.Set("name", o.Name)
	}
	if o.Running != "" {
		q.Set("running", o.Running)
	}
	err = c.Call(ctx, http.MethodGet, "/inventories/"+url.PathEscape(string(of))+"/vms", q, nil, &page)
	return page, err
}

// VM returns a VM by name or id. Kinds: NotFound, Conflict (several have the name).
func (c *Client) VM(ctx context.Context, of Name, ref Ref) (vm VM, err error) {
	err = c.Call(ctx, http.MethodGet, "/inventories/"+url.PathEscape(string(of))+"/vms/"+url.PathEscape(string(ref)), nil, nil, &vm)
	return vm, err
}

// Placeholders returns the placeholders of a site, of a domain, or all.
func (c *Client) Placeholders(ctx context.Context, of, domain Name) (list []Placeholder, err error) {
	q := url.Values{}
	if of != "" {
		q.Set("site", string(of))
	}
	if domain != "" {
		q.Set("domain", string(domain))
	}
	var page Page[Placeholder]
	err = c.Call(ctx, http.MethodGet, "/placeholders", q, nil, &page)
	return page.Items, err
}

// RepairPlaceholders has placeholders that failed tried again at once.
func (c *Client) RepairPlaceholders(ctx context.Context, r Repair) (out Repaired, err error) {
	err = c.Call(ctx, http.MethodPost, "/placeholders/repair", nil, r, &out)
	return out, err
}

// Import imports what managers have stored in containers. What is there stays as it is.
func (c *Client) Import(ctx context.Context, documents ...[]byte) (out Imported, err error) {
	err = c.Call(ctx, http.MethodPost, "/imports", nil, Import{documents}, &out)
	return out, err
}

// limitOf is a limit as a query has it.
func limitOf(q url.Values, limit int) {
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
}
