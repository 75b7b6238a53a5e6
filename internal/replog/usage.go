package replog

import "holdfast/internal/dr"

// Usage is a snapshot of how full the log is and what it did since Open.
type Usage struct {
	Used     int64  // bytes of log files in use: whole ones, and the last as far as it is filled
	Quota    int64  // bytes the log may take: whole files
	Files    int    // log files in use
	Spare    int    // files pre-written and not in use
	FileSize int64  // bytes of one file
	Direct   bool   // false: the file system has no direct I/O, writes go through the page cache and a sync
	First    dr.Seq // lowest seq held; 0 when there is none
	Durable  dr.Seq // highest seq acknowledged
	Accepted dr.Seq // highest seq taken by Append
	Trimmed  dr.Seq // trim point
	Waiting  int    // batches accepted and not yet acknowledged; at most 32

	Batches uint64 // written since Open
	Records uint64 // accepted since Open
	Payload uint64 // bytes of payload written since Open, padding included
	Written uint64 // bytes of batches written since Open
}

// Usage returns the current figures. Cheap; for any goroutine.
func (l *Log) Usage() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Usage{
		Quota: int64(l.maxFiles) * l.fileSize, Files: len(l.files), Spare: len(l.free),
		FileSize: l.fileSize, Direct: l.direct,
		Durable: l.durable.seq, Accepted: l.accepted.seq, Trimmed: l.trimmed,
		Waiting: int(l.accepted.number - l.delivered),
		Batches: l.stats.batches, Records: l.stats.records, Payload: l.stats.payload, Written: l.stats.written,
	}
	if n := len(l.files); n > 0 {
		u.Used = int64(n-1)*l.fileSize + l.plan.end()
		if f := l.files[0]; f.lastSeq >= f.firstSeq {
			u.First = f.firstSeq
		}
	}
	return u
}
