package recovery

import (
	"context"
	"net"
	"os"
	"testing"

	"holdfast/internal/durable"
)

// TestReaddress: a DRVA whose port somebody has taken meanwhile gets another one, the
// host component with it; one whose port is free, or that runs, keeps it.
func TestReaddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	busy := taken.Addr().String()
	free, err := freeAddress()
	check(t, err)
	for name, c := range map[string]struct {
		drva, host string // as they are configured
		runs       bool
		keeps      bool
		ends       int // of the host component
	}{
		"free":                             {free, free, false, true, 0},
		"taken":                            {busy, busy, false, false, 1},
		"taken by itself":                  {busy, busy, true, true, 0},
		"killed between the two rewrites":  {free, busy, false, true, 1},
		"killed between them, taken again": {busy, free, false, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ends := 0
			r := &Run{dir: t.TempDir(), rec: &Record{Launched: []Process{{Name: "host"}}}, s: &Service{fs: durable.OS{}, opts: Options{Site: &Site{
				Running: func(box string, _ ...string) []Process {
					if c.runs && box == drvaBox.name {
						return []Process{{Name: box}}
					}
					return nil
				},
				End: func(_ context.Context, p Process) error {
					if p.Name != hostBox.name {
						t.Errorf("%s was ended", p.Name)
					}
					ends++
					return nil
				},
			}}}}
			check(t, os.Mkdir(r.protectPath(), 0o700))
			check(t, r.writeJSON(r.protectPath(drvaBox.config), map[string]any{"listen": c.drva, "quota": 1 << 30}))
			check(t, r.writeJSON(r.protectPath(hostBox.config), map[string]any{"drva": c.host}))
			check(t, r.readdress(t.Context()))
			cfg, err := r.readJSON(r.protectPath(drvaBox.config))
			check(t, err)
			host, err := r.readJSON(r.protectPath(hostBox.config))
			check(t, err)
			if (cfg["listen"] == c.drva) != c.keeps || !c.runs && host["drva"] != cfg["listen"] || ends != c.ends {
				t.Errorf("listens at %v, the host dials %v, which was ended %d times", cfg["listen"], host["drva"], ends)
			}
			if cfg["quota"] != float64(1<<30) {
				t.Errorf("the quota is %v now", cfg["quota"])
			}
		})
	}
}
