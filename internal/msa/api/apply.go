package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/site"
)

func (s *server) registerApply() {
	op := operation{Tag: "files", Scoped: true, Body: file.MaxBytes}
	diff, apply, export := op, op, op
	diff.ID, diff.Method, diff.Path, diff.Summary = "diff", http.MethodPost, "/diff", "Compare a file with what is configured"
	diff.Detail = "Needs the permission to read what it describes. What you may not read is as if it were not there."
	add(s, diff, s.diff)
	apply.ID, apply.Method, apply.Path, apply.Summary, apply.Change = "apply", http.MethodPost, "/apply", "Make what is configured as a file says, all of it or nothing", true
	apply.Detail = "Needs the permission to write each object that changes, where it is and where it goes. Applied again, it changes nothing."
	add(s, apply, s.apply)
	export.ID, export.Method, export.Path, export.Summary, export.Type = "export", http.MethodGet, "/export", "Write what is configured as a file", "application/yaml"
	export.Detail = "What you may not read is left out. Applying the file changes nothing."
	add(s, export, s.export)
}

// FileIn is a file that is compared or applied.
type FileIn struct {
	Prune   bool   `query:"prune" doc:"What the file does not describe is deleted"`
	RawBody []byte `contentType:"application/yaml"`
}

// wanted parses the file.
func (in *FileIn) wanted() ([]site.Object, error) {
	objects, found, err := file.Parse("file", in.RawBody)
	return objects, explain(err, found)
}

// compare says what applying objects changes, as far as who asks may see.
func (s *server) compare(ctx context.Context, tx *db.Tx, wanted []site.Object, prune bool) (*v1.Applied, *file.Changes, error) {
	changes, found, err := s.Catalog.Diff(ctx, tx, wanted, prune, func(o site.Object) bool { return seen(ctx, auth.Reading(o.Kind()), o.Head().Folder) })
	if err != nil {
		return nil, nil, err
	}
	digest, err := digestOf(changes)
	return &v1.Applied{Changes: *changes, Digest: digest, Faults: faultsOf(found)}, changes, err
}

func digestOf(c *file.Changes) (string, error) {
	b, err := json.Marshal(c.All)
	if err != nil {
		return "", errs.E("api", errs.Internal, "changes", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

type appliedOut struct{ Body v1.Applied }

func (s *server) diff(ctx context.Context, in *FileIn) (*appliedOut, error) {
	wanted, err := in.wanted()
	if err != nil {
		return nil, err
	}
	var out *appliedOut
	return out, s.view(ctx, func(tx *db.Tx) error {
		a, _, err := s.compare(ctx, tx, wanted, in.Prune)
		if err == nil {
			out = &appliedOut{*a}
		}
		return err
	})
}

type applyIn struct {
	FileIn
	Expect string `query:"expect" maxLength:"64" doc:"The digest that diff gave: 412, if other changes would be made by now"`
}

func (s *server) apply(ctx context.Context, in *applyIn) (*appliedOut, error) {
	wanted, err := in.wanted()
	if err != nil {
		return nil, err
	}
	return change(ctx, s, fmt.Sprintf("file of %d objects", len(wanted)), func(tx *db.Tx) (*appliedOut, error) {
		// A repeated transaction begins with objects that have no id of the last try.
		objects, err := in.wanted()
		if err != nil {
			return nil, err
		}
		if err := catalog.Turn(ctx, tx); err != nil {
			return nil, err
		}
		a, changes, err := s.compare(ctx, tx, objects, in.Prune)
		if err != nil {
			return nil, err
		}
		if in.Expect != "" && in.Expect != a.Digest {
			return nil, errs.E("api", errs.Conflict, "file", fmt.Errorf("%w: other changes would be made than those you saw", catalog.ErrStale)).WithRemedy("compare again")
		}
		callOf(ctx).allowed = true // to change nothing; what changes is asked for one by one
		for _, ch := range changes.All {
			if err := s.allowChange(ctx, tx, ch); err != nil {
				return nil, err
			}
		}
		found, err := s.Catalog.Apply(ctx, tx, changes, by(ctx))
		if err != nil {
			return nil, explain(err, found)
		}
		callOf(ctx).detail = summary(changes)
		a.Done, a.Faults = true, faultsOf(found)
		return &appliedOut{*a}, nil
	})
}

// allowChange refuses a change that who asks may not make, where the object is and
// where it goes.
func (s *server) allowChange(ctx context.Context, tx *db.Tx, ch file.ObjectChange) error {
	may := auth.Writing(ch.Kind)
	if ch.Action != file.Create {
		old, err := catalog.Get(ctx, tx, ch.Kind, ch.Name)
		if err != nil {
			return err
		}
		if err := s.allow(ctx, may, old.Object.Head().Folder); err != nil {
			return err
		}
	}
	if ch.Action == file.Delete {
		return nil
	}
	return s.allow(ctx, may, ch.Object.Head().Folder)
}

// summary says in a line what changed, for the audit log.
func summary(c *file.Changes) string {
	text := ""
	for i, ch := range c.All {
		word := fmt.Sprintf("%s %s %s", ch.Action, ch.Kind, ch.Name)
		if len(text)+len(word) > 1500 {
			return text + fmt.Sprintf(", and %d more", len(c.All)-i)
		}
		if text != "" {
			text += ", "
		}
		text += word
	}
	return text
}

type exportIn struct {
	Kind   string `query:"kind" maxLength:"40" doc:"Only objects of this kind"`
	Name   string `query:"name" maxLength:"63" doc:"Only the one of this name; needs kind"`
	Folder string `query:"folder" maxLength:"255" doc:"Only what is in this folder and below"`
}

type exportOut struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func (s *server) export(ctx context.Context, in *exportIn) (*exportOut, error) {
	if in.Name != "" && in.Kind == "" {
		return nil, errs.New("api", errs.Invalid, "name", "objects of every kind may have one name").WithRemedy("give the kind besides")
	}
	var kept []site.Object
	err := s.view(ctx, func(tx *db.Tx) error {
		if in.Name != "" {
			stored, err := catalog.Get(ctx, tx, site.Kind(in.Kind), site.Name(in.Name))
			if err == nil && !seen(ctx, auth.Reading(stored.Object.Kind()), stored.Object.Head().Folder) {
				err = unseen(stored.Object.Kind(), in.Name)
			}
			kept = append(kept, stored.Object)
			return err
		}
		var kinds []site.Kind
		if in.Kind != "" {
			if file.New(site.Kind(in.Kind)) == nil {
				return errs.New("api", errs.NotFound, "kind "+in.Kind, "there are no objects of this kind").WithRemedy("see the kinds of holdfast get --help")
			}
			kinds = append(kinds, site.Kind(in.Kind))
		}
		all, err := catalog.All(ctx, tx, kinds...)
		for _, o := range all {
			h := o.Head()
			if seen(ctx, auth.Reading(o.Kind()), h.Folder) && (in.Folder == "" || h.Folder.Below(site.Ref(in.Folder))) {
				kept = append(kept, o)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	text, err := file.Export(kept)
	return &exportOut{"application/yaml", text}, err
}
