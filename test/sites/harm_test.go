package sites

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/api"
)

// lastStep bounds the steps after which something dies: some runs have no more.
const lastStep = 24

// harm has a process die in each run of a plan from now on. HOLDFAST_SITES_SEED repeats
// an earlier draw.
func (w *world) harm() {
	seed, err := strconv.ParseUint(os.Getenv("HOLDFAST_SITES_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	w.t.Logf("HOLDFAST_SITES_SEED=%d", seed)
	w.odds = rand.New(rand.NewPCG(seed, 0))
}

// harm is what befalls a run once it has come so far: a process is killed.
type harm struct {
	*side
	who   string
	after int // steps that have ended
}

// draw draws what befalls the next run of a site; nil: nothing.
func (s *side) draw() *harm {
	if s.odds == nil {
		return nil
	}
	whom := []string{"manager", "appliance", "both", "peer"}
	return &harm{s, whom[s.odds.IntN(len(whom))], s.odds.IntN(lastStep)}
}

// comes kills, if the run has come so far.
func (h *harm) comes(r *api.PlanRun) bool {
	ended := 0
	for i := range r.Steps {
		if r.Steps[i].Ended != nil {
			ended++
		}
	}
	if ended < h.after && r.Ended == nil {
		return false
	}
	h.t.Logf("%s: kill -9 of %s after %d steps of %s", h.name, h.who, ended, r.Operation)
	if h.who == "appliance" || h.who == "both" {
		h.killAgent("rocva")
	}
	of := h.side
	if h.who == "peer" {
		if of = h.a; of == h.side {
			of = h.b
		}
	}
	if h.who != "appliance" {
		of.msa.Kill()
		began := time.Now()
		of.start()
		of.sees(began)
	}
	return true
}

// sees waits until the manager has looked at its site since some moment: before, what
// it knows is what the one before it knew.
func (s *side) sees(since time.Time) {
	c := s.client()
	defer c.Close()
	s.until(s.name+"'s manager has looked at its site", func() bool {
		list, err := c.Inventories(s.t.Context())
		return err == nil && slices.ContainsFunc(list, func(i api.InventoryState) bool {
			return string(i.Site) == s.name && i.Seen != nil && i.Seen.After(since)
		})
	})
}

// killAgent kills the agent of one of the site's boxes; its manager starts it again.
func (s *side) killAgent(role string) {
	dir := s.path(s.name + "/boxes/" + role)
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(s.t, err)
	for _, p := range found {
		b, err := os.ReadFile(p)
		if words := strings.Split(string(b), "\x00"); err != nil || len(words) < 4 || words[1] != "appliance" || words[2] != "run" || words[3] != dir {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		must(s.t, err)
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
}
