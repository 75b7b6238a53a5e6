// Package writerguest is the host's side of the test guest guest/writer: the
// arguments that boot it, what it says on its serial port, and the check of the
// disks it wrote to. guest/writer says what the lines mean, package pattern
// what the blocks must hold.
//
// It starts no process and needs no package testing, so that programs can use
// it as well as tests. A [Guest] has one goroutine, which follows the serial
// port and ends with it.
package writerguest
