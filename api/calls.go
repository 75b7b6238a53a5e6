package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/site"
)

// paths are where objects of each kind are.
var paths = map[Kind]string{
	site.KindSite: "sites", site.KindPair: "site-pairs", site.KindStore: "stores", site.KindBox: "appliances", site.KindDomain: "domains",
	site.KindMappings: "mappings", site.KindSettings: "recovery-settings", site.KindPlan: "plans",
}

// PathOf returns where objects of a kind are, below /api/v1, as "plans"; "": there is
// no such kind.
func PathOf(k Kind) string { return paths[k] }

// ListOptions say which objects a list has.
type ListOptions struct {
	Folder Ref    // this one and those below; empty: all
	Cursor string // of the page before
	Limit  int    // at most so many; 0: 100
}

func (o ListOptions) query() url.Values {
	q := url.Values{}
	if o.Folder != "" {
		q.Set("folder", string(o.Folder))
	}
	if o.Cursor != "" {
		q.Set("cursor", o.Cursor)
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	return q
}

// Objects are the objects of one kind.
type Objects[T any, P interface {
	*T
	Object
}] struct{ c *Client }

func (o Objects[T, P]) path() string { return "/" + paths[P(new(T)).Kind()] }

// List returns a page of objects, by name.
func (o Objects[T, P]) List(ctx context.Context, opts ListOptions) (page Page[P], err error) {
	err = o.c.Call(ctx, http.MethodGet, o.path(), opts.query(), nil, &page)
	return page, err
}

// All goes through every object in a folder; "" is everywhere. It ends behind the
// first error.
func (o Objects[T, P]) All(ctx context.Context, folder Ref) iter.Seq2[P, error] {
	return func(yield func(P, error) bool) {
		for opts := (ListOptions{Folder: folder, Limit: 500}); ; {
			page, err := o.List(ctx, opts)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if opts.Cursor = page.Next; opts.Cursor == "" {
				return
			}
		}
	}
}

// Get returns an object. Kind NotFound.
func (o Objects[T, P]) Get(ctx context.Context, n Name) (P, error) {
	v := P(new(T))
	err := o.c.Call(ctx, http.MethodGet, o.path()+"/"+url.PathEscape(string(n)), nil, nil, v)
	return v, err
}

// Put makes an object, or changes the one that was read: its version says which. It
// returns what is stored. Kinds: Invalid (with the faults), Conflict (somebody was
// faster, or there is one of this name).
func (o Objects[T, P]) Put(ctx context.Context, v P) (P, error) {
	out := P(new(T))
	err := o.c.Call(ctx, http.MethodPut, o.path()+"/"+url.PathEscape(string(v.Head().Name)), nil, v, out)
	return out, err
}

// Delete deletes an object, whatever its version; one that is gone is no error. Kind
// Conflict: others name it.
func (o Objects[T, P]) Delete(ctx context.Context, n Name) error {
	return o.c.DeleteObject(ctx, P(new(T)).Kind(), n)
}

// Sites are the sites there are.
func (c *Client) Sites() Objects[Site, *Site] { return Objects[Site, *Site]{c} }

// SitePairs are the pairs of sites.
func (c *Client) SitePairs() Objects[SitePair, *SitePair] { return Objects[SitePair, *SitePair]{c} }

// Stores are the stores.
func (c *Client) Stores() Objects[Store, *Store] { return Objects[Store, *Store]{c} }

// Appliances are the boxes the manager looks after.
func (c *Client) Appliances() Objects[Appliance, *Appliance] {
	return Objects[Appliance, *Appliance]{c}
}

// Domains are the protected domains.
func (c *Client) Domains() Objects[Domain, *Domain] { return Objects[Domain, *Domain]{c} }

// Mappings are the mappings between sites.
func (c *Client) Mappings() Objects[Mappings, *Mappings] { return Objects[Mappings, *Mappings]{c} }

// RecoverySettings are the settings of single VMs.
func (c *Client) RecoverySettings() Objects[RecoverySettings, *RecoverySettings] {
	return Objects[RecoverySettings, *RecoverySettings]{c}
}

// Plans are the recovery plans.
func (c *Client) Plans() Objects[Plan, *Plan] { return Objects[Plan, *Plan]{c} }

func pathOfKind(k Kind) (string, error) {
	if p := paths[k]; p != "" {
		return "/" + p, nil
	}
	return "", errs.New("api", errs.NotFound, "kind "+string(k), "there are no objects of this kind").WithRemedy("choose one of " + fmt.Sprint(site.Kinds()))
}

// GetObject returns an object of a kind that is known at run time.
func (c *Client) GetObject(ctx context.Context, k Kind, n Name) (Object, error) {
	p, err := pathOfKind(k)
	if err != nil {
		return nil, err
	}
	o := file.New(k)
	return o, c.Call(ctx, http.MethodGet, p+"/"+url.PathEscape(string(n)), nil, nil, o)
}

// DeleteObject is Objects.Delete of a kind that is known at run time.
func (c *Client) DeleteObject(ctx context.Context, k Kind, n Name) error {
	p, err := pathOfKind(k)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, request{method: http.MethodDelete, path: p + "/" + url.PathEscape(string(n)), headers: map[string]string{"If-Match": "*"}}, nil)
	return err
}

// Diff compares a file with what is configured.
func (c *Client) Diff(ctx context.Context, text []byte, prune bool) (*Applied, error) {
	return c.file(ctx, "/diff", text, prune, "")
}

// Apply makes what is configured as a file says, all of it or nothing. expect is the
// digest of the changes that Diff has shown; "": whatever they are by now.
func (c *Client) Apply(ctx context.Context, text []byte, prune bool, expect string) (*Applied, error) {
	return c.file(ctx, "/apply", text, prune, expect)
}

func (c *Client) file(ctx context.Context, path string, text []byte, prune bool, expect string) (*Applied, error) {
	q := url.Values{}
	if prune {
		q.Set("prune", "true")
	}
	if expect != "" {
		q.Set("expect", expect)
	}
	if len(text) == 0 {
		text = []byte("\n") // an empty body would be none
	}
	var a Applied
	_, err := c.do(ctx, request{method: http.MethodPost, path: path, query: q, body: text, kind: "application/yaml"}, &a)
	return &a, err
}

// Export writes what is configured as a file: of a kind, of one name, of a folder;
// "" is all.
func (c *Client) Export(ctx context.Context, k Kind, n Name, folder Ref) ([]byte, error) {
	q := url.Values{}
	for name, value := range map[string]string{"kind": string(k), "name": string(n), "folder": string(folder)} {
		if value != "" {
			q.Set(name, value)
		}
	}
	var text []byte
	_, err := c.do(ctx, request{method: http.MethodGet, path: "/export", query: q}, &text)
	return text, err
}

// Version says which release answers.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	err = c.Call(ctx, http.MethodGet, "/version", nil, nil, &v)
	return v, err
}

// Tasks returns a page of operations that last, the newest first.
func (c *Client) Tasks(ctx context.Context, opts ListOptions) (page Page[Task], err error) {
	err = c.Call(ctx, http.MethodGet, "/tasks", opts.query(), nil, &page)
	return page, err
}

// Task says how a task stands.
func (c *Client) Task(ctx context.Context, id string) (t Task, err error) {
	err = c.Call(ctx, http.MethodGet, "/tasks/"+url.PathEscape(id), nil, nil, &t)
	return t, err
}

// CancelTask asks a task to stop.
func (c *Client) CancelTask(ctx context.Context, id string) (t Task, err error) {
	err = c.Call(ctx, http.MethodPost, "/tasks/"+url.PathEscape(id)+"/cancel", nil, nil, &t)
	return t, err
}

// Wait waits until a task has ended, or is parked, and tells progress, if that is not
// nil, how it stands meanwhile.
func (c *Client) Wait(ctx context.Context, id string, progress func(Task)) (Task, error) {
	wait := url.Values{"wait": {"2"}}
	for {
		var t Task
		begun := time.Now()
		if err := c.Call(ctx, http.MethodGet, "/tasks/"+url.PathEscape(id), wait, nil, &t); err != nil {
			return t, err
		}
		if progress != nil {
			progress(t)
		}
		if t.State != TaskActive {
			return t, nil
		}
		// A proxy that cuts waits short makes no storm of this.
		if time.Since(begun) < time.Second {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return t, errs.E("api.Wait", errs.Canceled, "task "+id, context.Cause(ctx))
			}
		}
	}
}

// Drafts returns every draft, the one changed last first.
func (c *Client) Drafts(ctx context.Context) (page Page[Draft], err error) {
	err = c.Call(ctx, http.MethodGet, "/drafts", nil, nil, &page)
	return page, err
}

// Draft returns a draft.
func (c *Client) Draft(ctx context.Context, id string) (d Draft, err error) {
	err = c.Call(ctx, http.MethodGet, "/drafts/"+url.PathEscape(id), nil, nil, &d)
	return d, err
}

// NewDraft begins a draft.
func (c *Client) NewDraft(ctx context.Context, q NewDraft) (d Draft, err error) {
	err = c.Call(ctx, http.MethodPost, "/drafts", nil, q, &d)
	return d, err
}

// SaveDraft stores another state of the object of a draft that was read. Kind
// Conflict: somebody was faster.
func (c *Client) SaveDraft(ctx context.Context, d Draft) (out Draft, err error) {
	q := SaveDraft{Object: d.Object}
	b, err := jsonOf(q)
	if err != nil {
		return out, err
	}
	_, err = c.do(ctx, request{
		method: http.MethodPut, path: "/drafts/" + url.PathEscape(d.ID), body: b, kind: "application/json",
		headers: map[string]string{"If-Match": fmt.Sprintf(`"%d"`, d.Version)},
	}, &out)
	return out, err
}

// ValidateDraft finds everything that would be wrong if the draft were committed now.
func (c *Client) ValidateDraft(ctx context.Context, id string) (v Validation, err error) {
	err = c.Call(ctx, http.MethodPost, "/drafts/"+url.PathEscape(id)+"/validate", nil, nil, &v)
	return v, err
}

// CommitDraft makes a draft what is configured.
func (c *Client) CommitDraft(ctx context.Context, id string) (out Committed, err error) {
	err = c.Call(ctx, http.MethodPost, "/drafts/"+url.PathEscape(id)+"/commit", nil, nil, &out)
	return out, err
}

// DiscardDraft ends a draft.
func (c *Client) DiscardDraft(ctx context.Context, id string) error {
	return c.Call(ctx, http.MethodDelete, "/drafts/"+url.PathEscape(id), nil, nil, nil)
}

// ListObjects returns every object of a kind that is known at run time, in a folder;
// "" is everywhere.
func (c *Client) ListObjects(ctx context.Context, k Kind, folder Ref) ([]Object, error) {
	p, err := pathOfKind(k)
	if err != nil {
		return nil, err
	}
	var all []Object
	for opts := (ListOptions{Folder: folder, Limit: 500}); ; {
		var page Page[json.RawMessage]
		if err := c.Call(ctx, http.MethodGet, p, opts.query(), nil, &page); err != nil {
			return nil, err
		}
		for _, raw := range page.Items {
			o := file.New(k)
			if err := json.Unmarshal(raw, o); err != nil {
				return nil, errs.E("api.ListObjects", errs.Invalid, string(k), err).WithRemedy("use a client of the manager's release")
			}
			all = append(all, o)
		}
		if opts.Cursor = page.Next; opts.Cursor == "" {
			return all, nil
		}
	}
}

// TryStore has the manager try adversarially whether a store keeps its promises: a
// task, which fails if the role cannot use the store.
func (c *Client) TryStore(ctx context.Context, n Name, how TryStore) (t Task, err error) {
	err = c.Call(ctx, http.MethodPost, "/stores/"+url.PathEscape(string(n))+"/try", nil, how, &t)
	return t, err
}
