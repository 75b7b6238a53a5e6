// Package nbd serves and reads disks over the Network Block Device protocol:
// fixed newstyle handshake, structured replies, several connections to one
// export with one shared order, optional TLS.
//
// [Server] accepts connections and runs one transmission loop per connection.
// A loop parses requests in place, hands each as an [Op] to the export's
// [Device] and writes replies in batches. Between the loop and the primary
// disk stand at most a few layers (the host component's filter is one); each
// takes part in an operation by Intercept-ing its completion. [File] is the
// primary: a raw image or a block device; [Remote] is one that another server
// serves. [Client] is the other end.
//
// # Order and durability
//
// A reply to a write means that the primary has it, and every later read on
// any connection sees it. It is durable after a Flush that was sent later, on
// any connection of the export, or at once with FUA. Requests in flight
// together have no order among themselves; a direct file keeps writes that
// share a block from undoing each other, as a disk would.
//
// # Goroutines
//
// Serve owns one goroutine per connection, which is its loop, and a writer
// beside it for replies whose operation was completed by somebody else. A
// File or a Remote owns the goroutines that wait for the disk; a Client owns its
// reader.
package nbd
