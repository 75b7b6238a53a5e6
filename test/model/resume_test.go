package model

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/sidecar"
	"holdfast/internal/nbd"
	"holdfast/test/rig"
)

// TestHostGoesOnBySidecar kills a host component, moves its VM to another host,
// and stops it in order; each time it counts what is copied again, and in the
// end the newest checkpoint is what the disks hold.
func TestHostGoesOnBySidecar(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, dr.Async.String(), 0)
	must(t, s.waitRecoverable(ctx, time.Time{}, calmLimit))
	s.waitClosed(ctx)
	for life, x := range []struct {
		what  string
		start func()
		most  uint64 // bytes copied
	}{
		{"killed", func() {}, sidecar.RegionSize},
		{"killed, and its VM started on another host", func() { s.renameHost(0) }, 2 * sidecar.RegionSize},
		{"stopped", nil, 0},
	} {
		// From above: what lies behind an open region is opened ahead.
		s.scribble(ctx, int64(5-2*life)*sidecar.RegionSize, byte(life+1))
		if x.start == nil {
			must(t, s.hosts[0].Stop(stopLimit))
		} else {
			s.killHost(0)
			x.start()
		}
		began := time.Now()
		must(t, s.startHost(ctx, 0))
		must(t, s.waitRecoverable(ctx, began, quiesceLimit))
		var st iofilter.Status
		must(t, control.CallLocal(ctx, s.hosts[0].socket, "/status", nil, &st))
		t.Logf("%s: %d bytes copied again, of %d", x.what, st.Stream.SyncBytes, diskSize*disksPerHost)
		if st.Stream.SyncBytes > x.most || x.most > 0 && st.Stream.SyncBytes == 0 {
			t.Errorf("%s: %d bytes copied again, at most %d were open", x.what, st.Stream.SyncBytes, x.most)
		}
	}
	cp, err := s.checkpoint(ctx, "final", quiesceLimit)
	must(t, err)
	must(t, s.shutDown())
	c, err := s.open(ctx)
	must(t, err)
	want, err := s.primaries()
	must(t, err)
	for _, p := range c.recoverable() {
		if p.ID != cp.ID {
			continue
		}
		img, err := c.restore(ctx, p)
		must(t, err)
		if diff := sameDisks(img, want); diff != "" {
			t.Errorf("the newest checkpoint is not what the disks hold:\n%s", diff)
		}
		return
	}
	t.Errorf("checkpoint %d is not in the container", cp.ID)
}

// waitClosed waits until the first host has no open region.
func (s *site) waitClosed(ctx context.Context) {
	s.T.Helper()
	must(s.T, rig.WaitStatus(ctx, s.hosts[0].socket, "no region is open", quiesceLimit, func(st *iofilter.Status) bool {
		for _, d := range st.Disks {
			if d.OpenBytes > 0 || d.NoSidecar {
				return false
			}
		}
		return len(st.Disks) == disksPerHost
	}))
}

// scribble writes some blocks of the first disk, of which no flush follows.
func (s *site) scribble(ctx context.Context, off int64, b byte) {
	s.T.Helper()
	c, err := nbd.Dial(ctx, "unix", s.sockets[0], nbd.DialOptions{Export: diskName(0), Timeout: opLimit})
	must(s.T, err)
	defer c.Close()
	buf := make([]byte, dr.BlockSize)
	for i := range buf {
		buf[i] = b
	}
	for i := range int64(16) {
		_, err := c.WriteAt(ctx, buf, off+i*3*dr.BlockSize, 0)
		must(s.T, err)
	}
}

// renameHost gives a host the identity of another machine that sees the same
// disks.
func (s *site) renameHost(i int) {
	s.T.Helper()
	h := s.hosts[i]
	b, err := os.ReadFile(h.config)
	must(s.T, err)
	var cfg rig.HostConfig
	must(s.T, json.Unmarshal(b, &cfg))
	cfg.Host, cfg.Name, cfg.TLS = s.CreateHost("elsewhere"), "elsewhere", s.Path("elsewhere-tls")
	s.WriteJSON(filepath.Base(h.config), cfg)
}
