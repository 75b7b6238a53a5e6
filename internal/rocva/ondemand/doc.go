// Package ondemand gives a checkpoint's disks before their content is there:
// a local file whose blocks are fetched when the guest reads them, written by
// the guest at once, and filled up in the background until it is an ordinary
// raw image.
//
// [Open] makes or resumes the disks, [Set.Device] is what an NBD server
// exports, [Set.Run] fetches what boot traces name and then the rest,
// [Set.Finish] lets go of the files as plain images. [ReadOnly] is a disk of a
// checkpoint with no file behind it.
//
// # A block's life
//
//	absent ──fetch──► held ──guest's write──► held and written
//	   └────────── guest's whole write ─────────────▲
//
// A block that no frame of the image gives is zeroes: a hole of the file, held
// from the start. A fetch writes blocks that are absent, under their chunk's
// lock, and no others: so it never undoes a guest's write. A read of an absent
// block waits for it: at most Options.StallLimit, then it is an I/O error. Bytes
// that are not proven to be what was captured never reach file or guest, and
// absent blocks never read as zeroes.
//
// # Files and durability
//
//	                PATH.present     PATH
//	begun           nothing held     -
//	under way       what is held     sparse, some blocks are there
//	whole           marked whole     whole and durable
//	finished        -                whole: a plain raw image
//
// As long as PATH.present is there, PATH is no disk to boot from. PATH has its
// own name from the start, because a hypervisor that will switch to it later
// has to name it when the VM starts. PATH.lock keeps a second Set away.
//
// PATH.present is a header and records, appended as things happen. Numbers are
// little-endian, CRCs CRC-32C, each record's seeded with the header's.
//
//	header   | magic "hfheld01" | disk image 32 | size u64 | boot 16 | crc u32 |
//	record   | length u32 | kind u8 | payload | crc u32 |
//	payload  of kinds 1 to 3: runs of chunks of one mask
//	         | chunks skipped uvarint | chunks uvarint | mask u16 | …
//
//	kind 1 held     these blocks are in PATH, durably
//	kind 2 written  and the guest wrote them
//	kind 3 writing  the guest wrote them; good for the boot it was written in,
//	                because nothing was synced
//	kind 4 closed   last of all: no write came after what was recorded
//	kind 5 whole    everything is held
//
// Disk image is a digest of container, timeline, checkpoint and disk; boot is
// the kernel's boot id. Records end at the first that is cut off or has
// another CRC: whatever was acknowledged as durable lies before it.
//
// The order of things is what keeps the promises:
//
//   - A record of kind 1 or 2 is appended after the data it speaks of was
//     synced, and a flush is answered after that record was synced.
//   - A write to absent blocks first writes PATH, then appends kind 3, then is
//     answered. Killed in between, the blocks are fetched as if it never was.
//   - A write to held blocks appends kind 3 first: what the guest may have
//     changed is always in Written.
//   - After the process was killed the kernel still has what it was given, so
//     kind 3 counts. After the machine went down it does not: what no flush
//     covered may be there or not, as on any disk. What is held is then taken
//     for written too, unless the file says closed, since nobody knows which
//     unflushed writes reached it.
//
// Open syncs PATH and replaces the map by a short one, of kinds 1 and 2.
//
// # Goroutines
//
// A Set owns one keeper that makes progress durable, and one goroutine for each
// operation or read-ahead under way; Close ends them. Run owns its workers and
// ends them before it returns.
package ondemand
