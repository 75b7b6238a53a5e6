package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/store/storetest/versitygw"
	"holdfast/test/power"
	"holdfast/test/rig"
)

const (
	guests   = 2 // the ledger's dependence is between two
	logQuota = 512 << 20
	bucket   = "chaos"

	logMiB     = 768 // the DRVA's disk: its quota, and what a file system takes
	sidecarMiB = 16  // a host's disk for its sidecars

	// Waits end with their conditions; these only end what hangs.
	startLimit   = 2 * time.Minute
	protectLimit = 5 * time.Minute
)

// site is a protected site and its store. Its methods are called by one
// goroutine.
type site struct {
	*rig.Site
	clocks  clocks
	url     string // of the container, past the network
	store   *versitygw.Server
	toStore *rig.Exchange // between site and store
	toDRVA  *rig.Exchange // between hosts and DRVA

	drva     *rig.Process
	log      *power.Disk // of the DRVA
	hosts    [guests]*rig.Process
	disks    [guests]*power.Device // the primaries
	sidecars [guests]*power.Disk
	vms      [guests]dr.VMConfig
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSite makes store, container, certificates, disks and configurations, and
// starts the boxes. The test's end removes it.
func newSite(t *testing.T, image string) *site {
	t.Helper()
	s := &site{Site: rig.NewSite(t, "chaos-"), clocks: clocks{began: time.Now()}}
	for _, x := range []**rig.Exchange{&s.toDRVA, &s.toStore} {
		var err error
		*x, err = rig.NewExchange(0)
		must(t, err)
		t.Cleanup((*x).Close)
	}
	s.makeContainer()
	s.log = power.Up(t, logMiB)
	s.DRVAConfig("drva", s.url, s.logDir(), logQuota)
	for i := range guests {
		s.makeHost(i, image)
	}
	t.Cleanup(s.End) // before their disks go
	must(t, s.startDRVA(t.Context()))
	for i := range guests {
		must(t, s.startHost(t.Context(), i))
	}
	return s
}

func (s *site) logDir() string    { return filepath.Join(s.log.Path(), "log") }
func (s *site) sock(i int) string { return s.Path(hostName(i) + ".sock") }
func (s *site) nbd(i int) string  { return s.Path(fmt.Sprintf("guest%d.nbd", i+1)) }
func hostName(i int) string       { return fmt.Sprintf("host%d", i+1) }

// makeContainer runs the store and makes a container in it.
func (s *site) makeContainer() {
	s.T.Helper()
	s.store = versitygw.Start(s.T, versitygw.Options{Dir: s.Path("s3")})
	must(s.T, s.store.MakeBucket(s.T.Context(), bucket, false))
	_, address, _ := strings.Cut(s.store.Endpoint, "://")
	s.toStore.Route(address)
	s.T.Setenv("AWS_ACCESS_KEY_ID", s.store.AccessKey)
	s.T.Setenv("AWS_SECRET_ACCESS_KEY", s.store.SecretKey)
	s.T.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	s.url = "s3://" + bucket + "?endpoint=http://" + s.toStore.Addr() + "&region=" + versitygw.Region + "&path-style=true"
	s.CreateDomain(s.url)
}

// makeHost makes one host with its guest's disk and its configuration.
func (s *site) makeHost(i int, image string) {
	s.T.Helper()
	name := hostName(i)
	id := s.CreateHost(name)
	disk, behind := s.Path(fmt.Sprintf("guest%d.raw", i+1)), s.Path(fmt.Sprintf("guest%d.img", i+1))
	must(s.T, ledger.CopyImage(s.T.Context(), behind, image))
	st, err := os.Stat(behind)
	must(s.T, err)
	s.disks[i] = power.NewDevice(s.T, behind, disk)
	s.sidecars[i] = power.Up(s.T, sidecarMiB)
	s.vms[i] = ledger.Config(fmt.Sprintf("guest%d", i+1), dr.VMID{UUID: dr.NewUUID()}, dr.DiskID{UUID: dr.NewUUID()}, st.Size())
	s.WriteJSON(name+".json", rig.HostConfig{
		Config: iofilter.Config{Domain: s.Domain, Host: id, Name: name, SidecarDir: s.sidecars[i].Path(), VMs: []iofilter.VM{{
			Config: s.vms[i], Disks: []iofilter.Disk{{ID: s.vms[i].Disks[0].ID, Name: s.vms[i].Disks[0].Name, Path: disk, Socket: s.nbd(i)}},
		}}},
		DRVA: s.toDRVA.Addr(), TLS: s.Path(name + "-tls"), Status: s.sock(i),
	})
}

// startDRVA starts the DRVA and waits until hosts can reach it, which is before
// it has reached its store.
func (s *site) startDRVA(ctx context.Context) (err error) {
	if s.drva, err = s.StartOnClock("drva", "drva", "--config", s.Path("drva.json")); err != nil {
		return err
	}
	address, err := s.WaitDRVA(ctx, "drva", startLimit)
	s.toDRVA.Route(address)
	return err
}

// startHost starts a host's component and waits until it serves its disk.
func (s *site) startHost(ctx context.Context, i int) (err error) {
	name := hostName(i)
	if s.hosts[i], err = s.StartOnClock(name, "iofilter", "--config", s.Path(name+".json")); err != nil {
		return err
	}
	return s.WaitHost(ctx, name, startLimit)
}

// waitProtected waits for a published group checkpoint, taken after t, at which
// both disks can be recovered.
func (s *site) waitProtected(ctx context.Context, after time.Time) error {
	const what = "a recoverable group checkpoint is published"
	return rig.WaitStatus(ctx, s.Path("drva.sock"), what, protectLimit, func(st *rig.DRVAStatus) bool {
		return st.Recoverable(guests) && s.clocks.earliest(st.Checkpoints.LastGroup).After(after)
	})
}

// nextPoint waits for a published checkpoint at which both disks can be
// recovered and which was cut after this call, whatever the DRVA's clock says.
func (s *site) nextPoint(ctx context.Context) error {
	var first dr.CheckpointID
	return rig.WaitStatus(ctx, s.Path("drva.sock"), "a further checkpoint is published", protectLimit, func(st *rig.DRVAStatus) bool {
		if !st.Recoverable(guests) {
			return false
		}
		id := st.Checkpoints.LastPublished.ID
		if first == 0 {
			first = id
		}
		return id >= first+2 // the next one may have been open
	})
}
