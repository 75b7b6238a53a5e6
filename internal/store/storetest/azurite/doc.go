// Package azurite runs Azurite, the emulator of Azure Blob Storage, as a real
// server for tests and measurements of store/azblob: a process of its own,
// spoken to over loopback, that can be killed and brought back.
//
// The emulator is installed by "make emulators". Its well-known account and
// key are constants of the emulator and protect nothing.
//
// A Server owns its process, in a process group of its own, and one goroutine
// that waits for it; Stop ends both. Safe for concurrent use, except that Stop
// and Restart are one caller's.
package azurite
