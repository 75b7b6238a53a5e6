package live

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/hypervisor/libvirt/libvirttest"
)

// passing is what libvirt writes into a running VM's definition by itself: the
// number of a disk's node, and an empty element where there was metadata.
var passing = regexp.MustCompile(`(?m) index='[0-9]+'|^ *<metadata/>\n`)

// definition is the VM's, as it runs and as it will start.
func definition(v *libvirttest.Site) string {
	return passing.ReplaceAllString(v.Virsh("dumpxml", vmName)+v.Virsh("dumpxml", vmName, "--inactive"), "")
}

// TestLibvirt: a guest of a libvirt daemon is protected and unprotected by each
// route; its definition is the same afterwards.
func TestLibvirt(t *testing.T) {
	// Without HOLDFAST_LIVE_N the default route alone: libvirt's own tests have both.
	for _, route := range always([]libvirt.Route{libvirt.RouteCopy, libvirt.RouteMonitor}) {
		t.Run(string(route), func(t *testing.T) {
			s := newSite(t)
			v := libvirttest.Start(t)
			image, err := ledger.BuildImage(t.Context())
			must(t, err)
			disk, serial := filepath.Join(v.Dir, "ledger.img"), filepath.Join(v.Dir, "serial")
			must(t, ledger.CopyImage(t.Context(), disk, image))
			v.Define(libvirttest.Guest{Name: vmName, Disks: []libvirttest.Disk{{Path: disk}}, Serial: serial})
			v.Virsh("start", vmName, "--paused")
			l := &load{t: t}
			l.attach(serial, func() { v.Virsh("resume", vmName) })
			l.start()
			s.startDRVA()
			s.useHost(map[string]any{"libvirt": v.Socket, "route": route})
			was := definition(v)

			in := pause(t, s.protect(vmName))
			s.whole(1)
			l.goesOn("it was protected")
			s.check(l, 1)
			before := picture(t, disk)
			out := pause(t, s.unprotect(vmName, "--release"))
			l.goesOn("it was unprotected")
			if now := definition(v); now != was {
				t.Errorf("the definition was\n%s\nand is\n%s", was, now)
			}
			shipped := s.status().Stream.Shipped
			s.protect(vmName)
			s.whole(1)
			thrifty(t, "protected again", s.status().Stream.Shipped-shipped, differing(t, before, disk))
			s.check(l, 1)
			s.unprotect(vmName)
			l.goesOn("it was unprotected for good")
			t.Logf("pause %v in, %v out, %d rows", in, out, l.rows())
			must(t, s.host.Stop(patience)) // it follows the VM no more
			l.powerOff()
			until(t, "the VM is off", func() bool { return strings.TrimSpace(v.Virsh("domstate", vmName)) == "shut off" })
			must(t, checkDisk(t.Context(), disk, l.rows()))
		})
	}
}
