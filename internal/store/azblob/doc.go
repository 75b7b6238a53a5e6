// Package azblob keeps a container in Azure Blob Storage. It is a driver of
// package store.
//
// An object is a block blob named PREFIX/key in the blob container of the
// address (azblob://ACCOUNT/CONTAINER/PREFIX), written whole by one Put Blob
// request: no blocks are staged, so nothing half-written is left anywhere. The
// service takes 5000 MiB that way; store.MaxObject is far below.
//
//   - Create carries If-None-Match: * and the CRC-64 of the body. The service
//     answers 409 or 412 when the name is taken, and refuses a body that
//     changed on the way. One request; when the credentials are refused, one
//     more to see whether the name is taken, because some servers tell those
//     who may create but not overwrite no other way.
//   - ReadRange is one request, and what one request returns is of one object,
//     also when the name was deleted and created again meanwhile. A body that
//     ends early fails the call; nothing is ever fetched behind it, so a range
//     cannot be put together from two objects.
//   - Stat is one request; so is Delete, but see below.
//   - List asks for what follows by name (startFrom, service version
//     2026-02-06), so that a page costs one request wherever it begins;
//     sometimes more, because the service may answer with less than a full
//     page. A server that ignores startFrom, as old emulators do, is read from
//     the prefix's beginning, 5000 names a request, for every page.
//
// The service's own retries are off: store/retry is the only place that
// repeats. A connection that neither takes nor gives a byte for a minute is
// given up.
//
// # Accounts
//
// The account must have no hierarchical namespace: with one, names are not
// listed in byte order, which List reports when it sees it. Where soft delete
// or versioning is on, what Delete removes goes on to be stored and billed for
// as long as the account's settings say.
//
// # Credentials
//
// In this order: the account's key in AZURE_STORAGE_KEY, a shared access
// signature in AZURE_STORAGE_SAS_TOKEN, or what Azure's own chain finds
// (variables AZURE_CLIENT_ID and so on, workload identity, managed identity,
// the command line tool's login). They are not part of the address, of any
// error or of any log. A signature or a token is sent over TLS only, except to
// this machine itself.
//
// # Locks
//
// Store implements store.Locker where the blob container has support for
// version-level immutability: governance is an unlocked policy, compliance a
// locked one. Such a container keeps versions, so Delete first asks whether the
// object is locked, then removes the name, then the version: three requests.
// When it is cut off between the last two, the version stays without a name
// and is billed until a lifecycle rule for previous versions removes it. Two
// ExtendLock of one object at the same time under governance may leave the
// earlier end of the two.
//
// No emulator implements immutability. The requests of Locker are tested
// against a model of the service's documented rules in this package's tests,
// and are unproven against Azure itself.
//
// The package starts no goroutines of its own; net/http keeps two for each
// connection.
package azblob
