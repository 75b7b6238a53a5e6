package rocva

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/guest"
	"holdfast/internal/msa/site"
)

// setCard sets a card's addresses in a Linux guest: $1 is its name, then come pairs of a
// word and its value. It needs a shell and iproute2. A resolver that is managed, a link
// then, is asked by resolvectl, if there is one; else resolv.conf is written.
const setCard = `set -eu
dev=$1; shift
ip link set dev "$dev" up
ip addr flush dev "$dev" scope global
dns= suffixes=
while [ $# -gt 0 ]; do
	case $1 in
	address) ip addr add "$2" dev "$dev" ;;
	gateway) ip route replace default via "$2" dev "$dev" ;;
	gateway6) ip -6 route replace default via "$2" dev "$dev" ;;
	dns) dns="$dns $2" ;;
	suffix) suffixes="$suffixes $2" ;;
	esac
	shift 2
done
[ -n "$dns$suffixes" ] || exit 0
if [ -L /etc/resolv.conf ] && command -v resolvectl >/dev/null; then
	[ -z "$dns" ] || resolvectl dns "$dev" $dns
	[ -z "$suffixes" ] || resolvectl domain "$dev" $suffixes
	exit 0
fi
{
	[ -z "$suffixes" ] || echo "search$suffixes"
	for s in $dns; do echo "nameserver $s"; done
} >/etc/resolv.conf`

// address tells a guest what one card is to have, unless it has just that. has is what the
// guest has now. Kinds: Invalid (the guest cannot), NotFound (it has no such card), those
// of hypervisor.Guest.
func address(ctx context.Context, g hypervisor.Guest, mac string, c *site.NICConfig, has []guest.Interface) error {
	const op = "rocva.Address"
	i := slices.IndexFunc(has, func(i guest.Interface) bool { return i.MAC == mac })
	if i < 0 {
		return errs.New(op, errs.NotFound, mac, "the guest sees no such card").WithRemedy("see whether it has a driver for it")
	}
	if c.DHCP || c.Autoconf {
		return errs.New(op, errs.Invalid, mac, "guests are told fixed addresses alone").WithRemedy("keep the guest's own setting (ip: keep), or give addresses")
	}
	if !changes(c, has[i].Addresses) {
		return nil
	}
	var out strings.Builder
	status, err := guest.Run(ctx, g, guest.Command{
		Args: append([]string{"/bin/sh", "-c", setCard, "holdfast", has[i].Name}, words(c)...),
		Env:  []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}, &out)
	if err == nil && status != 0 {
		err = errs.New(op, errs.Unavailable, has[i].Name, fmt.Sprintf("the guest could not set it, status %d: %s", status, strings.TrimSpace(out.String()))).
			WithRemedy("it needs /bin/sh and iproute2")
	}
	return err
}

// words are a card's setting as setCard reads it.
func words(c *site.NICConfig) (out []string) {
	for _, a := range c.Addresses {
		out = append(out, "address", a.String())
	}
	for _, g := range c.Gateways {
		out = append(out, map[bool]string{true: "gateway", false: "gateway6"}[g.Is4()], g.String())
	}
	for _, d := range c.DNS {
		out = append(out, "dns", d.String())
	}
	for _, s := range c.Suffixes {
		out = append(out, "suffix", s)
	}
	return out
}

// changes reports whether a card has other addresses than it is to have. Those of the
// link alone are the guest's own.
func changes(c *site.NICConfig, has []netip.Prefix) bool {
	own := slices.DeleteFunc(slices.Clone(has), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	if len(own) != len(c.Addresses) {
		return true
	}
	return slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return !slices.Contains(own, p) })
}
