package sidecar

import "holdfast/internal/dr"

const (
	// RegionSize is the grain, in bytes. A write of 4 KiB that is lost costs a
	// read of this much; a smaller grain costs more synchronous writes.
	RegionSize  = 1 << regionShift
	regionShift = 20

	// MaxOpen is how many regions may stay open, beyond those that wait to be
	// copied, before the longest unused are closed: 512 MiB to copy after a
	// crash, a few seconds. Writes do not wait for it: between two rounds there
	// may be more.
	MaxOpen = 512
	// openAhead is how many regions above a wanted one are opened with it when
	// the one below is open, as under a sequential stream: one synchronous
	// write for 16 MiB.
	openAhead = 15

	// MaxRuns bounds the runs a sidecar names: host components that died one
	// after the other in the moment between Hello and Welcome.
	MaxRuns = 4

	pageSize       = 4096
	sectorSize     = 512
	sectorHead     = 16
	sectorRegions  = (sectorSize - sectorHead) * 8
	sectorsPerPage = pageSize / sectorSize
	headPages      = 2

	// maxFile is the size of the file of the largest disk, in bytes: 8.3 MiB.
	maxRegions = dr.MaxDiskSize >> regionShift
	maxFile    = (headPages + (maxRegions/sectorRegions+sectorsPerPage)/sectorsPerPage) * pageSize
	// maxRun bounds the pages written at once: closing and opening change a
	// few, and the buffer stays for good.
	maxRun = 16
)
