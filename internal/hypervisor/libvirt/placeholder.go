package libvirt

import (
	"context"
	"encoding/xml"
	"regexp"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var (
	_ hypervisor.PlaceKeeper = (*Platform)(nil)
	_ hypervisor.Surveyor    = (*Platform)(nil)
	_ hypervisor.Addressed   = (*liveVM)(nil)
)

// noKernel is what a placeholder would boot. libvirt has no VM that cannot be
// started; one whose kernel does not exist is refused, in these words.
const noKernel = "/nonexistent/this-is-a-placeholder-of-holdfast-and-is-not-to-be-started"

// domainName is a name that libvirt takes.
var domainName = regexp.MustCompile(`^[^/\n\x00]{1,255}$`)

// PutPlaceholder defines a placeholder, as hypervisor.PlaceKeeper promises.
func (p *Platform) PutPlaceholder(ctx context.Context, h hypervisor.Placeholder) error {
	const op = "libvirt.PutPlaceholder"
	text, err := placeholderXML(h)
	if err != nil {
		return err
	}
	done, err := p.turn(ctx, op, h.ID, h.Name)
	if err != nil {
		return err
	}
	defer done()
	was, err := p.placeholder(ctx, op, h.ID)
	if err != nil {
		return err
	}
	if was != nil && was.Name != h.Name {
		// libvirt takes no other name for an id: it is made anew.
		if err := p.undefine(ctx, op, h.ID); err != nil {
			return err
		}
	}
	err = tell(ctx, p.conn, op, h.Name, func(l *golibvirt.Libvirt) error {
		_, err := l.DomainDefineXML(text)
		return err
	})
	if code(err) == golibvirt.ErrOperationFailed { // what libvirt says of a name that is taken
		return errs.E(op, errs.Exists, h.Name, err).WithRemedy("rename that VM, or give the placeholder another name in the VM's recovery settings")
	}
	return err
}

// RemovePlaceholder undefines one.
func (p *Platform) RemovePlaceholder(ctx context.Context, id dr.VMID) error {
	const op = "libvirt.RemovePlaceholder"
	done, err := p.turn(ctx, op, id, id.String())
	if err != nil {
		return err
	}
	defer done()
	if was, err := p.placeholder(ctx, op, id); err != nil || was == nil {
		return err
	}
	return p.undefine(ctx, op, id)
}

// placeholder finds what has an id; nothing is nil, and what is no placeholder a
// Conflict.
func (p *Platform) placeholder(ctx context.Context, op string, id dr.VMID) (*vmXML, error) {
	text, err := ask(ctx, p.conn, op, id.String(), func(l *golibvirt.Libvirt) (string, error) {
		d, err := l.DomainLookupByUUID(golibvirt.UUID(id.UUID))
		if err != nil {
			return "", err
		}
		return l.DomainGetXMLDesc(d, golibvirt.DomainXMLInactive)
	})
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := parseVM(text)
	if err != nil {
		return nil, err
	}
	if d.Metadata.Place.place().For.IsZero() {
		return nil, errs.New(op, errs.Conflict, d.Name, "the VM is no placeholder").WithRemedy("leave it, and see why it has a placeholder's id")
	}
	return d, nil
}

func (p *Platform) undefine(ctx context.Context, op string, id dr.VMID) error {
	err := tell(ctx, p.conn, op, id.String(), func(l *golibvirt.Libvirt) error {
		d, err := l.DomainLookupByUUID(golibvirt.UUID(id.UUID))
		if err != nil {
			return err
		}
		return l.DomainUndefineFlags(d, golibvirt.DomainUndefineManagedSave|golibvirt.DomainUndefineNvram)
	})
	if errs.Is(err, errs.NotFound) {
		err = nil
	}
	return err
}

// placeholderXML describes a VM without disks that libvirt refuses to start.
func placeholderXML(h hypervisor.Placeholder) (string, error) {
	invalid := func(words string) error { return errs.New("libvirt.PutPlaceholder", errs.Invalid, h.Name, words) }
	switch {
	case h.ID.IsZero() || h.For.IsZero() || h.ID == h.For:
		return "", invalid("a placeholder needs an id of its own, and that of the VM it stands for")
	case !domainName.MatchString(h.Name):
		return "", invalid("the name has characters libvirt does not take")
	case len(h.NICs) > hypervisor.MaxNICs || h.CPUs > hypervisor.MaxCPUs || h.MemoryMiB > hypervisor.MaxMemoryMiB || h.CPUs < 0 || h.MemoryMiB < 0:
		return "", invalid("more cards, processors or memory than a VM can have")
	}
	x := &libvirtxml.Domain{
		Type: "qemu", Name: h.Name, UUID: h.ID.String(),
		Memory: &libvirtxml.DomainMemory{Value: uint(max(h.MemoryMiB, hypervisor.MinMemoryMiB)), Unit: "MiB"},
		VCPU:   &libvirtxml.DomainVCPU{Value: uint(max(h.CPUs, 1))},
		OS: &libvirtxml.DomainOS{
			Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "pc", Type: "hvm"}, Kernel: noKernel,
		},
		Metadata: &libvirtxml.DomainMetadata{XML: placeText(h)},
		Devices: &libvirtxml.DomainDeviceList{
			Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
			MemBalloon:  &libvirtxml.DomainMemBalloon{Model: "none"},
		},
	}
	for _, n := range h.NICs {
		card := libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}}}
		if n.MAC != "" {
			card.MAC = &libvirtxml.DomainInterfaceMAC{Address: n.MAC}
		}
		if m := nicModels[n.Model]; m != "" {
			card.Model = &libvirtxml.DomainInterfaceModel{Type: m}
		}
		x.Devices.Interfaces = append(x.Devices.Interfaces, card)
	}
	text, err := x.Marshal()
	if err != nil {
		return "", invalid("it cannot be described: " + err.Error())
	}
	return text, nil
}

// placeText is a placeholder's place as metadata.
func placeText(h hypervisor.Placeholder) string {
	var folder strings.Builder
	if err := xml.EscapeText(&folder, []byte(h.Folder)); err != nil {
		folder.Reset() // a Builder takes everything
	}
	return `<holdfast:place xmlns:holdfast="` + PlaceURI + `" folder="` + folder.String() + `" for="` + h.For.String() + `"/>`
}
