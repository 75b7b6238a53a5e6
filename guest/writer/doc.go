// Command writer is the whole user space of a test guest that writes to its
// disks all the time and can tell afterwards, from outside, whether a write it
// was acknowledged is missing or torn. It is the init of an initial RAM file
// system (guest/build.sh makes it), so no root disk is needed.
//
// On each disk some workers write 4 KiB blocks with O_DIRECT, each in a region
// of its own, in an order that package pattern derives from the worker's
// number alone: whoever knows how many writes a worker was acknowledged knows
// what every block of its region holds. Each block carries its number and the
// write's number in every sector. Some writes are followed by a flush, and
// blocks written before are read back and compared all the while.
//
// The first serial port says, one line each:
//
//	READY disks=N              all workers have begun
//	P a,a,a,… slow=D           writes acknowledged so far per worker, slowest
//	                           write in microseconds since the last line
//	MOUNTED                    a file system is mounted, for an agent to freeze
//	FATAL words                a read returned what was not written, or an error
//	BYE a,a,a,…                the last counts; the machine powers off
//
// and it obeys STOP (finish what is in flight, say BYE, power off).
package main
