// Package recover holds the tests of whole recoveries: real guests that write a
// ledger, the product's own processes, and its command line. A site is protected,
// tested, moved, lost, rolled back and moved home again; each time what was
// acknowledged before the checkpoint must be there, and nothing else may be left
// behind.
package recover
