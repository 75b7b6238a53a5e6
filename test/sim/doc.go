// Package sim judges the cut of a protected domain: a deterministic
// discrete-event simulation, in virtual time, of several hosts, chains of
// dependent writes that hop over their VMs, slow and breaking links, hosts
// that acknowledge outside their stream, and a DRVA that restarts in the
// middle of anything. It drives the very code that runs in production: the
// sequencer (internal/drva/order) and the hosts' gate (internal/iofilter/gate).
//
// A chain issues its next write only after the one before was acknowledged. A
// checkpoint that ends as Group must hold, of every write acknowledged before
// any of its writes was issued, the write itself. Under the ordered and sync
// rules every prefix of the order must, also while a restart is replayed.
//
// The same world with one rule broken (Flaw) must show violations; else the
// check would prove nothing.
package sim
