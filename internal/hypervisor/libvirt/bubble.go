package libvirt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// An isolated network is one of libvirt's that leads nowhere: a bridge without
// an address and without a way out, on which are the cards of the VMs that are
// kept under one work directory, as those of a test, and of a VM that is not
// kept alone. It is there while a VM is on it, and for as long as one is defined
// that may be started.
//
//	holdfast-SCOPE-NETWORK    each the first 8 hex digits of a SHA-256:
//	                          of the work directory or VM, of the recorded name
const bubblePrefix = "holdfast-"

var bubbleName = regexp.MustCompile(`^holdfast-[0-9a-f]{8}-[0-9a-f]{8}$`)

// isBubble reports whether a network of libvirt's is an isolated one of ours.
func isBubble(name string) bool { return bubbleName.MatchString(name) }

// scope begins the names of the isolated networks a VM can be on.
func (d *domain) scope() string {
	if d.spec.Keep {
		return scopeOf(d.spec.WorkDir)
	}
	return scopeOf(d.spec.Config.ID.String())
}

func scopeOf(what string) string { return bubblePrefix + short(what) + "-" }

// bubbleOf ends the name of the isolated network for a recorded one.
func bubbleOf(network string) string { return short(network) }

func short(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:4])
}

// bubbleXML describes an isolated network. Without an address the host is not on
// it, and without a way out there is nothing behind it.
func bubbleXML(name string) string { return "<network><name>" + name + "</name></network>" }

// bubbles lists the isolated networks of ours a VM's cards are on.
func (d *vmXML) bubbles() (names []string) {
	for _, n := range d.Devices.NICs {
		if name := n.Source.Network; isBubble(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// inflate makes the isolated networks that are not there. The caller holds
// p.nets until the VM is on them.
func (p *Provider) inflate(ctx context.Context, names []string) error {
	for _, name := range names {
		err := tell(ctx, p.conn, "libvirt.Start", "network "+name, func(l *golibvirt.Libvirt) error {
			n, err := l.NetworkLookupByName(name)
			if code(err) == golibvirt.ErrNoNetwork {
				_, err = l.NetworkCreateXML(bubbleXML(name))
				return err
			}
			if err != nil {
				return err
			}
			if active, err := l.NetworkIsActive(n); err != nil || active != 0 {
				return err
			}
			return l.NetworkCreate(n)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deflate removes the isolated networks of a scope that no VM is on any more, or
// is defined to be on.
func (p *Provider) deflate(ctx context.Context, scope string) error {
	const op = "libvirt.deflate"
	p.nets.Lock()
	defer p.nets.Unlock()
	all, err := ask(ctx, p.conn, op, "networks", func(l *golibvirt.Libvirt) ([]golibvirt.Network, error) {
		all, _, err := l.ConnectListAllNetworks(1, 0)
		return all, err
	})
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(n golibvirt.Network) bool { return !isBubble(n.Name) || !strings.HasPrefix(n.Name, scope) })
	if len(all) == 0 {
		return nil
	}
	used, err := p.bubblesInUse(ctx)
	if err != nil {
		return err
	}
	for _, n := range all {
		if used[n.Name] {
			continue
		}
		err := tell(ctx, p.conn, op, "network "+n.Name, func(l *golibvirt.Libvirt) error {
			kept, err := l.NetworkIsPersistent(n)
			if err == nil && kept != 0 {
				err = l.NetworkUndefine(n)
			}
			if err == nil {
				err = l.NetworkDestroy(n) // one that is not active is gone with its definition
			}
			if c := code(err); c == golibvirt.ErrNoNetwork || c == golibvirt.ErrOperationInvalid {
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bubblesInUse are the isolated networks that a VM is on, or is defined to be on.
func (p *Provider) bubblesInUse(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	refs, err := p.live.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		_, all, err := p.live.handle(ref).described(ctx)
		if err != nil {
			return nil, err
		}
		for _, w := range all {
			for _, name := range w.bubbles() {
				used[name] = true
			}
		}
	}
	return used, nil
}

// keepBubbles has libvirt keep the isolated networks of a VM that is defined.
func (p *Provider) keepBubbles(ctx context.Context, names []string) error {
	p.nets.Lock()
	defer p.nets.Unlock()
	for _, name := range names {
		err := tell(ctx, p.conn, "libvirt.Define", "network "+name, func(l *golibvirt.Libvirt) error {
			n, err := l.NetworkLookupByName(name)
			if err != nil {
				return err
			}
			kept, err := l.NetworkIsPersistent(n)
			if err == nil && kept == 0 {
				text, e := l.NetworkGetXMLDesc(n, 0) // its bridge and identity are to stay
				if e != nil {
					return e
				}
				n, err = l.NetworkDefineXML(text)
			}
			if err != nil {
				return err
			}
			return l.NetworkSetAutostart(n, 1)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
