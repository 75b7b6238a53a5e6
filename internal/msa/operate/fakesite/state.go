package fakesite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
)

// State is all there is of the world. It is plain data.
type State struct {
	VMs       map[string]*VM     `json:"vms,omitempty"`       // by place: "site/id", "test/id"
	Domains   map[string]*Domain `json:"domains,omitempty"`   // by name
	Done      map[string]int     `json:"done,omitempty"`      // effects by key and object
	Jobs      map[string]int     `json:"jobs,omitempty"`      // how often a job was looked at, by key
	Epochs    map[string]int64   `json:"epochs,omitempty"`    // the newest that was seen, by plan
	Networks  map[string]bool    `json:"networks,omitempty"`  // isolated ones that are there
	Suspended map[string]bool    `json:"suspended,omitempty"` // VMs
	Broken    []string           `json:"broken,omitempty"`    // rules that were
	Effects   int                `json:"effects"`
}

// VM is one place where a VM may be.
type VM struct {
	Running     bool   `json:"running,omitempty"`
	Started     int64  `json:"started,omitempty"` // UTC milliseconds
	Plan        string `json:"plan,omitempty"`    // of a recovered one: whose it is; "": a protected one
	Addressed   bool   `json:"addressed,omitempty"`
	Retired     bool   `json:"retired,omitempty"`
	Placeholder bool   `json:"placeholder,omitempty"`
}

// Domain is what the world knows of a domain.
type Domain struct {
	Synced    int    `json:"synced,omitempty"`
	Fenced    string `json:"fenced,omitempty"`     // the plan that took its history
	Pin       uint64 `json:"pin,omitempty"`        // of a recovery
	Disks     bool   `json:"disks,omitempty"`      // of a recovery
	TestPin   uint64 `json:"test_pin,omitempty"`   // of a test
	TestDisks bool   `json:"test_disks,omitempty"` // of a test
	Promoted  bool   `json:"promoted,omitempty"`
	Protected bool   `json:"protected,omitempty"`
	Reversed  bool   `json:"reversed,omitempty"`
	Next      uint64 `json:"next,omitempty"` // number of the newest checkpoint
}

// fill makes the maps that are missing: of an empty one JSON keeps nothing.
func (s *State) fill() {
	ensure(&s.VMs)
	ensure(&s.Domains)
	ensure(&s.Done)
	ensure(&s.Jobs)
	ensure(&s.Epochs)
	ensure(&s.Networks)
	ensure(&s.Suspended)
}

func ensure[V any](m *map[string]V) {
	if *m == nil {
		*m = map[string]V{}
	}
}

// vm returns what is at a place; it is made if nothing is.
func (s *State) vm(at string) *VM {
	v := s.VMs[at]
	if v == nil {
		v = &VM{}
		s.VMs[at] = v
	}
	return v
}

func (s *State) domain(name string) *Domain {
	d := s.Domains[name]
	if d == nil {
		d = &Domain{Next: 100}
		s.Domains[name] = d
	}
	return d
}

// blame notes a rule that was broken.
func (s *State) blame(format string, args ...any) {
	if words := fmt.Sprintf(format, args...); len(s.Broken) < 100 && !slices.Contains(s.Broken, words) {
		s.Broken = append(s.Broken, words)
	}
}

// Store keeps the state. Do runs f on it, alone; what f changed is kept if it returns
// nil, and is durable as far as the store is.
type Store interface {
	Do(ctx context.Context, f func(*State) error) error
}

// Memory is a Store that ends with its process.
type Memory struct {
	mu sync.Mutex
	s  State
}

// Do runs f. A failing f should have changed nothing.
func (m *Memory) Do(_ context.Context, f func(*State) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.s.fill()
	return f(&m.s)
}

// InDB is a Store in a row of a table of its own, made by NewInDB: several processes
// share it, and it outlives them.
type InDB struct{ db *db.DB }

// NewInDB returns the store, made if it is missing.
func NewInDB(ctx context.Context, d *db.DB) (*InDB, error) {
	for _, s := range []string{
		`CREATE TABLE IF NOT EXISTS fakesite (id BIGINT NOT NULL PRIMARY KEY, state TEXT NOT NULL)`,
		`INSERT INTO fakesite (id, state) VALUES (1, '{}') ON CONFLICT (id) DO NOTHING`,
	} {
		if err := d.Tx(ctx, func(tx *db.Tx) error { _, err := tx.Exec(ctx, s); return err }); err != nil {
			return nil, err
		}
	}
	return &InDB{d}, nil
}

// Do runs f in a transaction that holds the row.
func (i *InDB) Do(ctx context.Context, f func(*State) error) error {
	return i.db.Tx(ctx, func(tx *db.Tx) error {
		var text string
		if _, err := tx.Row(ctx, `UPDATE fakesite SET id = id WHERE id = 1 RETURNING state`, nil, &text); err != nil {
			return err
		}
		s := new(State)
		if err := json.Unmarshal([]byte(text), s); err != nil {
			return errs.E("fakesite.Do", errs.Corrupt, "state", err)
		}
		s.fill()
		if err := f(s); err != nil {
			return err
		}
		b, err := json.Marshal(s)
		if err != nil {
			return errs.E("fakesite.Do", errs.Internal, "state", err)
		}
		if string(b) == text {
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE fakesite SET state = $1 WHERE id = 1`, string(b))
		return err
	})
}

// place is where a VM is: of a test, beside all sites.
func place(vm *plan.VMInputs) string {
	if vm.Test {
		return "test/" + vm.VM.String()
	}
	return string(vm.Site) + "/" + id(vm)
}

// id names a VM: one that is no member of the plan by its name.
func id(vm *plan.VMInputs) string {
	if vm.VM.IsZero() {
		return string(vm.Name)
	}
	return vm.VM.String()
}
