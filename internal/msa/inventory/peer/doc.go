// Package peer is the inventory of a paired site, as its manager has it: a provider
// that asks another manager. The recovery site knows by it the VMs it is to recover,
// while there is a site to ask; afterwards, what it was told last.
//
// A manager tells which generation its inventory has; only when that is another one is
// the inventory read, page by page. Placeholders are the own site's matter: this
// provider keeps none.
package peer
