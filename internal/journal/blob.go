package journal

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// head is the sealed content of t/<timeline>/head.
type head struct {
	Timeline dr.TimelineID `json:"timeline"`
	Created  time.Time     `json:"created"`
	By       string        `json:"by"` // host that made the timeline
	// Parent and Fork say where a branch began; zero for a first timeline.
	Parent dr.TimelineID   `json:"parent"`
	Fork   dr.CheckpointID `json:"fork"`
	Branch *branch         `json:"branch,omitempty"` // of a branch alone
	// Container is the digest of the domain object as the timeline's maker knew it: it
	// authenticates that clear object.
	Container string `json:"container"`
}

// claim is the sealed content of t/<timeline>/epoch/<epoch>.
type claim struct {
	Timeline dr.TimelineID `json:"timeline"`
	Epoch    dr.Epoch      `json:"epoch"`
	Host     string        `json:"host"`
	Time     time.Time     `json:"time"`
	Nonce    dr.UUID       `json:"nonce"` // tells own claims from others'
}

// storedVM is the sealed content of meta/<vm>/<seq>.
type storedVM struct {
	VM     dr.VMID     `json:"vm"`
	Seq    dr.Seq      `json:"seq"`
	Config dr.VMConfig `json:"config"`
}

// sealJSON seals v as a blob of the container.
func (c *Container) sealJSON(h segment.Header, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, errs.E("journal.sealJSON", errs.Internal, "", err)
	}
	if len(plain) > maxDocument/2 {
		return nil, errs.New("journal.sealJSON", errs.Invalid, "", "the document is larger than 512 KiB")
	}
	h.Kind, h.Object, h.Domain = segment.Blob, dr.NewUUID(), c.domain.ID
	g := c.current()
	h.Key, h.Window = g.id, Window
	if h.Created.IsZero() {
		h.Created = time.Now()
	}
	body, _, err := segment.SealBlob(g.key, h, plain)
	return body, err
}

// openJSON reads and opens a blob of the container under key into v. Kind
// Corrupt when its bytes are not what was written or it belongs elsewhere.
func (c *Container) openJSON(ctx context.Context, key string, v any) (segment.Header, error) {
	const op = "journal.openJSON"
	body, err := readDocument(ctx, c.st, key)
	if err != nil {
		return segment.Header{}, errs.E(op, errs.Internal, key, err)
	}
	h, plain, err := c.openBlob(body)
	if err != nil {
		return h, errs.E(op, errs.Internal, key, err)
	}
	if h.Domain != c.domain.ID {
		return h, errs.New(op, errs.Corrupt, key, "the object belongs to another container")
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return h, errs.E(op, errs.Corrupt, key, err)
	}
	return h, nil
}

// openBlob opens a blob under the data key its header names.
func (c *Container) openBlob(body []byte) (segment.Header, []byte, error) {
	h, err := segment.ParseHeader(body)
	if err != nil {
		return h, nil, err
	}
	key, err := c.dataKey(h.Key)
	if err != nil {
		return h, nil, err
	}
	return segment.OpenBlob(key, body)
}

// readHead reads a timeline's head and checks that it lies under its own name.
func (c *Container) readHead(ctx context.Context, t dr.TimelineID) (head, error) {
	const op = "journal.readHead"
	var v head
	if _, err := c.openJSON(ctx, headKey(t), &v); err != nil {
		return v, err
	}
	if v.Timeline != t {
		return v, errs.New(op, errs.Corrupt, headKey(t), "it is the head of another timeline")
	}
	if err := v.checkBranch(); err != nil {
		return v, err
	}
	return v, nil
}

// normal is cfg as it reads back after being stored.
func normal(cfg dr.VMConfig) dr.VMConfig {
	var out dr.VMConfig
	b, err := json.Marshal(cfg)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return cfg
	}
	return out
}
