package resync

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/iofilter"
)

// image copies the primary to a file at the DRVA's side, as it is now.
func (p *pair) image() string {
	p.t.Helper()
	b, err := os.ReadFile(p.path)
	must(p.t, err)
	path := filepath.Join(p.dir, "seed.raw")
	must(p.t, os.WriteFile(path, b, 0o600))
	return path
}

// seed is the disk's seed as the DRVA shows it.
func (p *pair) seed() drva.SeedStatus {
	p.t.Helper()
	for _, s := range p.srv.Status().Seeds {
		if s.Disk == p.disk {
			return s
		}
	}
	return drva.SeedStatus{}
}

func (p *pair) seeded(state string) {
	p.t.Helper()
	p.eventually("the seed is "+state, func() bool { return p.seed().State == state })
}

// TestSeed: a disk is seeded from an old image, in two goes and over the loss
// of an appliance with its log; then its host comes and ships what differs.
func TestSeed(t *testing.T) {
	rng := seeded(t)
	p := newPair(t, rng)
	image := p.image()
	p.behind(rng, 50) // the image is old
	vm := p.cfg.VMs[0].Config.ID
	p.startDRVA(true)
	must(t, p.srv.Seed(p.disk, vm, image))
	p.eventually("some of it is stored", func() bool { return p.seed().Stored > 0 })
	if p.srv.CancelSeed(p.disk) == nil {
		p.seeded("cancelled")
	}
	must(t, p.srv.Seed(p.disk, vm, image))
	p.seeded("done")
	first := p.seed()
	if first.Read != diskSize || first.Stored == 0 {
		t.Fatalf("%+v", first)
	}
	must(t, p.srv.Seed(p.disk, vm, image))
	p.seeded("done")
	if s := p.seed(); s.Read != diskSize || s.Stored != 0 {
		t.Fatalf("seeded again: %+v", s)
	}
	if cp := p.srv.Status().Checkpoints.LastPublished; cp != nil && len(cp.Disks) > 0 {
		t.Errorf("a checkpoint speaks of a disk no host has: %+v", cp)
	}
	p.endDRVA()
	p.startDRVA(false)
	p.startHost()
	p.synced()
	p.compared(iofilter.StreamStatus{})
	p.same()
	must(t, p.srv.Seed(p.disk, vm, image)) // too late
	p.seeded("failed")
	must(t, p.writes(t.Context(), rng, 20))
	p.same()
}

func TestSeedRefusals(t *testing.T) {
	p := newPair(t, seeded(t))
	p.startDRVA(true)
	vm := p.cfg.VMs[0].Config.ID
	if p.srv.Seed(dr.DiskID{}, vm, "x") == nil || p.srv.Seed(p.disk, vm, "") == nil || p.srv.CancelSeed(p.disk) == nil {
		t.Error("not refused")
	}
	must(t, p.srv.Seed(p.disk, vm, filepath.Join(p.dir, "nothing")))
	p.seeded("failed")
	if s := p.seed(); s.Error == "" || s.Remedy == "" {
		t.Errorf("%+v", s)
	}
}
