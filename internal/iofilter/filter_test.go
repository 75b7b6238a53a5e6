package iofilter

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
)

// image makes a disk file of size bytes with some content.
func image(t testing.TB, dir, name string, size int) string {
	t.Helper()
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(fill(0xaa, 100000), int64(size)/2); err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir is a temporary directory short enough for sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// config protects one VM with one disk per size.
func config(t testing.TB, dir string, direct bool, sizes ...int) Config {
	t.Helper()
	c := Config{Domain: dr.DomainID{UUID: dr.NewUUID()}, Host: dr.HostID{UUID: dr.NewUUID()}, Name: "host1", RingBytes: 8 << 20}
	vm := VM{Config: dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: "vm1"}}
	for i, size := range sizes {
		name := "disk" + string(rune('0'+i))
		d := Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, Name: name, Path: image(t, dir, name+".raw", size), Socket: filepath.Join(dir, name+".sock"), Direct: direct}
		vm.Disks = append(vm.Disks, d)
		vm.Config.Disks = append(vm.Config.Disks, dr.VMDisk{ID: d.ID, Name: name})
	}
	c.VMs = []VM{vm}
	return c
}

// eventually waits for a condition in real time.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestDisksOverNBD writes through real sockets to real files, several
// connections and several requests each, while links break; in the end the
// DRVA's log rebuilds the files.
func TestDisksOverNBD(t *testing.T) {
	for _, c := range []struct {
		name   string
		direct bool
		ack    string
		sizes  []int
	}{
		{"buffered async", false, "async", []int{9<<20 + 512, 1 << 20}},
		{"buffered ordered", false, "ordered", []int{5 << 20}},
		{"direct async", true, "async", []int{8 << 20, 1 << 20}},
		{"direct sync", true, "sync", []int{4 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shortDir(t)
			cfg := config(t, dir, c.direct, c.sizes...)
			cfg.Ack = c.ack
			drva := newFakeDRVA()
			f, err := New(cfg, Options{Dial: drva.dial, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- f.Run(ctx) }()
			eventually(t, "sockets", func() bool { _, err := os.Stat(cfg.VMs[0].Disks[len(c.sizes)-1].Socket); return err == nil })
			hammer(t, &cfg, drva)
			eventually(t, "all synced", func() bool { return f.Status().State == Streaming })
			stop()
			if err := <-ran; err != nil {
				t.Fatal(err)
			}
			compareFiles(t, &cfg, drva)
			for _, d := range cfg.VMs[0].Disks {
				if _, err := os.Stat(d.Socket); err == nil {
					t.Errorf("socket %s was left behind", d.Socket)
				}
			}
			if err := drva.problems(); err != nil {
				t.Error(err)
			}
		})
	}
}

// hammer runs several clients per disk at random, breaking the link meanwhile.
func hammer(t *testing.T, cfg *Config, drva *fakeDRVA) {
	var wg sync.WaitGroup
	for i := range cfg.VMs[0].Disks {
		d := &cfg.VMs[0].Disks[i]
		for g := range 3 {
			wg.Go(func() {
				export := d.Name
				if g == 0 {
					export = "" // the default export
				}
				cl, err := nbd.Dial(t.Context(), "unix", d.Socket, nbd.DialOptions{Export: export})
				if err != nil {
					t.Error(err)
					return
				}
				defer cl.Close()
				var in sync.WaitGroup
				for q := range 4 {
					in.Go(func() { client(t, cl, source(uint64(i*100+g*10+q)), 40) })
				}
				in.Wait()
			})
		}
	}
	wg.Go(func() {
		for range 4 {
			time.Sleep(30 * time.Millisecond)
			drva.crash()
		}
	})
	wg.Wait()
}

// client issues n random requests.
func client(t *testing.T, cl *nbd.Client, rng interface{ IntN(int) int }, n int) {
	size := cl.Size()
	for range n {
		off := int64(rng.IntN(int(size))) &^ 511
		length := min(int64(1+rng.IntN(200))<<9, size-off)
		if rng.IntN(2) == 0 {
			off &^= 4095
			length = min((length+4095)&^4095, size-off)
		}
		var err error
		switch rng.IntN(10) {
		case 0:
			err = cl.WriteZeroes(t.Context(), off, length, 0)
		case 1:
			err = cl.Trim(t.Context(), off, length, 0)
		case 2:
			err = cl.Flush(t.Context())
		case 3:
			_, err = cl.ReadAt(t.Context(), make([]byte, length), off)
		default:
			_, err = cl.WriteAt(t.Context(), fill(byte(1+rng.IntN(255)), int(length)), off, nbd.Flags(rng.IntN(2)))
		}
		if err != nil {
			t.Errorf("at %d of %d bytes: %v", off, length, err)
			return
		}
	}
}

func compareFiles(t *testing.T, cfg *Config, drva *fakeDRVA) {
	t.Helper()
	for i, d := range cfg.VMs[0].Disks {
		want, err := os.ReadFile(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		got := drva.image(uint16(i), int64(len(want)))
		for at := 0; at < len(want); at += dr.BlockSize {
			end := min(at+dr.BlockSize, len(want))
			if !bytes.Equal(got[at:end], want[at:end]) {
				t.Fatalf("%s differs at block %d", d.Name, at/dr.BlockSize)
			}
		}
	}
}

// A sparse disk is copied by its map: holes cost one record each.
func TestHolesAreNotRead(t *testing.T) {
	dir := shortDir(t)
	cfg := config(t, dir, false, 3<<30)
	drva := newFakeDRVA()
	f, err := New(cfg, Options{Dial: drva.dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	eventually(t, "synced", func() bool { return f.Status().State == Streaming })
	s := f.Status()
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if n := drva.count(record.Zero, 0); n > 10 || s.Stream.SyncBytes > 2*syncWindow {
		t.Fatalf("%d zero records, %d bytes read of a disk with 100 kB in it", n, s.Stream.SyncBytes)
	}
	drva.mu.Lock()
	defer drva.mu.Unlock()
	covered := uint64(0)
	for _, l := range drva.log {
		if l.rec.Kind == record.Zero || l.rec.Kind == record.Data {
			covered += uint64(l.rec.Length)
		}
	}
	if covered != 3<<30 {
		t.Fatalf("the records cover %d bytes", covered)
	}
	if _, err := json.Marshal(s); err != nil {
		t.Fatal(err)
	}
}

func TestConfigErrorsSayWhatToChange(t *testing.T) {
	dir := shortDir(t)
	good := func() *Config { c := config(t, dir, false, 1<<20, 1<<20); return &c }
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.raw")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "disk0.raw"), filepath.Join(dir, "link.raw")); err != nil {
		t.Fatal(err)
	}
	for words, change := range map[string]func(*Config){
		"no domain":            func(c *Config) { c.Domain = dr.DomainID{} },
		"no host":              func(c *Config) { c.Host = dr.HostID{} },
		"host's name":          func(c *Config) { c.Name = "" },
		"no ack rule":          func(c *Config) { c.Ack = "eventually" },
		"4194304":              func(c *Config) { c.RingBytes = 1 },
		"1m0s":                 func(c *Config) { c.StallLimit = Duration(time.Minute) },
		"duplicate VM":         func(c *Config) { c.VMs = append(c.VMs, c.VMs[0]) },
		"has no id":            func(c *Config) { c.VMs[0].Disks[1].ID = dr.DiskID{} },
		"duplicate disk name":  func(c *Config) { c.VMs[0].Disks[1].Name = "disk0" },
		"duplicate disk " + "": func(c *Config) { c.VMs[0].Disks[1].ID = c.VMs[0].Disks[0].ID },
		"is named twice":       func(c *Config) { c.VMs[0].Disks[1].Path = filepath.Join(dir, "link.raw") },
		"cannot be found":      func(c *Config) { c.VMs[0].Disks[1].Path = filepath.Join(dir, "none.raw") },
		"primary is empty":     func(c *Config) { c.VMs[0].Disks[1].Path = empty },
		"duplicate socket":     func(c *Config) { c.VMs[0].Disks[1].Socket = dir + "/./disk0.sock" },
		"no socket":            func(c *Config) { c.VMs[0].Disks[1].Socket = "" },
		"longer than 107":      func(c *Config) { c.VMs[0].Disks[1].Socket = dir + "/" + strings.Repeat("x", 107) },
		"directory does not":   func(c *Config) { c.VMs[0].Disks[1].Socket = dir + "/none/a.sock" },
		"through an export":    func(c *Config) { c.VMs[0].Disks[1].Mirror = true },
		"no size for a disk":   func(c *Config) { c.VMs[0].Disks[1].Source = &Source{} },
		"cannot be its source": func(c *Config) {
			c.VMs[0].Disks[1].Source = &Source{Socket: c.VMs[0].Disks[1].Socket, Size: 1}
		},
		"source's socket has": func(c *Config) {
			c.VMs[0].Disks[1].Source = &Source{Socket: strings.Repeat("x", 108), Size: 1}
		},
		"the name of disk 1 must": func(c *Config) { c.VMs[0].Disks[1].Name = "" },
	} {
		c := good()
		change(c)
		err := c.Validate()
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), strings.TrimSpace(words)) || errs.RemedyOf(err) == "" {
			t.Errorf("%q: got %v, remedy %q", words, err, errs.RemedyOf(err))
		}
	}
}

func TestConfigIsJSON(t *testing.T) {
	dir := shortDir(t)
	c := config(t, dir, true, 1<<20)
	c.StallLimit = Duration(250 * time.Millisecond)
	c.SyncBandwidth, _ = BytesPerSecond(5e6)
	b, err := json.Marshal(c)
	if err != nil || !strings.Contains(string(b), `"stall_limit":"250ms"`) {
		t.Fatalf("%s, %v", b, err)
	}
	var got Config
	if err := json.Unmarshal(b, &got); err != nil || got.StallLimit != c.StallLimit || got.VMs[0].Disks[0] != c.VMs[0].Disks[0] ||
		got.SyncBandwidth.String() != "* 5MB/s" {
		t.Fatalf("%+v, %v", got, err)
	}
	for in, want := range map[string]string{
		`0`: "", `""`: "", `2000000`: "* 2MB/s", `"zone UTC; mon 08:00-18:00 1MB/s; * 9MB/s"`: "zone UTC; mon 08:00-18:00 1MB/s; * 9MB/s",
	} {
		var b Bandwidth
		if err := json.Unmarshal([]byte(in), &b); err != nil || b.String() != want || b.IsZero() != (want == "") {
			t.Errorf("%s: %q, %v", in, b.String(), err)
		}
	}
	for _, in := range []string{`-1`, `5`, `"fast"`, `true`, `[]`} {
		var b Bandwidth
		if err := json.Unmarshal([]byte(in), &b); err == nil {
			t.Errorf("%s: accepted as %q", in, b.String())
		}
	}
}

// A socket that is in use stops Run before anything is served.
func TestRunRefusesASocketInUse(t *testing.T) {
	dir := shortDir(t)
	cfg := config(t, dir, false, 1<<20, 1<<20)
	ln, err := net.Listen("unix", cfg.VMs[0].Disks[1].Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := New(cfg, Options{Dial: newFakeDRVA().dial})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Run(t.Context()); !errs.Is(err, errs.Exists) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(cfg.VMs[0].Disks[0].Socket); err == nil {
		t.Fatal("the other socket was left behind")
	}
}
