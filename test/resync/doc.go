// Package resync tests, with a real host component and a real DRVA in one
// process, that a disk whose tracking state is lost becomes what the primary is
// again, whatever was lost, and that only what differs is shipped.
package resync
