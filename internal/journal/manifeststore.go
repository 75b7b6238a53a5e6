package journal

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// ManifestInfo is a manifest as a list of the store shows it.
type ManifestInfo struct {
	Generation uint64    `json:"generation"`
	Key        string    `json:"key"`
	Size       int64     `json:"size"`     // bytes
	Modified   time.Time `json:"modified"` // by the store's clock; Manifest.Created is the maker's
}

// ListManifests lists the manifests of a timeline, oldest first.
func (c *Container) ListManifests(ctx context.Context, t dr.TimelineID) ([]ManifestInfo, error) {
	return c.listManifests(ctx, t, 0)
}

// listManifests lists those with a generation above after.
func (c *Container) listManifests(ctx context.Context, t dr.TimelineID, after uint64) ([]ManifestInfo, error) {
	const op = "journal.ListManifests"
	var out []ManifestInfo
	err := listAll(ctx, c.st, manifestPrefix(t), manifestKey(t, after), func(in store.Info) bool {
		if g, ok := parseManifestKey(t, in.Key); ok {
			out = append(out, ManifestInfo{g, in.Key, in.Size, in.Modified})
		}
		return len(out) < maxManifests
	})
	if err == nil && len(out) >= maxManifests {
		err = errs.New(op, errs.Full, manifestPrefix(t), "the timeline has too many manifests").
			WithRemedy("run maintenance: it deletes old ones")
	}
	if err != nil {
		return nil, errs.E(op, errs.Internal, manifestPrefix(t), err)
	}
	return out, nil
}

// ReadManifest returns the newest manifest of a timeline that can be read; ok
// is false when there is none at all. A damaged one is passed over for the
// next older, whose History says so. Kind Corrupt when there are manifests and
// none can be read, or the store's.
func (c *Container) ReadManifest(ctx context.Context, t dr.TimelineID) (m *Manifest, ok bool, err error) {
	m, _, err = c.newestManifest(ctx, t)
	return m, m != nil, err
}

// newestManifest also tells of newer ones that are damaged: behind the anchor
// of what is returned journal objects may be gone then.
func (c *Container) newestManifest(ctx context.Context, t dr.TimelineID) (m *Manifest, problems []Problem, err error) {
	all, err := c.listManifests(ctx, t, 0)
	if err != nil {
		return nil, nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		m, err := c.loadManifest(ctx, t, all[i])
		if err == nil {
			return m, problems, nil
		}
		if !ownFault(err) {
			return nil, nil, err
		}
		if len(problems) < maxProblems {
			problems = append(problems, Problem{Object: all[i].Key, What: err.Error(), Kind: errs.KindOf(err)})
		}
	}
	if len(all) > 0 {
		return nil, problems, errs.New("journal.ReadManifest", errs.Corrupt, problems[0].Object, fmt.Sprintf(
			"none of the timeline's %d manifests can be read: %s", len(all), problems[0].What)).
			WithRemedy("restore one from another copy of the container, or from the store's own versions")
	}
	return nil, nil, nil
}

// ReadManifestAt reads the manifest of one generation. Kind NotFound when it
// is not there, Corrupt when it is damaged, or the store's.
func (c *Container) ReadManifestAt(ctx context.Context, t dr.TimelineID, generation uint64) (*Manifest, error) {
	in, err := c.st.Stat(ctx, manifestKey(t, generation))
	if err != nil {
		return nil, errs.E("journal.ReadManifest", errs.Internal, manifestKey(t, generation), err)
	}
	return c.loadManifest(ctx, t, ManifestInfo{generation, in.Key, in.Size, in.Modified})
}

// ReadListedManifest is ReadManifestAt of one that a list has shown: one
// request less.
func (c *Container) ReadListedManifest(ctx context.Context, t dr.TimelineID, in ManifestInfo) (*Manifest, error) {
	return c.loadManifest(ctx, t, in)
}

// ownFault reports whether err is the object's fault and not the store's.
func ownFault(err error) bool {
	switch errs.KindOf(err) {
	case errs.Corrupt, errs.Invalid, errs.NotFound, errs.Denied:
		return true
	}
	return false
}

func (c *Container) loadManifest(ctx context.Context, t dr.TimelineID, in ManifestInfo) (*Manifest, error) {
	const op = "journal.ReadManifest"
	body, err := c.readWhole(ctx, in.Key, in.Size)
	if err != nil {
		return nil, err
	}
	h, plain, err := c.openPlain(op, in.Key, body)
	if err != nil {
		return nil, err
	}
	if h.Timeline != t || h.Number != dr.ObjectNumber(in.Generation) {
		return nil, errs.New(op, errs.Corrupt, in.Key, fmt.Sprintf(
			"it is generation %d of timeline %s", h.Number, h.Timeline))
	}
	m, err := decodeManifest(plain)
	if err != nil {
		return nil, errs.E(op, errs.Internal, in.Key, err)
	}
	switch {
	case m.Timeline != t:
		return nil, errs.New(op, errs.Corrupt, in.Key, "it is the manifest of another timeline: "+m.Timeline.String())
	case m.Generation != in.Generation:
		return nil, errs.New(op, errs.Corrupt, in.Key, fmt.Sprintf("it is the manifest of generation %d", m.Generation))
	}
	return m, nil
}

// WriteManifest makes m the timeline's newest manifest. m.Generation is one
// above the newest there is; a name is created once, so of two maintainers one
// fails. Durable on return; then every reader starts from it.
//
// Kinds: Conflict when another maintainer was faster: read the newest and
// decide again; Invalid when m makes no sense or is too large; or the store's:
// then it may or may not have been written, and the same call may be repeated
// with the same content.
func (c *Container) WriteManifest(ctx context.Context, m *Manifest) error {
	const op = "journal.WriteManifest"
	if err := m.Check(); err != nil {
		return err
	}
	name := manifestKey(m.Timeline, m.Generation)
	if m.Generation > 1 {
		before, err := c.listManifests(ctx, m.Timeline, m.Generation-2)
		if err != nil {
			return err
		}
		if len(before) == 0 {
			return errs.New(op, errs.Conflict, name, "the manifest before it is not there")
		}
	}
	body, _, err := c.sealPlain(segment.Header{Timeline: m.Timeline, Number: dr.ObjectNumber(m.Generation), Created: m.Created}, m.encode())
	if err != nil {
		return errs.E(op, errs.Internal, name, err)
	}
	err = c.createOwn(ctx, name, body)
	if errs.Is(err, errs.Exists) {
		return c.lostManifest(ctx, op, m)
	} else if err != nil {
		return errs.E(op, errs.Internal, name, err)
	}
	// A name that was deleted again can be created again: what is higher tells.
	above, err := c.listManifests(ctx, m.Timeline, m.Generation)
	if err != nil {
		return err
	}
	if len(above) > 0 {
		return errs.New(op, errs.Conflict, name, fmt.Sprintf("generation %d is newer", above[len(above)-1].Generation)).
			WithRemedy("another maintainer works on this timeline; one is enough")
	}
	return nil
}

// lostManifest says that the name is taken, unless it was taken by an earlier
// call with the same content whose outcome stayed unknown.
func (c *Container) lostManifest(ctx context.Context, op string, m *Manifest) error {
	name := manifestKey(m.Timeline, m.Generation)
	there, err := c.ReadManifestAt(ctx, m.Timeline, m.Generation)
	if err != nil && !ownFault(err) {
		return err
	}
	if err == nil && string(there.encode()) == string(m.encode()) {
		above, err := c.listManifests(ctx, m.Timeline, m.Generation)
		if err != nil || len(above) == 0 {
			return err
		}
	}
	return errs.New(op, errs.Conflict, name, "another maintainer has written this generation").
		WithRemedy("another maintainer works on this timeline; one is enough")
}
