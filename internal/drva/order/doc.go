// Package order is the pure heart of the DR virtual appliance: it gives every
// record of a protected domain its place in the domain's one order, cuts
// checkpoints into that order, and puts the order together again after a
// restart. No I/O, no goroutines, no clock: inputs are stepped in with the
// time, outputs are drained (in the manner of etcd's raft), so that the very
// code that runs is the code that the simulation in test/sim judges.
//
// # Nouns
//
// A stream is everything one run of a host component (a session) says; it
// survives connections. A record is dense in its stream (HostSeq) and, once
// sequenced, dense in the domain (Seq). A round is one try to cut a
// checkpoint.
//
// # Promises
//
//   - A stream's records keep their order, each is sequenced once, whatever is
//     sent again after a reconnect or a restart.
//   - A checkpoint is a plain prefix of the order. It is Group only if no write
//     in it depends on a write outside it: if a write is in the cut, so is
//     every write that was acknowledged before it was issued.
//   - What was acknowledged before the time of a Group checkpoint is in it.
//   - A disk counts as synced only while the log holds its whole content.
//
// # Rounds
//
//	        Cut (no asynchronous host)
//	idle ──────────────────────────────────────────► confirming ──► resolved
//	 │ Cut (one host, asynchronous)                      ▲
//	 ├──► placing: Place sent, its marker awaited ───────┤
//	 │      marker: Checkpoint record of the time of     │
//	 │      Place, Mark; limit: of the last marker's     │
//	 │ Cut (several hosts, one or more asynchronous)     │
//	 └──► collecting: Hold sent, markers awaited ────────┘
//	        all markers: Checkpoint record, Release
//	        limit or lost host: the same, but discarded (never Group)
//
// Why a cut by a hold round is closed: each host holds the completions of all
// writes behind its marker until Release reaches it (else it says so, and the
// checkpoint is Partial), and Release is sent when every marker has arrived and
// the Checkpoint record has its place. Take a write A outside the cut. It is
// sequenced after the Checkpoint record, so it lies behind its host's marker,
// so it was acknowledged after Release was sent. A write B in the cut was in
// the order before Release was sent, so it was issued before A was
// acknowledged: nothing in the cut depends on A. Records behind a marker that
// are sequenced while other markers are awaited are simply part of the cut,
// like any write that nobody has been told of; there is no need to stop them,
// and the order never waits for a slow host.
//
// With one host every prefix of its stream is consistent. What it has
// acknowledged may still be on its way: the checkpoint's time is that at which a
// marker was asked for that has come, and nothing is held for it (ADR 33). In the
// ordered and sync rules an acknowledged write is a sequenced one, so that every prefix of
// the order is. There the Checkpoint record is placed at once and Mark only
// asks whether a host has acknowledged writes outside its stream. The answer
// speaks of the moment it is given: if a TrackBegin comes between the cut and
// the answer, the writes it tells of may be older than the cut, and the disk is
// not covered (the simulation found this one).
//
// Partial does not mean useless: every VM that is not Missing is consistent by
// itself, because a VM lives on one host and its part of the cut is a prefix
// of that host's stream. Missing are the VMs with a disk whose content is not
// complete in the log (initial sync, writes outside the stream, a lost host),
// and those whose host was not attached, did not answer, or answered that it
// acknowledges writes outside the stream.
//
// # Restart
//
// The log knows every session and disk. After a restart the core first merges: hosts send again what the log does
// not hold, with the places the records had, and the core puts them in the
// order of those places (a k-way merge that needs one frame of each stream
// in memory), then drops back to normal. It waits for every known host, or
// until the replay limit has passed; a host that is not there then is lost.
// Before its disks are taken for unsynced, a partial checkpoint is placed that
// nobody is asked about: it makes recoverable what the log holds of them, so
// that a write acknowledged as sync survives a host that never returns.
//
// Places nobody fills become Pad records, so that the order stays dense. A
// hole alone says nothing bad: the DRVA's own records (checkpoints, sessions)
// are not sent again by anyone. That a host's record is lost is known from
// the streams instead: a known host that stays away, a host component that
// started anew, a stream whose first kept record is not the one after the
// log's last.
//
// Records without a place are sequenced after the merge. That keeps causes
// before effects: in the ordered and sync rules such a record was never
// acknowledged, so nothing depends on it; in the async rule only cuts count,
// and no checkpoint is cut before the merge is over. A record whose former
// place is already taken (its host was given up during an earlier restart) is
// treated the same, and its host's disks become unsynced.
//
// # What a stream may look like
//
// Live records have dense HostSeqs. A Marker takes a HostSeq of its own or has
// 0; it is not logged, so that a replay may leave gaps where markers were. A
// host vouches by Hello.First and Hello.Next that it replays every record
// between that it still holds. Records a host made after its Hello may come
// before or after its ReplayEnd. A SyncEnd that comes before ReplayEnd does not
// count for a disk the Welcome called unsynced or resumed.
//
// # Payloads of log records
//
// All are JSON, at most 1 MiB; the time of the event is in the descriptor.
// Disk in a descriptor is the domain's index of the disk (DiskBody.Index),
// not the host's.
//
//	Checkpoint        CutBody: id, round, mode, kind, tag, the disks it sees and
//	                  the highest session number and disk index so far
//	CheckpointResult  ResultBody: id, scope ("group", "partial"), missing VMs
//	Session           SessionBody: number (also in the descriptor), host, nonce,
//	                  ack rule, which wire index is which disk; the latest one
//	                  of a session counts; without payload: the session is over
//	Disk              DiskBody: the disk's whole entry; the latest one of an
//	                  index counts; without payload: no longer protected
//	Meta              dr.VMConfig
//	TrackBegin        no payload; also written by the DRVA itself (session 0)
//	                  when it must take a disk for unsynced
//
// A host's own Disk record holds {"op":"release"} (the stream holds all of the
// disk's writes and no more will come: the next run that brings the sidecar goes
// on without a resync), {"op":"remove"} (no longer protected) or {"op":"void"}
// (no later run may go by the sidecar). The sequencer puts the disk's new entry
// in its place.
package order
