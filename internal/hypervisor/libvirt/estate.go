package libvirt

import (
	"cmp"
	"context"
	"encoding/xml"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// PlaceURI names the part of a VM's metadata in which its users file it: libvirt
// has no folders and no tags of its own.
//
//	<holdfast:place xmlns:holdfast="urn:holdfast:place:1" folder="erp/prod">
//	  <tag>gold</tag>
//	</holdfast:place>
//
// A placeholder says besides which VM it stands for: for="UUID".
const PlaceURI = "urn:holdfast:place:1"

// Bounds of what a user may write there.
const (
	maxTags  = 64
	maxPlace = 255 // bytes of a folder or tag
)

// placeXML is a VM's place as metadata.
type placeXML struct {
	Folder string   `xml:"folder,attr"`
	For    string   `xml:"for,attr"`
	Tags   []string `xml:"tag"`
}

// place returns what is usable of it; nil is no place.
func (x *placeXML) place() (p hypervisor.Place) {
	if x == nil {
		return p
	}
	if f := strings.Trim(x.Folder, "/ "); len(f) <= maxPlace {
		p.Folder = f
	}
	for _, t := range x.Tags[:min(len(x.Tags), maxTags)] {
		if t = strings.TrimSpace(t); t != "" && len(t) <= maxPlace {
			p.Tags = append(p.Tags, t)
		}
	}
	slices.Sort(p.Tags)
	p.Tags = slices.Compact(p.Tags)
	if u, err := dr.ParseUUID(x.For); err == nil {
		p.For = dr.VMID{UUID: u}
	}
	return p
}

// networkXML is what we read of a network's description.
type networkXML struct {
	Name    string `xml:"name"`
	Forward *struct {
		Mode string `xml:"mode,attr"`
	} `xml:"forward"`
	IPs []struct {
		Address string `xml:"address,attr"`
		Netmask string `xml:"netmask,attr"`
		Prefix  int    `xml:"prefix,attr"`
	} `xml:"ip"`
}

// network translates a description.
func (x *networkXML) network() hypervisor.EstateNetwork {
	n := hypervisor.EstateNetwork{Name: x.Name, Isolated: x.Forward == nil}
	for _, ip := range x.IPs[:min(len(x.IPs), hypervisor.MaxNICs)] {
		a, err := netip.ParseAddr(ip.Address)
		if err != nil {
			continue
		}
		bits := ip.Prefix
		if m, err := netip.ParseAddr(ip.Netmask); err == nil && m.Is4() && bits == 0 {
			for _, b := range m.As4() {
				for ; b&0x80 != 0; b <<= 1 {
					bits++
				}
			}
		}
		if p, err := a.Prefix(bits); err == nil && bits > 0 {
			n.Subnets = append(n.Subnets, p)
		}
	}
	return n
}

// poolXML is what we read of a storage pool's description.
type poolXML struct {
	Name       string `xml:"name"`
	Capacity   uint64 `xml:"capacity"`
	Available  uint64 `xml:"available"`
	TargetPath string `xml:"target>path"`
}

// parseNetwork reads a network's description. The error's kind is Corrupt.
func parseNetwork(text string) (hypervisor.EstateNetwork, error) {
	var x networkXML
	if len(text) > maxXML || xml.Unmarshal([]byte(text), &x) != nil || x.Name == "" {
		return hypervisor.EstateNetwork{}, errs.New("libvirt.Survey", errs.Corrupt, "", "a network's description cannot be read")
	}
	return x.network(), nil
}

// parsePool reads a storage pool's description. The error's kind is Corrupt.
func parsePool(text string) (hypervisor.EstateDatastore, error) {
	var x poolXML
	if len(text) > maxXML || xml.Unmarshal([]byte(text), &x) != nil || x.Name == "" {
		return hypervisor.EstateDatastore{}, errs.New("libvirt.Survey", errs.Corrupt, "", "a storage pool's description cannot be read")
	}
	d := hypervisor.EstateDatastore{Name: x.Name, Size: bytesOf(x.Capacity), Free: bytesOf(x.Available)}
	if filepath.IsAbs(x.TargetPath) {
		d.Path = filepath.Clean(x.TargetPath)
	}
	return d, nil
}

// Survey lists the daemon's host, networks and storage pools.
func (p *Platform) Survey(ctx context.Context) (hypervisor.Estate, error) {
	const op = "libvirt.Survey"
	e, err := ask(ctx, p.conn, op, p.opt.Socket, surveyed)
	if err != nil {
		return hypervisor.Estate{}, err
	}
	slices.SortFunc(e.Networks, func(a, b hypervisor.EstateNetwork) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(e.Datastores, func(a, b hypervisor.EstateDatastore) int { return cmp.Compare(a.Name, b.Name) })
	return e, nil
}

// surveyed asks for everything. A network or pool that goes meanwhile is left out.
func surveyed(l *golibvirt.Libvirt) (e hypervisor.Estate, err error) {
	if e.Host.Name, err = l.ConnectGetHostname(); err != nil {
		return e, err
	}
	_, memory, cpus, _, _, _, _, _, err := l.NodeGetInfo()
	if err != nil {
		return e, err
	}
	e.Host.CPUs, e.Host.MemoryMiB = int(cpus), int64(memory>>10)
	nets, _, err := l.ConnectListAllNetworks(1, 0)
	if err != nil {
		return e, err
	}
	for _, n := range nets[:min(len(nets), hypervisor.MaxPlaces)] {
		if bubbleName.MatchString(n.Name) {
			continue // a recovery's own, which goes with it
		}
		text, err := l.NetworkGetXMLDesc(n, 0)
		if err != nil {
			continue
		}
		found, err := parseNetwork(text)
		if err != nil {
			return e, err
		}
		e.Networks = append(e.Networks, found)
	}
	pools, _, err := l.ConnectListAllStoragePools(1, 0)
	if err != nil {
		return e, err
	}
	for _, p := range pools[:min(len(pools), hypervisor.MaxPlaces)] {
		text, err := l.StoragePoolGetXMLDesc(p, 0)
		if err != nil {
			continue
		}
		found, err := parsePool(text)
		if err != nil {
			return e, err
		}
		e.Datastores = append(e.Datastores, found)
	}
	return e, nil
}

// bytesOf bounds an amount that somebody else counts.
func bytesOf(n uint64) int64 { return int64(min(n, 1<<62)) }

// Addresses asks the guest's agent, and without one libvirt's own leases.
func (v *liveVM) Addresses(ctx context.Context, agent bool) (map[string][]netip.Prefix, error) {
	const op = "libvirt.Addresses"
	found, err := ask(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) ([]golibvirt.DomainInterface, error) {
		if agent {
			if list, err := l.DomainInterfaceAddresses(v.ref, uint32(golibvirt.DomainInterfaceAddressesSrcAgent), 0); err == nil {
				return list, nil
			}
		}
		return l.DomainInterfaceAddresses(v.ref, uint32(golibvirt.DomainInterfaceAddressesSrcLease), 0)
	})
	if errs.Is(err, errs.Conflict) { // it does not run
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return addressesOf(found), nil
}

// addressesOf takes what a card can be told again: no loopback, no link-local.
func addressesOf(cards []golibvirt.DomainInterface) map[string][]netip.Prefix {
	out := map[string][]netip.Prefix{}
	for _, c := range cards[:min(len(cards), 4*hypervisor.MaxNICs)] {
		if len(c.Hwaddr) != 1 {
			continue
		}
		mac := strings.ToLower(c.Hwaddr[0])
		for _, a := range c.Addrs {
			ip, err := netip.ParseAddr(a.Addr)
			if err != nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.Zone() != "" || a.Prefix > uint32(ip.BitLen()) {
				continue
			}
			if len(out[mac]) < maxAddresses {
				out[mac] = append(out[mac], netip.PrefixFrom(ip, int(a.Prefix)))
			}
		}
		slices.SortFunc(out[mac], func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) })
	}
	return out
}

// maxAddresses bounds the addresses of one card that are told: a guest says how
// many it has.
const maxAddresses = 16
