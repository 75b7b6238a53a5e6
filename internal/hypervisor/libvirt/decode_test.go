package libvirt

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
)

const described = `<domain type='kvm' id='4'><name>web</name><uuid>6c656467-6572-4000-8000-000000000001</uuid>
<metadata><other:x xmlns:other='urn:other'/><holdfast:protection xmlns:holdfast='urn:holdfast:libvirt:1'>
<holdfast:disk name="vda" state="attached" route="blockcopy" socket="/s" export="e" format="raw" size="1048576" type="file" werror="" rerror="report">
<holdfast:source file="/a&amp;b"><holdfast:seclabel model="dac"/></holdfast:source></holdfast:disk></holdfast:protection></metadata>
<memory unit='KiB'>2097152</memory><vcpu placement='static' current='2'>4</vcpu>
<os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/sdz' index='2'/><target dev='sda' bus='sata'/></disk>
<disk type='network' device='disk' snapshot='no'><driver name='qemu' type='raw' cache='none'><metadata_cache><max_size>1</max_size></metadata_cache></driver>
<source protocol='nbd' name='e' index='3'><host transport='unix' socket='/s'/></source><target dev='vda' bus='virtio'/><boot order='1'/></disk>
<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan'/><model type='virtio'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel></devices></domain>`

func TestDescription(t *testing.T) {
	d, err := parseVM(described)
	if err != nil {
		t.Fatal(err)
	}
	c := d.config()
	if c.Name != "web" || c.CPUs != 2 || c.MemoryMiB != 2048 || c.Machine != "pc-q35-7.2" || c.Firmware != "uefi" || !d.agent() {
		t.Errorf("configuration %+v", c)
	}
	if len(c.Disks) != 2 || c.Disks[0].Name != "vda" || c.Disks[0].Bus != "virtio" || c.Disks[1].Name != "sda" || c.Disks[1].Bus != "ide" {
		t.Errorf("disks %+v, want vda, which boots, before sda", c.Disks)
	}
	if len(c.NICs) != 1 || c.NICs[0].Model != "virtio-net-pci" || c.NICs[0].Network != "lan" {
		t.Errorf("cards %+v", c.NICs)
	}
	w := &view{vmXML: d, active: true}
	if at := w.standing(d.disk("vda")); at != inXML {
		t.Errorf("vda stands at %d", at)
	}
	orig, err := d.Metadata.Protection.find("vda").original()
	if err != nil || orig.path() != "/a&b" || orig.format() != "raw" {
		t.Errorf("original %+v, %v", orig, err)
	}
}

// TestRewrite changes a disk's source and policy, and nothing else.
func TestRewrite(t *testing.T) {
	d, err := parseVM(described)
	if err != nil {
		t.Fatal(err)
	}
	x := d.disk("vda")
	r, err := newRecord(x, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if want := "<source protocol='nbd' name='e'><host transport='unix' socket='/s'/></source>"; r.Source != want {
		t.Errorf("remembered %s, want %s", r.Source, want)
	}
	text, err := x.rewrite("file", "<source file='/a'/>", policy{WError: "stop"})
	if err != nil {
		t.Fatal(err)
	}
	want := "<disk type='file' device='disk' snapshot='no'><driver name='qemu' type='raw' cache='none' error_policy='stop'>" +
		"<metadata_cache><max_size>1</max_size></metadata_cache></driver><source file='/a'/>" +
		"<target dev='vda' bus='virtio'></target><boot order='1'></boot></disk>"
	if text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

// TestRecords adds and removes records.
func TestRecords(t *testing.T) {
	var p *protection
	if p.find("vda") != nil || p.without("vda").String() != "" {
		t.Error("nothing remembered is something")
	}
	p = p.with(record{Name: "vda", State: attaching}).with(record{Name: "vdb"}).with(record{Name: "vda", State: attached})
	if len(p.Disks) != 2 || p.find("vda").State != attached {
		t.Errorf("%+v", p)
	}
	if p = p.without("vda").without("vdb"); p.String() != "" {
		t.Errorf("%s is left", p)
	}
	bad := &record{Name: "vda", Type: "file", Source: "<source"}
	if _, err := bad.original(); !errs.Is(err, errs.Corrupt) || errs.RemedyOf(err) == "" {
		t.Errorf("a broken record: %v", err)
	}
}

// TestFraming feeds lengths that cannot be.
func TestFraming(t *testing.T) {
	for _, length := range []uint32{0, 27, 28, 1000, maxPacket, maxPacket + 1, 1 << 31} {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			message := binary.BigEndian.AppendUint32(nil, length)
			if length < 2000 && length > 4 {
				message = append(message, make([]byte, length-4)...)
			}
			for _, b := range append(message, 0xff, 0xff) { // byte by byte, and half of a bad one behind
				if _, err := there.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		f := &framed{Conn: here}
		here.SetDeadline(time.Now().Add(time.Minute))
		got, err := io.ReadAll(f)
		possible := length >= packetHeader && length <= maxPacket
		if possible != (err == nil) {
			t.Errorf("a message of %d bytes: %d read, %v", length, len(got), err)
		}
		if !possible && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a message of %d bytes: %v", length, err)
		}
	}
}

func FuzzDescription(f *testing.F) {
	f.Add(described)
	f.Add(strings.Replace(described, "seclabel", "xmlns:a='b'", 1))
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseVM(text)
		if err != nil {
			if !errs.Is(err, errs.Corrupt) {
				t.Fatalf("%v has kind %v", err, errs.KindOf(err))
			}
			return
		}
		_ = d.config()
		w := &view{vmXML: d, active: true}
		for _, x := range d.disks() {
			_, _, _ = w.standing(x), x.problem(), x.stops()
			if r, err := newRecord(x, 1); err == nil {
				_, _ = r.original()
				if text, err := x.rewrite("file", "<source file='/a'/>", policy{WError: "stop", RError: "stop"}); err == nil {
					if err := xml.Unmarshal([]byte(text), new(diskXML)); err != nil {
						t.Fatalf("%s: %v", text, err)
					}
				}
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"return":[{"node-name":"a","drv":"raw","cache":{"direct":true}}],"id":"libvirt-1"}`)
	f.Add(`{"error":{"class":"GenericError","desc":"no"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var nodes []blockNode
		if err := decodeAnswer(text, "x", &nodes); err != nil && !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Conflict) {
			t.Fatalf("%v has kind %v", err, errs.KindOf(err))
		}
	})
}

func FuzzFraming(f *testing.F) {
	f.Add([]byte{0, 0, 0, 28, 1}, 1)
	f.Fuzz(func(t *testing.T, wire []byte, piece int) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			there.Write(wire)
		}()
		fr := &framed{Conn: here}
		var got bytes.Buffer
		io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{fr}, make([]byte, 1+piece&1023))
		here.Close()
		if !bytes.HasPrefix(wire, got.Bytes()) {
			t.Fatal("the bytes are others")
		}
	})
}
