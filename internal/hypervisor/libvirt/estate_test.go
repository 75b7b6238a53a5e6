package libvirt

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// TestEstateDescriptions: what is read of networks, pools and places.
func TestEstateDescriptions(t *testing.T) {
	n, err := parseNetwork(`<network><name>lan</name><forward mode='nat'/><ip address='10.9.8.1' netmask='255.255.254.0'/><ip family='ipv6' address='fd00::1' prefix='64'/><ip address='x'/></network>`)
	want := []netip.Prefix{netip.MustParsePrefix("10.9.8.0/23"), netip.MustParsePrefix("fd00::/64")}
	if err != nil || n.Isolated || !slices.Equal(n.Subnets, want) {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := parseNetwork(`<network><name>dark</name></network>`); err != nil || !n.Isolated || n.Subnets != nil {
		t.Errorf("%+v, %v", n, err)
	}
	d, err := parsePool(`<pool type='dir'><name>images</name><capacity unit='bytes'>99999999999999999999</capacity><target><path>/a/../b</path></target></pool>`)
	if !errs.Is(err, errs.Corrupt) {
		t.Errorf("a capacity that is none: %+v, %v", d, err)
	}
	d, err = parsePool(`<pool type='dir'><name>images</name><capacity>18446744073709551615</capacity><available>5</available><target><path>/a/../b</path></target></pool>`)
	if err != nil || d.Path != "/b" || d.Size != 1<<62 || d.Free != 5 {
		t.Errorf("%+v, %v", d, err)
	}
	p := (&placeXML{Folder: "/erp/prod/", For: "nobody", Tags: []string{"b", " a ", "a", "", strings.Repeat("x", 300)}}).place()
	if p.Folder != "erp/prod" || !slices.Equal(p.Tags, []string{"a", "b"}) || !p.For.IsZero() {
		t.Errorf("%+v", p)
	}
	got := addressesOf([]golibvirt.DomainInterface{
		{Hwaddr: golibvirt.OptString{"52:54:00:AA:BB:CC"}, Addrs: []golibvirt.DomainIPAddr{{Addr: "10.0.0.5", Prefix: 24}, {Addr: "fe80::1", Prefix: 64}, {Addr: "10.0.0.6", Prefix: 99}}},
		{Addrs: []golibvirt.DomainIPAddr{{Addr: "127.0.0.1", Prefix: 8}}},
	})
	if len(got) != 1 || !slices.Equal(got["52:54:00:aa:bb:cc"], []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}) {
		t.Errorf("%v", got)
	}
}

// TestPlaceholderDescription: it has no disk, what would be markup is text, and what is
// no placeholder is refused.
func TestPlaceholderDescription(t *testing.T) {
	h := hypervisor.Placeholder{ID: dr.VMID{UUID: dr.NewUUID()}, For: dr.VMID{UUID: dr.NewUUID()}, Name: `a"&<b>`, Folder: `x"/><evil a="`, NICs: []dr.NIC{{Network: `n'"`, Model: "virtio-net-pci"}}}
	text, err := placeholderXML(h)
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseVM(text)
	if err != nil {
		t.Fatal(err)
	}
	if p := d.Metadata.Place.place(); d.Name != h.Name || p.Folder != strings.Trim(h.Folder, "/ ") || p.For != h.For || len(d.disks()) != 0 || d.config().NICs[0].Network != `n'"` {
		t.Errorf("%+v %+v", d, p)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil || x.OS.Kernel != noKernel {
		t.Errorf("%v: %+v", err, x.OS)
	}
	for what, bad := range map[string]func(*hypervisor.Placeholder){
		"its own VM": func(h *hypervisor.Placeholder) { h.For = h.ID }, "a path": func(h *hypervisor.Placeholder) { h.Name = "a/b" }, "no name": func(h *hypervisor.Placeholder) { h.Name = "" },
		"too many cards": func(h *hypervisor.Placeholder) { h.NICs = make([]dr.NIC, hypervisor.MaxNICs+1) }, "less than nothing": func(h *hypervisor.Placeholder) { h.MemoryMiB = -1 },
	} {
		c := h
		bad(&c)
		if _, err := placeholderXML(c); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzEstate: whatever a daemon describes, it is read within bounds, or is an error.
func FuzzEstate(f *testing.F) {
	f.Add(`<network><name>lan</name><forward mode='nat'/><ip address='10.9.8.1' netmask='255.255.254.0'/></network>`)
	f.Add(`<pool type='dir'><name>images</name><capacity>5</capacity><target><path>/b</path></target></pool>`)
	f.Add(`<domain><name>a</name><uuid>6f9c2f2a-0000-4000-8000-000000000000</uuid><metadata><p:place xmlns:p="urn:holdfast:place:1" folder="a/b" for="x"><tag>t</tag></p:place></metadata></domain>`)
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseNetwork(text); err == nil {
			for _, s := range n.Subnets {
				if !s.IsValid() {
					t.Errorf("subnet %v", s)
				}
			}
		}
		if d, err := parsePool(text); err == nil && (d.Size < 0 || d.Free < 0 || d.Path != "" && d.Path[0] != '/') {
			t.Errorf("%+v", d)
		}
		if d, err := parseVM(text); err == nil {
			if p := d.Metadata.Place.place(); len(p.Folder) > maxPlace || len(p.Tags) > maxTags || !slices.IsSorted(p.Tags) {
				t.Errorf("%+v", p)
			}
		}
	})
}
