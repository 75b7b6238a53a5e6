// Package sites is two sites as their admins have them: a libvirt daemon each, a
// manager each, which runs the appliances of its machine, and two stores. Everything
// is done by the product's commands. A guest at A keeps a ledger of what it was told
// is committed; what boots elsewhere is asked for it.
package sites
