// Package nbdtest is what every way of serving a disk over NBD must pass:
// buffered or direct, by either transmission loop, with or without layers.
// [Run] takes a function that serves a fresh disk and puts it through the
// contract over real connections.
package nbdtest
