package inventory

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Standing is how far a site's inventory can be believed. Times by the database's
// clock.
type Standing struct {
	Site site.Name
	Seen time.Time // when the platform last answered; zero: never
	Away time.Time // since when it does not; zero: it does
	// Words says why it is away, or what of it could not be read.
	Words                      string
	Generation                 int64 // another one with each change
	VMs, Running, Placeholders int
}

// Sites returns every site that has, or had, a keeper, by name.
func Sites(ctx context.Context, tx *db.Tx) (list []Standing, err error) {
	err = tx.Rows(ctx, `SELECT s.site, s.seen_at, s.away_since, s.words, s.generation,
		(SELECT count(*) FROM inventory_vms v WHERE v.site = s.site AND v.stands_for = ''),
		(SELECT count(*) FROM inventory_vms v WHERE v.site = s.site AND v.running = 1),
		(SELECT count(*) FROM inventory_vms v WHERE v.site = s.site AND v.stands_for <> '')
		FROM inventory_sites s ORDER BY s.site`, nil, func(scan func(...any) error) error {
		var s Standing
		var seen, away int64
		err := scan(&s.Site, &seen, &away, &s.Words, &s.Generation, &s.VMs, &s.Running, &s.Placeholders)
		s.Seen, s.Away = db.Time(seen), db.Time(away)
		list = append(list, s)
		return err
	})
	return list, err
}

// Query says which VMs a page has. What is zero does not filter.
type Query struct {
	Site    site.Name
	Folder  site.Ref // VMs filed there or below
	Name    string   // VMs whose name contains it, in whichever case
	Running *bool
	After   Cursor // the last VM of the page before
	Limit   int    // at most MaxPage; 0: 100
}

// Cursor is a place in the order of VMs: by name and id. The zero value is the
// beginning.
type Cursor struct {
	Name string `json:"n"`
	ID   string `json:"i"`
}

// VMs returns a page of a site's VMs, by name and id, and where to go on after; a
// zero cursor: that was all.
func VMs(ctx context.Context, tx *db.Tx, q Query) (page []site.VM, next Cursor, err error) {
	limit := min(q.Limit, MaxPage)
	if limit <= 0 {
		limit = 100
	}
	running := -1
	if q.Running != nil {
		running = 0
		if *q.Running {
			running = 1
		}
	}
	folder := db.Text(string(q.Folder), site.MaxRef)
	more := false
	err = tx.Rows(ctx, `SELECT doc FROM inventory_vms WHERE site = $1 AND (name > $2 OR name = $2 AND id > $3)
		AND ($4 = '' OR folder = $4 OR folder LIKE $5 ESCAPE '!') AND ($6 = '' OR lower(name) LIKE lower($7) ESCAPE '!') AND ($8 < 0 OR running = $8)
		ORDER BY name, id LIMIT $9`,
		[]any{string(q.Site), db.Text(q.After.Name, site.MaxRef), db.Text(q.After.ID, site.MaxRef), folder, likeText(folder) + "/%",
			db.Text(q.Name, site.MaxRef), "%" + likeText(db.Text(q.Name, site.MaxRef)) + "%", running, limit + 1},
		func(scan func(...any) error) error {
			vm, err := scanVM(scan)
			if err == nil && len(page) == limit {
				more = true
				return nil
			}
			page = append(page, vm)
			return err
		})
	if more && err == nil {
		last := page[len(page)-1]
		next = Cursor{nameOf(&last), last.ID.String()}
	}
	return page, next, err
}

// likeText is text that LIKE takes as it is.
func likeText(s string) string {
	return strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(s)
}

func scanVM(scan func(...any) error) (vm site.VM, err error) {
	var doc string
	if err := scan(&doc); err != nil {
		return vm, err
	}
	if err := json.Unmarshal([]byte(doc), &vm); err != nil {
		return vm, errs.E("inventory.VMs", errs.Corrupt, "", err)
	}
	return vm, nil
}

// Find returns a VM by id or name. Kinds: NotFound, Conflict (several have the name).
func Find(ctx context.Context, tx *db.Tx, at site.Name, ref site.Ref) (site.VM, error) {
	const op = "inventory.Find"
	var found []site.VM
	err := tx.Rows(ctx, `SELECT doc FROM inventory_vms WHERE site = $1 AND (id = $2 OR name = $2) ORDER BY id LIMIT 2`,
		[]any{string(at), db.Text(string(ref), site.MaxRef)}, func(scan func(...any) error) error {
			vm, err := scanVM(scan)
			found = append(found, vm)
			return err
		})
	switch {
	case err != nil:
		return site.VM{}, err
	case len(found) == 0:
		return site.VM{}, errs.New(op, errs.NotFound, string(ref), "no VM at "+string(at)+" has this name or id").WithRemedy("list the site's VMs")
	case len(found) > 1:
		return site.VM{}, errs.New(op, errs.Conflict, string(ref), "several VMs have this name").WithRemedy("use the VM's id")
	}
	return found[0], nil
}

// Places returns a site's inventory without its VMs, in order. Kind NotFound: nobody
// has looked at the site yet.
func Places(ctx context.Context, tx *db.Tx, of site.Name) (*site.Inventory, error) {
	var g int64
	if _, err := tx.Row(ctx, `SELECT generation FROM inventory_sites WHERE site = $1`, []any{db.Text(string(of), site.MaxRef)}, &g); err != nil {
		return nil, err
	}
	if g == 0 {
		return nil, errs.New("inventory.Places", errs.NotFound, string(of), "nothing is known of this site's platform").WithRemedy("see whether the site is configured, and its endpoints can be reached")
	}
	return loadPlaces(ctx, tx, of)
}

// Known reports whether anything is known of a site's VMs: its platform has answered
// once, or somebody told.
func Known(ctx context.Context, tx *db.Tx, of site.Name) (bool, error) {
	var g int64
	_, err := tx.Row(ctx, `SELECT generation FROM inventory_sites WHERE site = $1`, []any{db.Text(string(of), site.MaxRef)}, &g)
	return g > 0, err
}

// Load returns all of a site's inventory, in order. A site that nobody has looked at
// has an empty one.
func Load(ctx context.Context, tx *db.Tx, of site.Name) (*site.Inventory, error) {
	inv, err := loadPlaces(ctx, tx, of)
	if err != nil {
		return nil, err
	}
	err = tx.Rows(ctx, `SELECT doc FROM inventory_vms WHERE site = $1`, []any{string(of)}, func(scan func(...any) error) error {
		vm, err := scanVM(scan)
		inv.VMs = append(inv.VMs, vm)
		return err
	})
	order(inv)
	return inv, err
}

func loadPlaces(ctx context.Context, tx *db.Tx, of site.Name) (*site.Inventory, error) {
	inv := &site.Inventory{Site: of}
	err := tx.Rows(ctx, `SELECT kind, doc FROM inventory_places WHERE site = $1 ORDER BY kind, ref`, []any{string(of)}, func(scan func(...any) error) error {
		var kind, doc string
		if err := scan(&kind, &doc); err != nil {
			return err
		}
		return addPlace(inv, kind, doc)
	})
	order(inv)
	return inv, err
}

// The kinds of rows in inventory_places.
const (
	kindHost      = "host"
	kindNetwork   = "network"
	kindFolder    = "folder"
	kindPool      = "pool"
	kindDatastore = "datastore"
	kindPolicy    = "policy"
)

// addPlace adds a row to an inventory.
func addPlace(inv *site.Inventory, kind, doc string) error {
	var err error
	switch kind {
	case kindHost:
		err = addTo(&inv.Hosts, doc)
	case kindNetwork:
		err = addTo(&inv.Networks, doc)
	case kindFolder:
		err = addTo(&inv.Folders, doc)
	case kindPool:
		err = addTo(&inv.Pools, doc)
	case kindDatastore:
		err = addTo(&inv.Datastores, doc)
	case kindPolicy:
		err = addTo(&inv.Policies, doc)
	}
	if err != nil {
		return errs.E("inventory.Load", errs.Corrupt, kind, err)
	}
	return nil
}

func addTo[T any](list *[]T, doc string) error {
	var v T
	err := json.Unmarshal([]byte(doc), &v)
	*list = append(*list, v)
	return err
}

// placeKey names a row of inventory_places.
type placeKey struct{ kind, ref string }

// placesOf returns the rows of an inventory's places.
func placesOf(inv *site.Inventory) (map[placeKey]string, error) {
	rows := map[placeKey]string{}
	var failed error
	put := func(kind string, ref site.Ref, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			failed = errs.E("inventory.Keeper", errs.Internal, kind+" "+string(ref), err)
		}
		if len(b) <= maxDoc && ref != "" && len(ref) <= site.MaxRef {
			rows[placeKey{kind, db.Text(string(ref), site.MaxRef)}] = string(b)
		}
	}
	for _, h := range inv.Hosts {
		put(kindHost, h.Ref, h)
	}
	for _, n := range inv.Networks {
		put(kindNetwork, n.Ref, n)
	}
	for _, f := range inv.Folders {
		put(kindFolder, f.Ref, f)
	}
	for _, p := range inv.Pools {
		put(kindPool, p.Ref, p)
	}
	for _, d := range inv.Datastores {
		put(kindDatastore, d.Ref, d)
	}
	for _, p := range inv.Policies {
		put(kindPolicy, p, p)
	}
	return rows, failed
}

// Store answers with views of sites, which it makes once for each generation. The
// zero value is ready. Safe for concurrent use; a view is only read.
type Store struct {
	mu    sync.Mutex
	views map[site.Name]held // guarded by mu
}

// held is a view and what it is of.
type held struct {
	generation int64
	view       *site.View
}

// Views returns the views of all sites, for catalog.Catalog.Views.
func (s *Store) Views(ctx context.Context, tx *db.Tx) (map[site.Name]*site.View, error) {
	generations := map[site.Name]int64{}
	err := tx.Rows(ctx, `SELECT site, generation FROM inventory_sites WHERE generation > 0 ORDER BY site LIMIT $1`, []any{maxViews}, func(scan func(...any) error) error {
		var name site.Name
		var g int64
		err := scan(&name, &g)
		generations[name] = g
		return err
	})
	if err != nil {
		return nil, err
	}
	views := map[site.Name]*site.View{}
	for name, g := range generations {
		if views[name], err = s.view(ctx, tx, name, g); err != nil {
			return nil, err
		}
	}
	return views, nil
}

// View returns the view of one site; nil: nobody has looked at it yet.
func (s *Store) View(ctx context.Context, tx *db.Tx, of site.Name) (*site.View, error) {
	var g int64
	if _, err := tx.Row(ctx, `SELECT generation FROM inventory_sites WHERE site = $1`, []any{string(of)}, &g); err != nil || g == 0 {
		return nil, err
	}
	return s.view(ctx, tx, of, g)
}

func (s *Store) view(ctx context.Context, tx *db.Tx, of site.Name, generation int64) (*site.View, error) {
	s.mu.Lock()
	h := s.views[of]
	s.mu.Unlock()
	if h.view != nil && h.generation == generation {
		return h.view, nil
	}
	inv, err := Load(ctx, tx, of)
	if err != nil {
		return nil, err
	}
	v := site.NewView(inv)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.views == nil {
		s.views = map[site.Name]held{}
	}
	// Generations grow: one that was read in an older snapshot does not replace it.
	if len(s.views) < maxViews && s.views[of].generation < generation {
		s.views[of] = held{generation, v}
	}
	return v, nil
}
