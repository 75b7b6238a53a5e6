// Package sites is two sites as their admins have them: a libvirt daemon each, a
// manager each, which runs the appliances of its machine, and two stores. Everything
// is done by the product's commands. A guest at A keeps a ledger of what it was told
// is committed; what boots elsewhere is asked for it.
//
// make sites-long goes on: home again, and a disaster that a fresh manager knows of from
// the store alone. In each run of a plan it kills a process then: a manager, the
// recovery appliance's agent, or both, after a step that is drawn from a seed.
package sites
