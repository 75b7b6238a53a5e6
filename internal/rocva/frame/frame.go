package frame

import (
	"cmp"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// Part is a frame to fetch, as the footer of its object describes it.
type Part struct {
	Entry *segment.Entry
	Disk  uint16 // place in Image.Disks
	Take  uint16 // the blocks of Entry.Mask that belong to the image
}

// At is where block i of the part's chunk lies on its disk, in bytes.
func (p Part) At(i int) int64 {
	return int64(p.Entry.Chunk)*dr.ChunkSize + int64(i)*dr.BlockSize
}

// Object is an open object of an image and the frames the image takes of it.
// Immutable; safe for concurrent use.
type Object struct {
	*journal.Object
	io      *journal.ImageObject
	entries []*segment.Entry // in the order of io.Frames
}

// Open checks that o is the object that io was resolved with. Kind Corrupt when it
// is another.
func Open(img *journal.Image, io *journal.ImageObject, o *journal.Object) (*Object, error) {
	entries, err := o.Entries(img, io)
	if err != nil {
		return nil, err
	}
	return &Object{Object: o, io: io, entries: entries}, nil
}

// Frames is the number of frames the image takes something of.
func (o *Object) Frames() int { return len(o.entries) }

// Part returns the frame at a place in ImageObject.Frames.
func (o *Object) Part(place int) Part {
	t := o.io.Frames[place]
	return Part{o.entries[place], t.Disk, t.Take}
}

// Parts appends to dst the frames that want says yes to, in the order of their
// bytes.
func (o *Object) Parts(dst []Part, want func(t journal.Take) bool) []Part {
	for i, t := range o.io.Frames {
		if want(t) {
			dst = append(dst, o.Part(i))
		}
	}
	Sort(dst)
	return dst
}

// Sort puts parts of one object in the order of their bytes.
func Sort(parts []Part) {
	slices.SortFunc(parts, func(a, b Part) int { return cmp.Compare(a.Entry.Offset, b.Entry.Offset) })
}

// Span is a run of parts of one object that is read at once.
type Span struct {
	Off, End int64 // in the object, bytes
	Parts    []Part
}

// Sealed is the part's bytes in raw, which holds the span's.
func (s *Span) Sealed(raw []byte, p Part) []byte {
	return raw[int64(p.Entry.Offset)-s.Off:][:p.Entry.Stored]
}

// Spans groups parts, which are in the order of their bytes, into reads of at
// most limit bytes, or one frame, that swallow gaps of at most GapSize.
func Spans(parts []Part, limit int64) []Span { return SpansOver(parts, limit, GapSize) }

// SpansOver is Spans with gaps of at most gap bytes.
func SpansOver(parts []Part, limit, gap int64) []Span {
	var out []Span
	for i, p := range parts {
		off := int64(p.Entry.Offset)
		end := off + int64(p.Entry.Stored)
		if n := len(out); n > 0 && off-out[n-1].End <= gap && end-out[n-1].Off <= limit {
			s := &out[n-1]
			s.End = max(s.End, end)
			s.Parts = s.Parts[:len(s.Parts)+1]
			continue
		}
		out = append(out, Span{off, end, parts[i : i+1 : len(parts)]})
	}
	return out
}

// Blocks appends the blocks of a frame to dst, opened from its stored bytes:
// proven to be what was captured, by its seal and, with verify, block by block.
// Kind Corrupt when they are not; the words name disk and chunk.
func (o *Object) Blocks(dst []byte, p Part, sealed []byte, verify bool) ([]byte, error) {
	const op = "rocva.Blocks"
	out, err := o.OpenFrame(dst, p.Entry, sealed, verify)
	if err != nil {
		return dst, errs.E(op, errs.Internal, o.Key, fmt.Errorf("disk %s, chunk %d (byte %d of the disk): %w",
			o.Footer.Disks[p.Entry.Disk], p.Entry.Chunk, p.At(0), err))
	}
	if len(out)-len(dst) != p.Entry.Size() {
		return dst, errs.New(op, errs.Corrupt, o.Key, "a frame holds another number of blocks than its footer says")
	}
	return out, nil
}

// Explain adds to a damaged object which checkpoint it costs; other errors
// stay as they are.
func Explain(op string, img *journal.Image, err error) error {
	if !errs.Is(err, errs.Corrupt) {
		return err
	}
	return errs.E(op, errs.Corrupt, "", fmt.Errorf("checkpoint #%d cannot be rebuilt: %w", img.Checkpoint.ID, err)).
		WithRemedy("try again; if it stays damaged, choose an earlier checkpoint, and run a deep fsck to see which ones the damage touches")
}
