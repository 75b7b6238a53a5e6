package wan

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store"
	"holdfast/internal/store/s3"
	"holdfast/internal/store/storetest/versitygw"
	"holdfast/test/rig"
)

const (
	size    = 16 << 20 // of the disk
	writers = 4
	every   = 4 * time.Millisecond // between a writer's writes: together 4 MB/s at most
	quota   = 512 << 20
	bucket  = "wan"
	look    = 50 * time.Millisecond
	limit   = 4 * time.Minute
	// calm is the RPO at which a link has caught up: the interval, and the time
	// an object takes.
	calm = 3.0
)

// kind is a sort of link.
type kind struct{ name, netem string }

var kinds = []kind{
	{"a wire", ""},
	{"40 ms there and back", "delay 20ms"},
	{"40 ms, 1 % lost each way", "delay 20ms loss 1%"},
	{"40 ms, 1 % lost, 50 Mbit/s", "delay 20ms loss 1% rate 50mbit"},
	{"200 ms, 100 Mbit/s", "delay 100ms rate 100mbit"},
}

// TestMain lets the test binary serve as the product's.
func TestMain(m *testing.M) {
	rig.Main()
	os.Exit(m.Run())
}

// site is a site with one DRVA and one host, in a network of its own.
type site struct {
	*rig.Site
	container *journal.Container // by a way of its own
	disk      dr.DiskID
	socket    string
}

// newSite makes the site in namespace a and the store, which is reached in
// namespace b.
func newSite(t *testing.T, a, b *rig.Namespace) *site {
	t.Helper()
	s := &site{Site: rig.NewSite(t, "wan-"), disk: dr.DiskID{UUID: dr.NewUUID()}}
	gw := versitygw.Start(t, versitygw.Options{Dir: s.Path("s3"), KeepAlive: true})
	must(t, gw.MakeBucket(t.Context(), bucket, false))
	t.Setenv("AWS_ACCESS_KEY_ID", gw.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", gw.SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	a.IP(t, "address", "add", "10.213.0.1/24", "dev", "wan")
	b.IP(t, "address", "add", "10.213.0.2/24", "dev", "wan")
	a.IP(t, "link", "set", "wan", "up")
	b.IP(t, "link", "set", "wan", "up")
	var ln net.Listener
	must(t, b.Do(func() (err error) {
		ln, err = net.Listen("tcp", "10.213.0.2:9000")
		return err
	}))
	x := rig.ExchangeOn(ln, 0)
	t.Cleanup(x.Close)
	x.Route(strings.TrimPrefix(gw.Endpoint, "http://"))
	at := func(endpoint string) string {
		return "s3://" + bucket + "?endpoint=" + endpoint + "&region=" + versitygw.Region + "&path-style=true&insecure=true"
	}
	s.CreateDomain(at(gw.Endpoint))
	u, err := store.ParseURL(at(gw.Endpoint))
	must(t, err)
	st, err := s3.Open(t.Context(), u, s3.Options{})
	must(t, err)
	s.container, err = journal.Open(t.Context(), st, s.Identity)
	must(t, err)
	s.start(a, at("http://10.213.0.2:9000"))
	return s
}

// start starts the boxes in the site's network.
func (s *site) start(a *rig.Namespace, url string) {
	t := s.T
	t.Helper()
	host, vm := s.CreateHost("host"), dr.VMID{UUID: dr.NewUUID()}
	box := func(name, command string) {
		must(t, a.Do(func() error {
			_, err := s.Start(name, command, "--config", s.Path(name+".json"))
			return err
		}))
	}
	s.DRVAConfig("drva", url, s.Path("log"), quota)
	box("drva", "drva")
	address, err := s.WaitDRVA(t.Context(), "drva", limit)
	must(t, err)
	must(t, os.WriteFile(s.Path("disk.raw"), make([]byte, size), 0o600))
	s.socket = s.Path("disk.nbd")
	s.WriteJSON("host.json", rig.HostConfig{
		Config: iofilter.Config{Domain: s.Domain, Host: host, Name: "host", VMs: []iofilter.VM{{
			Config: dr.VMConfig{ID: vm, Name: "vm", CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios", NICs: []dr.NIC{},
				Disks: []dr.VMDisk{{ID: s.disk, Name: "disk0", Bus: "virtio"}}},
			Disks: []iofilter.Disk{{ID: s.disk, Name: "disk0", Path: s.Path("disk.raw"), Socket: s.socket}},
		}}},
		DRVA: address, TLS: s.Path("host-tls"), Status: s.Path("host.sock"),
	})
	box("host", "iofilter")
	s.await("the disk is protected", func(st *rig.DRVAStatus) bool { return st.RPO >= 0 })
}

func (s *site) await(what string, ok func(*rig.DRVAStatus) bool) {
	s.T.Helper()
	must(s.T, rig.WaitStatus(s.T.Context(), s.Path("drva.sock"), what, limit, ok))
}

// watch looks at the RPO for some time and returns what it saw, rising.
func (s *site) watch(d time.Duration) []float64 {
	s.T.Helper()
	var seen []float64
	end := time.Now().Add(d)
	s.await("the time is over", func(st *rig.DRVAStatus) bool {
		seen = append(seen, st.RPO)
		return time.Now().After(end)
	})
	slices.Sort(seen)
	return seen
}

// restore rebuilds the disk at the newest checkpoint, and tells when that was
// taken.
func (s *site) restore() (disk []byte, at time.Time) {
	s.T.Helper()
	ctx := s.T.Context()
	h, err := s.container.History(ctx, journal.HistoryOptions{})
	must(s.T, err)
	cp, err := h.Find("latest")
	must(s.T, err)
	img, err := h.Resolve(ctx, cp)
	must(s.T, err)
	out := filepath.Join(s.T.TempDir(), "disk.raw")
	_, err = rocva.Full(ctx, s.container, img, []rocva.Target{{Disk: s.disk, Path: out}}, rocva.Options{})
	must(s.T, err)
	disk, err = os.ReadFile(out)
	must(s.T, err)
	return disk, cp.Time
}

func TestFarStore(t *testing.T) {
	steady, outage, which := 4*time.Second, 4*time.Second, kinds[3:4]
	if os.Getenv("HOLDFAST_WAN") == "long" {
		steady, outage, which = 20*time.Second, 30*time.Second, kinds
	}
	a, b := rig.NewNamespace(t, "hfa"), rig.NewNamespace(t, "hfb")
	l := newLink(t, a, b)
	s := newSite(t, a, b)
	load := rig.NewCounters(t, size/dr.BlockSize)
	wait := load.Write(t, s.socket, "disk0", writers, every)
	for _, k := range which {
		l.set(k.netem)
		s.await("the link is calm", func(st *rig.DRVAStatus) bool { return st.RPO < calm })
		before := load.Count()
		rpo := s.watch(steady)
		wrote := float64(load.Count()-before) * dr.BlockSize / 1e6 / steady.Seconds()
		var bytes rig.DRVAStatus
		l.set("loss 100%")
		s.await("the outage lasts", func(st *rig.DRVAStatus) bool {
			bytes = *st
			return st.RPO > outage.Seconds()
		})
		healed := time.Now()
		l.set(k.netem)
		s.await("the log is drained", func(st *rig.DRVAStatus) bool { return st.RPO < calm })
		t.Logf("%-28s %.1f MB/s written, RPO p50 %.2f s, p99 %.2f s; behind an outage of %v (%d MiB in the log) drained in %.1f s", k.name, wrote,
			rpo[len(rpo)/2], rpo[len(rpo)*99/100], outage, bytes.Log.Used>>20, time.Since(healed).Seconds())
		acked := load.Acked()
		now := time.Now()
		s.await("a checkpoint of what was acknowledged", func(st *rig.DRVAStatus) bool { return st.Checkpoints.LastGroup.After(now) })
		disk, _ := s.restore()
		must(t, rig.MissingSince(disk, acked, 0))
	}
	wait()
	if load.Count() == 0 {
		t.Fatal("nothing was written")
	}
}
