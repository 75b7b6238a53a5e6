package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/api"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/site"
)

// What people wait for at a manager of a large site, whose VMs are scripted.
var (
	managerFigures = []string{"msa_start_s", "msa_list_ms", "plan_1000vm_over_ideal"}
	syncFigures    = []string{"inventory_sync_2000_s"}
)

const (
	estateVMs     = 2000
	estateDomains = 200
	estatePlans   = 50
	bigPlan       = 100 // domains of the first plan, with 1,000 VMs
	bootsOfPlan   = 100 // at once
	fakeBoot      = time.Second
	quickBoot     = 50 * time.Millisecond
	managerRounds = 5
	listsOfEach   = 40
)

// manage is `bench manage`: a site's manager over scripted VMs, in a process of its
// own. It prints where it is, and ends with ctx.
func manage(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("manage", flag.ContinueOnError)
	dir := fs.String("dir", "", "directory of the manager's own")
	name := fs.String("site", "", "its site")
	vms := fs.Int("vms", 0, "VMs of its site")
	boot := fs.Duration("boot", fakeBoot, "how long a boot takes")
	imported := fs.String("import", "", "a site whose 2,000 VMs are entered besides")
	if err := fs.Parse(args); err != nil {
		return err
	}
	r, err := replica.Open(ctx, replica.Options{
		Data: *dir, Site: site.Name(*name), Listen: "127.0.0.1:0", Release: "bench",
		Effects:  &fakesite.Site{Store: &fakesite.Memory{}, Boot: *boot},
		Platform: func(s *site.Site) (inventory.Provider, error) { return fake.Filled(s.Name, *vms), nil },
	})
	if err != nil {
		return err
	}
	if *imported != "" {
		inv := fake.Estate(site.Name(*imported), estateVMs)
		if err := r.DB.Tx(ctx, func(tx *db.Tx) error { _, err := inventory.Import(ctx, tx, &inv); return err }); err != nil {
			return errors.Join(err, r.Close())
		}
	}
	fmt.Println(r.Address(), r.Fingerprint(), r.SetupToken())
	return r.Run(ctx)
}

// manager is a manager in a child, and who asks it.
type manager struct {
	*proc
	address, fingerprint, setup string
}

// startManager starts one and returns when it says where it is.
func (b *bench) startManager(ctx context.Context, dir string, args ...string) (*manager, error) {
	p, err := b.sp.start("manager", append([]string{b.self, "manage", "-dir", dir}, args...)...)
	if err != nil {
		return nil, err
	}
	m := &manager{proc: p}
	err = await(ctx, readyWithin, "the manager's address", func() (bool, error) {
		f, err := os.Open(p.log)
		if err != nil {
			return false, err
		}
		defer f.Close()
		line, err := bufio.NewReader(f).ReadString('\n')
		if errors.Is(err, io.EOF) {
			return false, p.alive()
		}
		words := append(strings.Fields(line), "")
		if err != nil || len(words) < 3 {
			return false, fmt.Errorf("the manager says %q: %w", line, err)
		}
		m.address, m.fingerprint, m.setup = words[0], words[1], words[2]
		return true, nil
	})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return m, nil
}

func (m *manager) client(token string) (*api.Client, error) {
	return api.Dial(api.Options{Address: m.address, Fingerprint: m.fingerprint, Token: token})
}

// admin makes the first administrator, logs in, and returns the session's token.
func (m *manager) admin(ctx context.Context) (token string, err error) {
	c, err := m.client("")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	const password = "crow lamp tundra 7"
	if err := c.Setup(ctx, m.setup, "root", password); err != nil {
		return "", err
	}
	return c.Login(ctx, "root", password)
}

// managerStage measures the manager.
func (b *bench) managerStage(ctx context.Context) error {
	if b.wants(managerFigures...) {
		if err := b.largeSite(ctx); err != nil {
			return err
		}
	}
	if b.wants(syncFigures...) {
		return b.syncInventory(ctx)
	}
	return nil
}

// largeSite measures start, lists and a large recovery of 2,000 VMs in 200 domains
// with 50 plans.
func (b *bench) largeSite(ctx context.Context) (err error) {
	dir := filepath.Join(b.dir, "manager")
	m, err := b.startManager(ctx, dir, "-site", "b", "-import", "a")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.stop(), os.RemoveAll(dir)) }()
	token, err := m.admin(ctx)
	if err != nil {
		return err
	}
	c, err := m.client(token)
	if err != nil {
		return err
	}
	if err := errors.Join(furnish(ctx, c), c.Close()); err != nil {
		return err
	}
	var starts, lists []float64
	for range min(b.rounds, managerRounds) {
		if err := m.stop(); err != nil {
			return err
		}
		began := time.Now()
		if m, err = b.startManager(ctx, dir, "-site", "b", "-boot", b.fakeBoot().String()); err != nil {
			return err
		}
		if c, err = m.client(token); err != nil {
			return err
		}
		if _, err := c.Plans().List(ctx, api.ListOptions{}); err != nil {
			return err
		}
		starts = append(starts, time.Since(began).Seconds())
		took, err := listAll(ctx, c, b.sized(listsOfEach, 2))
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
		lists = append(lists, took...)
	}
	against := fmt.Sprintf("%d VMs, %d domains, %d plans on SQLite", estateVMs, estateDomains, estatePlans)
	b.figures = append(b.figures,
		spread(managerFigures[0], "s", against+"; from the process's start to the first list", bound{"<", 10}, starts),
		spread(managerFigures[1], "ms", against+"; a page of 100 VMs, of 100 domains, of 50 plans, over HTTPS", bound{"<", 100}, lists))
	if c, err = m.client(token); err != nil {
		return err
	}
	defer c.Close()
	return b.largePlan(ctx, c, m)
}

// fakeBoot is how long a scripted boot takes.
func (b *bench) fakeBoot() time.Duration {
	if b.quick {
		return quickBoot
	}
	return fakeBoot
}

// furnish enters sites, domains, mappings and plans.
func furnish(ctx context.Context, c *api.Client) error {
	meta := func(format string, n int) site.Meta { return site.Meta{Name: site.Name(fmt.Sprintf(format, n))} }
	var all error
	put := func(err error) { all = errors.Join(all, err) }
	for _, n := range []site.Name{"a", "b"} {
		_, err := c.Sites().Put(ctx, &site.Site{Meta: site.Meta{Name: n}, Platform: site.Fake})
		put(err)
	}
	_, err := c.Stores().Put(ctx, &site.Store{Meta: site.Meta{Name: "s"}, URL: "file:///srv/dr"})
	put(err)
	subnet := func(s string) mapping.Subnet { return mapping.Subnet{Prefix: netip.MustParsePrefix(s)} }
	_, err = c.Mappings().Put(ctx, &mapping.Mappings{Meta: site.Meta{Name: "m"}, From: "a", To: "b", Networks: []mapping.NetworkPair{{From: "prod", To: "prod"}},
		Rules: []mapping.Rule{{From: subnet("10.1.0.0/16"), To: subnet("10.2.0.0/16")}}, Default: mapping.Default{Pool: "cluster", Datastore: "flash"}})
	put(err)
	each := estateVMs / estateDomains
	for i := range estateDomains {
		d := &site.ProtectedDomain{Meta: meta("d-%03d", i), From: "a", To: "b", Stores: []site.Name{"s"},
			Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}}
		for v := range each {
			d.VMs = append(d.VMs, site.Ref(fmt.Sprintf("vm-%05d", i*each+v)))
		}
		_, err := c.Domains().Put(ctx, d)
		put(err)
	}
	for i := range estatePlans {
		p := &plan.Plan{Meta: meta("p-%02d", i), From: "a", To: "b", MaxBoots: bootsOfPlan}
		from, n := 2*i, 2
		if i == 0 {
			from, n = 0, bigPlan
		}
		for d := range n {
			p.Domains = append(p.Domains, site.Name(fmt.Sprintf("d-%03d", from+d)))
		}
		_, err := c.Plans().Put(ctx, p)
		put(err)
	}
	return all
}

// listAll times pages of lists, in milliseconds.
func listAll(ctx context.Context, c *api.Client, times int) (took []float64, err error) {
	o := api.ListOptions{Limit: 100}
	for range times {
		for _, list := range []func() error{
			func() error { _, err := c.VMs(ctx, "a", api.VMOptions{Limit: 100}); return err },
			func() error { _, err := c.Domains().List(ctx, o); return err },
			func() error { _, err := c.Plans().List(ctx, o); return err },
		} {
			began := time.Now()
			if err := list(); err != nil {
				return nil, err
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
	}
	return took, nil
}

// largePlan recovers 1,000 VMs whose boots take a second each, 100 at once.
func (b *bench) largePlan(ctx context.Context, c *api.Client, m *manager) error {
	const name, op = "p-00", "forced-disaster"
	p, err := c.Plans().Get(ctx, name)
	if err != nil {
		return err
	}
	if _, err := c.StartRun(ctx, name, "", api.StartRun{RunQuestion: api.RunQuestion{Operation: op},
		Confirm: &api.ConfirmRun{Plan: name, Version: uint64(p.Version), Operation: op, Alone: true}}); err != nil {
		return err
	}
	var st api.PlanStatus
	if err := await(ctx, 10*time.Minute, "the plan's recovery", func() (bool, error) {
		st, err = c.PlanStatus(ctx, name)
		return err == nil && !st.Running, err
	}); err != nil {
		return err
	}
	if st.State != string(plan.BeforeCommit) {
		return fmt.Errorf("the plan is %s: %s", st.State, st.Reason)
	}
	run, err := c.PlanRun(ctx, st.Run)
	if err != nil {
		return err
	}
	var first, last time.Time
	ups := 0
	for _, s := range run.Steps {
		if s.Kind != string(plan.KindPowerOn) && s.Kind != string(plan.KindWaitAgent) || s.Began == nil || s.Ended == nil {
			continue
		}
		if first.IsZero() || s.Began.Before(first) {
			first = *s.Began
		}
		if s.Ended.After(last) {
			last = *s.Ended
		}
		if s.Kind == string(plan.KindPowerOn) {
			ups++
		}
	}
	vms := bigPlan * estateVMs / estateDomains
	if ups != vms {
		return fmt.Errorf("%d VMs were started of %d", ups, vms)
	}
	ideal := time.Duration(vms/bootsOfPlan) * b.fakeBoot()
	peak, err := peakMemoryOf(strconv.Itoa(m.cmd.Process.Pid))
	if err != nil {
		return err
	}
	b.remark("the manager of %d VMs, %d domains and %d plans had at most %.0f MiB in memory, a recovery of %d VMs in %.1f s included", estateVMs, estateDomains, estatePlans, peak, vms, last.Sub(first).Seconds())
	b.figures = append(b.figures, spread(managerFigures[2], "ratio", fmt.Sprintf("%d scripted boots of %s, %d at once: %s", vms, b.fakeBoot(), bootsOfPlan, ideal), bound{"<", 1.5},
		[]float64{last.Sub(first).Seconds() / ideal.Seconds()}))
	return nil
}

// syncInventory times how long a new manager takes to know 2,000 VMs.
func (b *bench) syncInventory(ctx context.Context) error {
	var took []float64
	for i := range min(b.rounds, managerRounds) {
		one, err := b.syncOnce(ctx, filepath.Join(b.dir, fmt.Sprintf("sync-%d", i)))
		if err != nil {
			return err
		}
		took = append(took, one.Seconds())
	}
	b.figures = append(b.figures, spread(syncFigures[0], "s", fmt.Sprintf("from the site being configured to all %d VMs of its platform in the database", estateVMs), bound{}, took))
	return nil
}

func (b *bench) syncOnce(ctx context.Context, dir string) (took time.Duration, err error) {
	m, err := b.startManager(ctx, dir, "-site", "a", "-vms", fmt.Sprint(estateVMs))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.stop(), os.RemoveAll(dir)) }()
	token, err := m.admin(ctx)
	if err != nil {
		return 0, err
	}
	c, err := m.client(token)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	if _, err := c.Sites().Put(ctx, &site.Site{Meta: site.Meta{Name: "a"}, Platform: site.Fake}); err != nil {
		return 0, err
	}
	err = await(ctx, readyWithin, "the inventory", func() (bool, error) {
		list, err := c.Inventories(ctx)
		return len(list) == 1 && list[0].VMs == estateVMs, err
	})
	return time.Since(began), err
}
