// Package dr holds the nouns of disaster recovery as Holdfast speaks them:
// identities, the units of capture, the protected domain's disks and VMs,
// checkpoints, and the ack rules. Every other package takes its words from
// here; GLOSSARY.md says what each means and must not mean.
//
// Values are plain data, comparable where they are identities, and safe to
// share once built. The package imports only the standard library.
package dr
