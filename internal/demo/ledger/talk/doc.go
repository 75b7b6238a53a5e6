// Package talk is the conversation between the ledger guest and the host over
// a serial line: one request a line, one reply a line.
//
//	host                     guest
//	                         VERIFY max=N bad=B cause=C    once, at boot
//	                         READY
//	PUT n cause [bytes]      COMMIT n                      row n is durable
//	STATUS                   STATUS max=N cause=C
//	SYNC                     SYNCED                        file systems written out
//	POWEROFF                 BYE                           clean end, power off
//	anything else            ERR words
//	                         FATAL words                   the guest gives up
//
// A serial line carries other things too: boot loader output, kernel messages,
// half a line from before somebody attached. So each side takes a line only
// when all of it is exactly of the form above, ignores the rest, never holds
// more than [MaxLine] bytes of it, and the guest starts every reply with a
// line break of its own.
//
// The package holds no state and starts no goroutine.
package talk
