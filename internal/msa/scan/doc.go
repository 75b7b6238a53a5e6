// Package scan makes a store all that a fresh manager needs. The manager of the site
// that protects a domain keeps in the domain's container, sealed, what it knows of it:
// sites, stores, the domain, mappings, recovery settings, plans, and the VMs as the
// platform had them. Another manager, which knows nothing, reads that and imports it.
//
//	catalog, inventory ──Assemble──▶ Document ──Publisher──▶ container meta/settings/…
//	                                                               │ the site is lost
//	catalog, inventory ◀──Import── Document ◀──Decode── Settings ◀─┘
//
// A Document holds the objects as the YAML of `holdfast apply -f`, which is read as
// strictly, and no secret: credentials are names, and whoever imports stores them
// anew. The domain's DRVA is left out: it is lost with its site.
//
// [Import] never changes what is there. An object whose name is taken stays as it is,
// and one that names what is neither there nor imported is left out; both are told.
// It may be done again, with more documents, until nothing is left out.
package scan
