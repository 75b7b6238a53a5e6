// Package golden keeps small containers of every format version in the tree
// and restores every checkpoint of them in every test run: what was written
// once must stay readable for ever.
//
// testdata/NAME/container is a container as the directory driver stores it;
// testdata/NAME/expect.json tells which checkpoints it has and the SHA-256 of
// each disk at each of them, as they were when it was written. Nobody but the
// generator writes there:
//
//	go test ./test/golden -update
//
// makes them anew, with seeded randomness and a clock that begins at a fixed
// time, so that the same code makes the same bytes. A container of an older
// format version is never made anew: it gets a name of its own, and stays.
//
// The passphrase and the recovery key lie beside them in the clear. They are
// for these tests, protect nothing, and must never open anything else.
package golden
