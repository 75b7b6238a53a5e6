// Package chain is the ledger that the test guest keeps and that the host can
// check without booting the guest: a SQLite database in which every row
// proves all rows before it, so that one look at a recovered disk tells
// whether anything in the middle was lost, reordered or torn.
//
// Row n of table entry holds
//
//	hash(n) = sha256( hash(n-1) || n || cause || oldest || size || sha256(payload) )
//
// with numbers as 8 bytes big endian and hash(0) = 32 zero bytes. cause is the
// row of another guest's ledger that had to be committed before this one was
// asked for; oldest is the lowest row whose payload is still kept. Payloads
// are pseudo-random bytes derived from n; only a window of the newest ones is
// kept, older ones are deleted and their pages used again, so that the guest
// overwrites blocks as real databases do.
//
// A commit is durable when [Ledger.Put] returns: write-ahead log,
// synchronous=FULL. A Ledger belongs to one goroutine.
package chain
