// Package dir keeps a container in a directory of a file system: a local
// disk, a NAS, a mounted share. It is a driver of package store.
//
// A key is the path of a file below the directory, so that a container can be
// copied to and from other stores with ordinary tools. An object is created
// by writing a temporary file beside it, syncing it, linking it to its name,
// which fails when the name is taken, and syncing the directory; package
// durable does that. After a crash an object is absent or whole, and one
// whose Create returned is there.
//
// Files that are no objects are left alone and not listed: temporary files of
// writers, and names that are no keys. Temporary files older than a day are
// what a crashed writer left; they are removed when a writer first uses their
// directory.
//
// Create-once rests on link(2). Local Linux file systems and NFS have it;
// FAT and some network shares do not, and refuse the first Create.
//
// Directories are made with mode 0700 and files with 0600. The package starts
// no goroutines; calls block in the kernel and notice a cancelled context only
// between steps.
package dir
