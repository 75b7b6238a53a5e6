// Package instant boots real guests from a container before their disks are
// there: it publishes a guest's image, serves it on demand from a store that
// answers late, and switches the running guest to the plain file. The tests and
// the benchmark share it.
package instant
