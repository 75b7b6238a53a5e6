// Package arch holds no code of the product, only the tests that keep its
// shape: which package may import which (the floors of ARCHITECTURE.md), that
// every package and exported name is documented, how large files and functions
// may grow, and that the numbered steps of docs/write-path.md and
// docs/recovery-path.md are where the documents say.
package arch
