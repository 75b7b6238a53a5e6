package command

import (
	"encoding/json"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/site"
)

// fenceFile has the newest epochs a box has seen, in its certificate directory. Version
// 1:
//
//	{"version": 1, "plans": [{"origin": FINGERPRINT, "plan": "erp", "epoch": 7, "at": 1790000000000}]}
const fenceFile = "epochs.json"

// fence keeps the newest epoch of each plan that was seen: who comes with an older one
// has been followed. It is for concurrent use.
type fence struct {
	fs   durable.FS
	path string

	mu    sync.Mutex
	plans map[planKey]seenEpoch // guarded by mu
}

type planKey struct {
	Origin string    `json:"origin"`
	Plan   site.Name `json:"plan"`
}

type seenEpoch struct {
	planKey
	Epoch int64 `json:"epoch"`
	At    int64 `json:"at"` // UTC milliseconds when it was seen, by the box's clock
}

type fenceDoc struct {
	Version int         `json:"version"`
	Plans   []seenEpoch `json:"plans"`
}

// openFence reads what an earlier life of the box has seen. Kind Corrupt.
func openFence(fs durable.FS, dir string) (*fence, error) {
	const op = "command.openFence"
	f := &fence{fs: fs, path: filepath.Join(dir, fenceFile), plans: map[planKey]seenEpoch{}}
	b, err := durable.ReadFile(fs, f.path, maxFence)
	if errs.Is(err, errs.NotFound) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	var d fenceDoc
	if err := json.Unmarshal(b, &d); err != nil || d.Version != 1 {
		return nil, errs.New(op, errs.Corrupt, f.path, "it does not say which epochs were seen").
			WithRemedy("if no run of a plan is under way, remove it")
	}
	for _, p := range d.Plans {
		f.plans[p.planKey] = p
	}
	return f, nil
}

func keyOf(c *Command) planKey { return planKey{c.Origin, c.Plan} }

// newest is the newest epoch of a plan that was seen; 0: none was.
func (f *fence) newest(k planKey) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.plans[k].Epoch
}

// see notes epochs of plans; it is durable on return. What is not newer is nothing.
func (f *fence) see(epochs map[planKey]int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := map[planKey]seenEpoch{}
	for k, p := range f.plans {
		next[k] = p
	}
	changed := false
	for k, e := range epochs {
		if p, ok := next[k]; !ok || e > p.Epoch {
			next[k], changed = seenEpoch{k, e, time.Now().UnixMilli()}, true
		}
	}
	if !changed {
		return nil
	}
	for len(next) > maxPlans {
		oldest := planKey{}
		for k, p := range next {
			if o, ok := next[oldest]; !ok || p.At < o.At {
				oldest = k
			}
		}
		delete(next, oldest)
	}
	d := fenceDoc{Version: 1}
	for _, p := range next {
		d.Plans = append(d.Plans, p)
	}
	b, err := json.Marshal(&d)
	if err != nil {
		return errs.E("command.see", errs.Internal, f.path, err)
	}
	if err := durable.WriteFile(f.fs, f.path, append(b, '\n')); err != nil {
		return err
	}
	f.plans = next
	return nil
}
