// Package store is the contract between Holdfast and an object store, and the
// home of its drivers (dir, mem), its wrappers (retry, meter) and the suite
// every driver must pass (storetest, with scripted faults in storetest/fault).
//
// A container is a flat set of immutable objects under slash-separated keys.
// Holdfast never overwrites: the only way to write is [Store.Create], which
// fails when the name is taken. Names are therefore commits and fences, and
// everything above relies on these properties of the store:
//
//   - create-once: of any number of concurrent Creates of one key exactly one
//     succeeds, for ever, whatever was lost on the way;
//   - durable when Create returns;
//   - read-after-create and list-after-create;
//   - ranges return exactly the bytes written.
//
// A store may also hold objects against deletion for a time: [Locker].
//
// A driver has an Open or New of its own; which one a store's address
// ([ParseURL]) means is decided by the command line alone. Wrap a driver in
// meter first and in retry outside: meter.New, then retry.New around it.
//
// Nothing here starts a goroutine, except the faults of storetest/fault.
package store
