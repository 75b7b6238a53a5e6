// Package power is disks to which bad things happen, of real parts: an NBD
// server in front of an image, a file that is its disk ([Device]), and, on a
// loop device, an ext4 file system ([Disk]).
//
//	image ◄─ nbdkit ◄─ nbdfuse ◄─ a file (◄─ loop device ◄─ ext4)
//
// The server can be killed: with a volatile write-back cache in it, what was
// flushed is in the image and the rest is gone, as after a loss of power. And
// it can answer every request with an error, for a while.
//
// For tests of what must survive that; needs root and the tools that "make
// deps" installs.
package power
