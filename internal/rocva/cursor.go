package rocva

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// cursor is what a run leaves beside each target: what it builds and which
// objects are written and synced. A range of objects is two places in the
// image's list, first and last.
type cursor struct {
	Format     int             `json:"format"`
	Run        string          `json:"run"` // digest of what is built and where
	Checkpoint dr.CheckpointID `json:"checkpoint"`
	Complete   bool            `json:"complete"` // all data of all targets is synced
	Done       [][2]int        `json:"done"`     // image objects, by place, ends included
	Update     *mark           `json:"update,omitempty"`
	Digest     string          `json:"digest"` // of the fields above
}

const cursorFormat = 2

// runID is the digest of everything that decides the targets' content. Two
// runs of one id may continue each other. base is what the targets held.
func runID(d dr.DomainID, img *journal.Image, targets []*target, base journal.PointRef) string {
	h := sha256.New()
	var b [8]byte
	num := func(n uint64) {
		binary.LittleEndian.PutUint64(b[:], n)
		h.Write(b[:])
	}
	h.Write(d.UUID[:])
	h.Write(img.Timeline.UUID[:])
	num(uint64(img.Checkpoint.ID))
	num(uint64(img.Checkpoint.Object))
	h.Write(base.Timeline.UUID[:])
	num(uint64(base.Checkpoint))
	num(uint64(base.Seq))
	for _, t := range targets {
		h.Write(t.Disk.UUID[:])
		num(uint64(t.disk.Size))
		num(uint64(len(t.Path)))
		h.Write([]byte(t.Path))
	}
	for _, o := range img.Objects {
		h.Write(o.Ref.Timeline.UUID[:])
		num(uint64(o.Ref.Number))
		h.Write(o.Ref.Data[:])
		for _, f := range o.Frames {
			num(uint64(f.Frame)<<32 | uint64(f.Disk)<<16 | uint64(f.Take))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (c *cursor) digest() string {
	d := *c
	d.Digest = ""
	b, err := json.Marshal(&d)
	if err != nil {
		return "" // matches no cursor
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// readCursor reads a cursor; nil when there is none, or none that can be
// trusted: then the work is done again.
func readCursor(fs durable.FS, path string) (*cursor, error) {
	b, err := durable.ReadFile(fs, path, maxCursor)
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Invalid) {
		return nil, nil
	} else if err != nil {
		return nil, errs.E("rocva.Full", errs.Internal, path, err)
	}
	var c cursor
	if json.Unmarshal(b, &c) != nil || c.Format != cursorFormat || c.Digest == "" || c.Digest != c.digest() {
		return nil, nil
	}
	return &c, nil
}

func writeCursor(fs durable.FS, path string, c cursor) error {
	c.Format = cursorFormat
	c.Digest = c.digest()
	b, err := json.Marshal(&c)
	if err == nil {
		err = durable.WriteFile(fs, path, append(b, '\n'))
	}
	if err != nil {
		return errs.E("rocva.Full", errs.Internal, path, err)
	}
	return nil
}

// ranges packs the done objects of an image.
func ranges(done []bool) [][2]int {
	out := [][2]int{}
	for i, d := range done {
		switch {
		case !d:
		case i > 0 && done[i-1]:
			out[len(out)-1][1] = i
		default:
			out = append(out, [2]int{i, i})
		}
	}
	return out
}

// doneOf is the inverse of ranges, for an image of n objects.
func doneOf(n int, rs [][2]int) []bool {
	done := make([]bool, n)
	for _, r := range rs {
		for i := max(r[0], 0); i <= min(r[1], n-1); i++ {
			done[i] = true
		}
	}
	return done
}
