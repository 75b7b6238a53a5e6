// Package libvirttest runs real libvirt daemons for tests: each one a site of
// its own, with its own network, its own /etc/libvirt, /var/lib/libvirt,
// /run/libvirt and /var/cache/libvirt, so that several run beside each other
// and beside the machine's own, with VMs, networks and bridges of the same
// names.
//
// A [Site] is a pair of namespaces, network and mount, that one small process
// holds open. It ends them when its standard input ends, however the test ends:
// then it kills every process whose network is the site's, and by nothing but
// that are daemons, guests and dnsmasq found. Nothing of a site has a name
// outside of it, but its directory.
//
// It needs root, and Debian's libvirt-daemon-system, libvirt-clients,
// dnsmasq-base and iproute2. What is missing is an error.
package libvirttest
