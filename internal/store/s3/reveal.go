package s3

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

var _ store.Revealer = (*Store)(nil)

// Reveal implements store.Revealer: it removes what lies on the oldest version
// of each key. One walk over all versions finds the keys it concerns, and one
// more list each tells their past. Rights: s3:ListBucketVersions and
// s3:DeleteObjectVersion.
func (s *Store) Reveal(ctx context.Context, prefix string, opts store.RevealOptions) (r store.RevealReport, err error) {
	const op = "s3.Reveal"
	if err := store.CheckList(op, prefix, 1); err != nil {
		return r, err
	}
	if !s.versions.Load() {
		return r, errs.New(op, errs.Invalid, s.bucket, "the bucket keeps no versions: what was deleted is gone").
			WithRemedy("restore from another copy of the container")
	}
	last := ""                         // key of the last version
	concerned := map[string]struct{}{} // has a marker, or more than one version
	list := minio.ListObjectsOptions{WithVersions: true, Recursive: true, Prefix: s.prefix + prefix, MaxKeys: s.walkPage}
	// A walk over everything has no time of its own: ctx ends it, and the
	// transport each request that hangs.
	for o := range s.core.ListObjectsIter(ctx, s.bucket, list) {
		if o.Err != nil {
			return r, s.fail(ctx, op, prefix, o.Err)
		}
		key, ours := strings.CutPrefix(o.Key, s.prefix)
		if !ours || store.CheckKey(op, key) != nil {
			continue
		}
		// Versions of a key follow each other; some stores tell the markers of
		// a page behind its versions.
		if o.IsDeleteMarker || key == last {
			concerned[key] = struct{}{}
		}
		if !o.IsDeleteMarker && key != last {
			r.Keys++
			last = key
		}
		if len(concerned) == maxConcerned {
			if err := s.revealKeys(ctx, concerned, &opts, &r); err != nil {
				return r, err
			}
			clear(concerned)
		}
	}
	if ctx.Err() != nil { // the iteration ends without a word
		return r, s.fail(ctx, op, prefix, context.Cause(ctx))
	}
	return r, s.revealKeys(ctx, concerned, &opts, &r)
}

func (s *Store) revealKeys(ctx context.Context, keys map[string]struct{}, opts *store.RevealOptions, r *store.RevealReport) error {
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if err := s.revealKey(ctx, key, opts, r); err != nil {
			return err
		}
	}
	return nil
}

// pastOf returns a key's versions, the newest first, and its markers.
func (s *Store) pastOf(ctx context.Context, key string) (versions, markers []string, err error) {
	const op = "s3.Reveal"
	c, done, err := s.begin(ctx, op, key, 0)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	opts := minio.ListObjectsOptions{WithVersions: true, Recursive: true, Prefix: s.prefix + key, MaxKeys: versionPage}
	last, others := s.prefix+key, 0
	for o := range s.core.ListObjectsIter(c, s.bucket, opts) {
		switch {
		case o.Err != nil:
			return nil, nil, s.fail(ctx, op, key, o.Err)
		case o.Key != last:
			// Longer. Of ours a marker may yet follow on the same page.
			if others++; others > versionPage {
				return versions, markers, nil
			}
		case len(versions)+len(markers) == maxVersions:
			return nil, nil, errs.E(op, errs.Invalid, key, fmt.Errorf("more than %d versions", maxVersions)).
				WithRemedy("find out who writes into the bucket; remove versions with the store's own tools, never the oldest of a name")
		case o.IsDeleteMarker:
			markers = append(markers, o.VersionID)
		default:
			versions = append(versions, o.VersionID)
		}
	}
	if c.Err() != nil {
		return nil, nil, s.fail(ctx, op, key, context.Cause(c))
	}
	return versions, markers, nil
}

// revealKey uncovers the oldest version of one key.
func (s *Store) revealKey(ctx context.Context, key string, opts *store.RevealOptions, r *store.RevealReport) error {
	versions, markers, err := s.pastOf(ctx, key)
	if err != nil {
		return err
	}
	if len(versions) == 0 {
		r.Gone++
		return nil
	}
	h := store.Hidden{Key: key, Markers: len(markers), Covers: len(versions) - 1}
	switch {
	case h.Covers > 0:
		r.Covered++
	case h.Markers > 0:
		r.Hidden++
	default:
		return nil // somebody else revealed it meanwhile
	}
	if h.Covers > 0 && !opts.Overwritten {
		h.Left = "what was created lies behind what was written over it"
	} else if err := s.uncover(ctx, &h, versions[:h.Covers], opts, r); err != nil {
		return err
	}
	for _, id := range markers {
		if err := s.take(ctx, key, id, opts); err != nil {
			return err
		}
		r.Markers++
	}
	if h.Left != "" {
		r.Left++
	}
	if opts.Found != nil {
		opts.Found(h)
	}
	return nil
}

// uncover removes the versions above a key's first, the oldest first, so that
// what readers see meanwhile is what they saw before.
func (s *Store) uncover(ctx context.Context, h *store.Hidden, above []string, opts *store.RevealOptions, r *store.RevealReport) error {
	for _, id := range slices.Backward(above) {
		err := s.take(ctx, h.Key, id, opts)
		if errs.Is(err, errs.Denied) && s.locks.Load() {
			h.Left = "what was written over it is locked itself, or the credentials may not delete: " + err.Error()
			continue
		}
		if err != nil {
			return err
		}
		r.Versions++
	}
	return nil
}

// take removes a version or a marker.
func (s *Store) take(ctx context.Context, key, id string, opts *store.RevealOptions) error {
	const op = "s3.Reveal"
	if opts.DryRun {
		return nil
	}
	c, done, err := s.begin(ctx, op, key, 0)
	if err != nil {
		return err
	}
	defer done()
	err = s.deleted(ctx, op, key, s.core.RemoveObject(c, s.bucket, s.prefix+key, minio.RemoveObjectOptions{VersionID: id}))
	if err != nil {
		return s.explainLocked(c, op, key, id, err)
	}
	return nil
}
