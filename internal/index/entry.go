package index

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Entry is a version: what one frame or zero range says of blocks of a chunk
// as of a record. Disk and Object are numbers of the Catalog it was read with.
type Entry struct {
	Seq    dr.Seq // the record; of versions that touch one block each has its own, the higher is newer
	Chunk  uint32
	Chunks uint32 // how many chunks from Chunk on: 1, or more when Zero and all blocks of them read as zeroes
	Object uint32 // the object that holds the frame; meaningless when Zero
	Frame  uint32 // the frame's counter in that object
	Stored uint32 // the frame's bytes in that object, the tag included
	Mask   uint16 // the blocks, bit 0 the chunk's first; all of them when Chunks > 1
	Disk   uint16
	Zero   bool // the blocks read as zeroes and no frame holds them
}

// end is the chunk behind the entry.
func (e *Entry) end() uint32 { return e.Chunk + e.Chunks }

// frameSize is the most a frame of mask takes in an object: its blocks as they
// are, and the tag.
func frameSize(mask uint16) uint32 {
	return uint32(bits.OnesCount16(mask))*dr.BlockSize + frameOverhead
}

// check tells what makes e no version, its Disk and Object aside.
func (e *Entry) check() error {
	switch {
	case e.Mask == 0:
		return fmt.Errorf("version of chunk %d holds no block", e.Chunk)
	case e.Chunks == 0 || e.Chunk >= MaxChunks || e.Chunks > MaxChunks-e.Chunk:
		return fmt.Errorf("version of %d chunks from %d is of none, or beyond the largest disk", e.Chunks, e.Chunk)
	case e.Chunks > 1 && (!e.Zero || e.Mask != fullMask):
		return fmt.Errorf("version of %d chunks from %d is not all zeroes", e.Chunks, e.Chunk)
	case !e.Zero && (e.Frame >= MaxFrames || e.Stored <= frameOverhead || e.Stored > frameSize(e.Mask)):
		return fmt.Errorf("version of chunk %d is frame %d of %d bytes, which no object holds", e.Chunk, e.Frame, e.Stored)
	}
	return nil
}

// before orders entries of one disk: by chunk, newest first.
func (e *Entry) before(o *Entry) bool {
	if e.Chunk != o.Chunk {
		return e.Chunk < o.Chunk
	}
	return e.Seq > o.Seq
}

// ObjectID names an object of a container: the journal object Number of
// Timeline, or the data object Data.
type ObjectID struct {
	Timeline dr.TimelineID
	Number   dr.ObjectNumber
	Data     dr.UUID
}

// String renders "j/<timeline>/<number>" or "d/<uuid>", for messages.
func (o ObjectID) String() string {
	if !o.Data.IsZero() {
		return "d/" + o.Data.String()
	}
	return fmt.Sprintf("j/%v/%d", o.Timeline, o.Number)
}

// Valid reports whether o names either a journal object or a data object.
func (o ObjectID) Valid() bool {
	journal := !o.Timeline.IsZero() && o.Number != 0
	return journal && o.Data.IsZero() || o.Timeline.IsZero() && o.Number == 0 && !o.Data.IsZero()
}

// Compare orders object ids: journal objects by timeline and number, then data
// objects by uuid.
func (o ObjectID) Compare(p ObjectID) int {
	return cmp.Or(bytes.Compare(o.Data[:], p.Data[:]), bytes.Compare(o.Timeline.UUID[:], p.Timeline.UUID[:]), cmp.Compare(o.Number, p.Number))
}

// compareDisks is the order of disks in a run.
func compareDisks(a, b dr.DiskID) int { return bytes.Compare(a.UUID[:], b.UUID[:]) }

// Catalog numbers disks and objects, from 0, as they are first met. All that
// takes part in one merge or resolution shares one. The zero value is empty
// and ready. One goroutine uses a Catalog at a time.
type Catalog struct {
	disks    []dr.DiskID
	objects  []ObjectID
	diskAt   map[dr.DiskID]uint16
	objectAt map[ObjectID]uint32
}

// Disk returns the disk's number, giving it one if need be. Kind Full behind
// MaxDisks.
func (c *Catalog) Disk(id dr.DiskID) (uint16, error) {
	if n, ok := c.diskAt[id]; ok {
		return n, nil
	}
	if len(c.disks) == MaxDisks {
		return 0, errs.E("index.Disk", errs.Full, id.String(), fmt.Errorf("more than %d disks", MaxDisks))
	}
	if c.diskAt == nil {
		c.diskAt = make(map[dr.DiskID]uint16)
	}
	n := uint16(len(c.disks))
	c.diskAt[id] = n
	c.disks = append(c.disks, id)
	return n, nil
}

// Object returns the object's number, giving it one if need be. Kind Full
// behind MaxObjects, Invalid for an id that names nothing.
func (c *Catalog) Object(id ObjectID) (uint32, error) {
	if n, ok := c.objectAt[id]; ok {
		return n, nil
	}
	switch {
	case !id.Valid():
		return 0, errs.New("index.Object", errs.Invalid, id.String(), "names neither a journal object nor a data object")
	case len(c.objects) == MaxObjects:
		return 0, errs.E("index.Object", errs.Full, id.String(), fmt.Errorf("more than %d objects", MaxObjects)).
			WithRemedy("let maintenance pack small objects before it merges the index")
	}
	if c.objectAt == nil {
		c.objectAt = make(map[ObjectID]uint32)
	}
	n := uint32(len(c.objects))
	c.objectAt[id] = n
	c.objects = append(c.objects, id)
	return n, nil
}

// Disks are the disks by number; read-only.
func (c *Catalog) Disks() []dr.DiskID { return c.disks }

// Objects are the objects by number; read-only.
func (c *Catalog) Objects() []ObjectID { return c.objects }
