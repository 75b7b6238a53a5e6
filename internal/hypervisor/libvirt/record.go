package libvirt

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"

	"holdfast/internal/errs"
)

// MetadataURI names our part of a VM's <metadata>. The form of what stands
// there is in doc.go; another form gets another URI.
const MetadataURI = "urn:holdfast:libvirt:1"

// metadataKey is the prefix under which libvirt shows it.
const metadataKey = "holdfast"

// protection is what the VM's metadata say of us.
type protection struct {
	XMLName xml.Name `xml:"protection"`
	Disks   []record `xml:"disk"`
}

// record says what was done to one disk, and what was there before.
type record struct {
	Name   string `xml:"name,attr"`
	State  string `xml:"state,attr"`
	Route  string `xml:"route,attr"`
	Socket string `xml:"socket,attr"`
	Export string `xml:"export,attr"`
	Format string `xml:"format,attr"`           // original driver type
	Size   int64  `xml:"size,attr"`             // bytes
	Type   string `xml:"type,attr"`             // original type of the disk
	Halted bool   `xml:"halted,attr,omitempty"` // a driver stopped the VM, and is to let it go on
	policy
	Source string `xml:",innerxml"` // original <source>, whole
}

// policy is how a disk's <driver> treats errors and discards; "": as by default.
type policy struct {
	WError  string `xml:"werror,attr"`
	RError  string `xml:"rerror,attr"`
	Discard string `xml:"discard,attr"`
}

// States of a record.
const (
	attaching  = "attaching"   // begun; the disk may be anywhere
	attached   = "attached"    // done
	detaching  = "detaching"   // as attaching
	failedOpen = "failed-open" // the guest is on its own disk, and the XML says otherwise
)

// Routes.
const (
	routeCopy    = "blockcopy"
	routeMonitor = "monitor"
	routeMirror  = "mirror"
)

// find returns the record of a disk, or nil. p may be nil.
func (p *protection) find(disk string) *record {
	if p == nil {
		return nil
	}
	for i := range p.Disks {
		if p.Disks[i].Name == disk {
			return &p.Disks[i]
		}
	}
	return nil
}

// halted names a disk for whose sake a driver stopped the VM, or none. p may be
// nil.
func (p *protection) halted() string {
	if p != nil {
		for _, r := range p.Disks {
			if r.Halted {
				return r.Name
			}
		}
	}
	return ""
}

// with returns p with r in place of the record of its disk; p may be nil.
func (p *protection) with(r record) *protection {
	next := p.without(r.Name)
	next.Disks = append(next.Disks, r)
	return next
}

// without returns p without the record of disk.
func (p *protection) without(disk string) *protection {
	next := new(protection)
	if p == nil {
		return next
	}
	for _, r := range p.Disks {
		if r.Name != disk {
			next.Disks = append(next.Disks, r)
		}
	}
	return next
}

// String renders p, empty when there is nothing to say.
func (p *protection) String() string {
	if len(p.Disks) == 0 {
		return ""
	}
	b, err := xml.Marshal(p)
	if err != nil {
		panic("libvirt: strings and numbers always marshal: " + err.Error())
	}
	return string(b)
}

// plain takes our prefix off elements: libvirt puts it on all that is in our
// part of the metadata, a <source> included.
func plain(text string) (string, error) {
	dec := xml.NewDecoder(strings.NewReader(text))
	var b strings.Builder
	for {
		t, err := dec.RawToken()
		switch t := t.(type) {
		case nil:
			if errors.Is(err, io.EOF) {
				return strings.TrimSpace(b.String()), nil
			}
			return "", errs.E("libvirt.plain", errs.Corrupt, "", err)
		case xml.StartElement:
			b.WriteString("<" + tag(t.Name.Local, t.Attr) + ">")
		case xml.EndElement:
			b.WriteString("</" + t.Name.Local + ">")
		case xml.CharData:
			b.WriteString(escape(strings.TrimSpace(string(t))))
		}
	}
}

// original returns the disk as it was described before.
func (r *record) original() (*diskXML, error) {
	x := new(diskXML)
	text := "<disk type='" + escape(r.Type) + "' device='disk'>" + r.Source + "</disk>"
	if err := xml.Unmarshal([]byte(text), x); err != nil || x.path() == "" && r.Route != routeMirror {
		return nil, errs.New("libvirt.record", errs.Corrupt, r.Name, "the VM's metadata do not say where the disk was").
			WithRemedy("put the disk's <source> right by 'virsh edit', then remove the metadata of " + MetadataURI)
	}
	x.Driver.Type = r.Format
	return x, nil
}

// newRecord remembers what x is.
func newRecord(x *diskXML, size int64) (record, error) {
	r := record{
		Name: x.Target.Dev, State: attaching, Format: x.format(), Size: size, Type: x.Type,
		policy: policy{WError: x.Driver.WError, RError: x.Driver.RError, Discard: x.Driver.Discard},
	}
	parts, err := x.children()
	if err != nil {
		return record{}, err
	}
	for _, p := range parts {
		if p.start.Name.Local == "source" {
			p.drop("index") // of the run, not of the disk
			r.Source = p.String()
		}
	}
	return r, nil
}

// element is a child of <disk>: its tag, and the text behind the tag.
type element struct {
	start xml.StartElement
	rest  string // content and end tag
}

// String renders the element.
func (e *element) String() string {
	return "<" + tag(e.start.Name.Local, e.start.Attr) + ">" + e.rest
}

// set gives an attribute a value; "" removes it.
func (e *element) set(name, value string) {
	e.drop(name)
	if value != "" {
		e.start.Attr = append(e.start.Attr, xml.Attr{Name: xml.Name{Local: name}, Value: value})
	}
}

func (e *element) drop(name string) {
	var kept []xml.Attr
	for _, a := range e.start.Attr {
		if a.Name.Local != name {
			kept = append(kept, a)
		}
	}
	e.start.Attr = kept
}

// tag renders the inside of a start tag.
func tag(name string, attrs []xml.Attr) string {
	var b strings.Builder
	b.WriteString(name)
	for _, a := range attrs {
		b.WriteString(" " + a.Name.Local + "='" + escape(a.Value) + "'")
	}
	return b.String()
}

// escape makes s fit for an attribute.
func escape(s string) string {
	var b bytes.Buffer
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic("libvirt: a buffer takes everything: " + err.Error())
	}
	return b.String()
}

// children cuts the disk's description into its elements.
func (x *diskXML) children() ([]element, error) {
	text := "<disk>" + x.Inner + "</disk>"
	dec := xml.NewDecoder(strings.NewReader(text))
	var all []element
	depth, from := 0, int64(0)
	for {
		t, err := dec.Token()
		if err != nil {
			if depth == 0 && len(all) > 0 {
				return all, nil
			}
			return nil, errs.E("libvirt.children", errs.Corrupt, x.Target.Dev, err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth++; depth == 2 {
				all, from = append(all, element{start: t.Copy()}), dec.InputOffset()
			}
		case xml.EndElement:
			if depth--; depth == 1 {
				e := &all[len(all)-1]
				// A tag that ends itself has no text behind it.
				if e.rest = text[from:dec.InputOffset()]; e.rest == "" {
					e.rest = "</" + t.Name.Local + ">"
				}
			}
		}
	}
}

// rewrite describes the disk with another type, source and policy, and all else
// as it is.
func (x *diskXML) rewrite(typ, source string, to policy) (string, error) {
	parts, err := x.children()
	if err != nil {
		return "", err
	}
	attrs := []xml.Attr{{Name: xml.Name{Local: "type"}, Value: typ}, {Name: xml.Name{Local: "device"}, Value: "disk"}}
	var b strings.Builder
	b.WriteString("<" + tag("disk", append(attrs, x.Attrs...)) + ">")
	for _, p := range parts {
		switch p.start.Name.Local {
		case "source":
			b.WriteString(source)
			continue
		case "backingStore":
			continue // empty, as the disk is raw; a pivot leaves one in the definition
		case "driver":
			p.set("error_policy", to.WError)
			p.set("rerror_policy", to.RError)
			p.set("discard", to.Discard)
		}
		b.WriteString(p.String())
	}
	b.WriteString("</disk>")
	return b.String(), nil
}

// exportSource describes an export as a disk's <source>. A libvirt that does
// not know <reconnect> ignores it; what it is for is then done by harden.
func exportSource(socket, export string) string {
	return "<source protocol='nbd' name='" + escape(export) + "'><host transport='unix' socket='" + escape(socket) +
		"'/><reconnect delay='" + strconv.Itoa(reconnectSeconds) + "'/></source>"
}

// target describes where a block copy goes. It says nothing of unmapping.
func target(typ, source string) string {
	return "<disk type='" + typ + "' device='disk'><driver name='qemu' type='raw'/>" + source + "</disk>"
}
