package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

func (s *server) registerDrafts() {
	op := operation{Tag: "drafts", Scoped: true, Detail: "Needs the permission to read, or to write, objects of its kind in its folder."}
	with := func(id, method, path, summary string, change bool) operation {
		o := op
		o.ID, o.Method, o.Path, o.Summary, o.Change = id, method, path, summary, change
		return o
	}
	add(s, with("list-drafts", http.MethodGet, "/drafts", "List every draft, the one changed last first", false), s.listDrafts)
	begin := with("create-draft", http.MethodPost, "/drafts", "Begin a draft of an object, of a copy of one, or of a new one", true)
	begin.Status = http.StatusCreated
	add(s, begin, s.createDraft)
	add(s, with("get-draft", http.MethodGet, "/drafts/{id}", "Read a draft", false), s.getDraft)
	add(s, with("save-draft", http.MethodPut, "/drafts/{id}", "Store another state of a draft", true), s.saveDraft)
	add(s, with("validate-draft", http.MethodPost, "/drafts/{id}/validate", "Find everything that would be wrong if the draft were committed now", false), s.validateDraft)
	add(s, with("commit-draft", http.MethodPost, "/drafts/{id}/commit", "Make the draft what is configured, and end it", true), s.commitDraft)
	discard := with("discard-draft", http.MethodDelete, "/drafts/{id}", "End a draft, and change nothing", true)
	discard.Status = http.StatusNoContent
	add(s, discard, s.discardDraft)
}

// parseObject reads an object as strictly as a file is read. Kind Invalid, with the
// faults.
func parseObject(k site.Kind, raw json.RawMessage) (site.Object, error) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // numbers stay as they were written
	if err := d.Decode(&fields); err != nil {
		return nil, errs.E("api", errs.Invalid, "object", err).WithRemedy("send an object of the kind's schema")
	}
	if fields == nil {
		return nil, errs.New("api", errs.Invalid, "object", "it is null").WithRemedy("send an object of the kind's schema")
	}
	fields["apiVersion"], fields["kind"] = file.APIVersion, string(k)
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, errs.E("api", errs.Invalid, "object", err)
	}
	objects, found, err := file.Parse("object", text)
	switch {
	case err != nil:
		return nil, explain(err, found)
	case len(objects) != 1:
		return nil, errs.New("api", errs.Invalid, "object", "it is not one object").WithRemedy("send an object of the kind's schema")
	}
	return objects[0], nil
}

type draftOut struct {
	ETag string `header:"ETag" doc:"Its version, for If-Match"`
	Body v1.Draft
}

func draftOf(d catalog.Draft) (*draftOut, error) {
	body, err := json.Marshal(d.Object)
	if err != nil {
		return nil, errs.E("api", errs.Internal, "draft", err)
	}
	m := site.Meta{ID: d.ID, Version: d.Version}
	return &draftOut{etag(&m), v1.Draft{
		ID: d.ID.String(), Version: uint64(d.Version), Kind: d.Object.Kind(), Name: d.Object.Head().Name, Base: uint64(d.Base), Object: body,
		By: d.By, Editor: d.Editor, Changed: d.Changed,
	}}, nil
}

type draftsOut struct{ Body v1.Page[v1.Draft] }

func (s *server) listDrafts(ctx context.Context, _ *none) (*draftsOut, error) {
	out := &draftsOut{v1.Page[v1.Draft]{Items: []v1.Draft{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		list, err := catalog.Drafts(ctx, tx)
		for _, d := range list {
			if !seen(ctx, auth.Reading(d.Object.Kind()), d.Object.Head().Folder) {
				continue
			}
			one, err := draftOf(d)
			if err != nil {
				return err
			}
			out.Body.Items = append(out.Body.Items, one.Body)
		}
		return err
	})
}

type createDraftIn struct{ Body v1.NewDraft }

func (s *server) createDraft(ctx context.Context, in *createDraftIn) (*draftOut, error) {
	if !in.Body.Name.Valid() || file.New(in.Body.Kind) == nil {
		return nil, errs.New("api", errs.Invalid, "draft", "it is not said of which object").WithRemedy("give a kind and a name, as holdfast get has them")
	}
	var given site.Object
	if len(in.Body.Object) > 0 {
		if in.Body.From != "" {
			return nil, errs.New("api", errs.Invalid, "draft", "it is to begin with an object and with a copy of another one").WithRemedy("give from or object")
		}
		var err error
		if given, err = parseObject(in.Body.Kind, in.Body.Object); err != nil {
			return nil, err
		}
		if given.Head().Name != in.Body.Name {
			return nil, errs.New("api", errs.Invalid, "draft", "the object has another name").WithRemedy("give one name")
		}
	}
	return change(ctx, s, "draft of "+string(in.Body.Kind)+" "+string(in.Body.Name), func(tx *db.Tx) (*draftOut, error) {
		o, base, err := s.draftSource(ctx, tx, &in.Body, given)
		if err != nil {
			return nil, err
		}
		if err := s.allow(ctx, auth.Writing(o.Kind()), o.Head().Folder); err != nil {
			return nil, err
		}
		d, err := catalog.NewDraft(ctx, tx, o, base, by(ctx))
		if err != nil {
			return nil, err
		}
		return draftOf(d)
	})
}

// draftSource returns what a draft begins with, and the version it is based on.
func (s *server) draftSource(ctx context.Context, tx *db.Tx, q *v1.NewDraft, given site.Object) (site.Object, site.Version, error) {
	there, err := catalog.Get(ctx, tx, q.Kind, q.Name)
	exists := err == nil
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, 0, err
	}
	if exists {
		if h := there.Object.Head(); !seen(ctx, auth.Reading(q.Kind), h.Folder) {
			return nil, 0, unseen(q.Kind, string(q.Name))
		}
		if err := s.allow(ctx, auth.Writing(q.Kind), there.Object.Head().Folder); err != nil {
			return nil, 0, err
		}
	}
	switch {
	case q.From != "":
		source, err := catalog.Get(ctx, tx, q.Kind, q.From)
		if err != nil {
			return nil, 0, err
		}
		if !seen(ctx, auth.Reading(q.Kind), source.Object.Head().Folder) {
			return nil, 0, unseen(q.Kind, string(q.From))
		}
		o, err := catalog.Copy(source.Object, q.Name)
		return o, versionIf(exists, there), err
	case given != nil && given.Head().Version != 0:
		return given, given.Head().Version, nil
	case given != nil:
		return given, versionIf(exists, there), nil
	case !exists:
		return nil, 0, err
	}
	return there.Object, there.Object.Head().Version, nil
}

func versionIf(exists bool, s catalog.Stored) site.Version {
	if !exists {
		return 0
	}
	return s.Object.Head().Version
}

// DraftIn is what operations on one draft take.
type DraftIn struct {
	ID string `path:"id" maxLength:"36" doc:"Its id"`
}

// draft returns a draft who asks may do something to.
func (s *server) draft(ctx context.Context, tx *db.Tx, id string, may func(site.Kind) auth.Permission) (catalog.Draft, error) {
	d, err := catalog.GetDraft(ctx, tx, id)
	if err != nil {
		return d, err
	}
	k, folder := d.Object.Kind(), d.Object.Head().Folder
	if !seen(ctx, auth.Reading(k), folder) {
		return d, errs.New("api", errs.NotFound, "draft "+id, "there is no such draft").WithRemedy("list the drafts there are")
	}
	return d, s.allow(ctx, may(k), folder)
}

func (s *server) getDraft(ctx context.Context, in *DraftIn) (out *draftOut, err error) {
	err = s.view(ctx, func(tx *db.Tx) error {
		d, err := s.draft(ctx, tx, in.ID, auth.Reading)
		if err != nil {
			return err
		}
		out, err = draftOf(d)
		return err
	})
	return out, err
}

type saveDraftIn struct {
	DraftIn
	IfMatch string `header:"If-Match" required:"true" maxLength:"128" doc:"The ETag of what the change is based on"`
	Body    v1.SaveDraft
}

func (s *server) saveDraft(ctx context.Context, in *saveDraftIn) (*draftOut, error) {
	v, _, _, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "draft "+in.ID, func(tx *db.Tx) (*draftOut, error) {
		d, err := s.draft(ctx, tx, in.ID, auth.Writing)
		if err != nil {
			return nil, err
		}
		o, err := parseObject(d.Object.Kind(), in.Body.Object)
		if err != nil {
			return nil, err
		}
		if err := s.allow(ctx, auth.Writing(o.Kind()), o.Head().Folder); err != nil {
			return nil, err
		}
		if d, err = catalog.SaveDraft(ctx, tx, in.ID, v, o, by(ctx)); err != nil {
			return nil, err
		}
		return draftOf(d)
	})
}

type validationOut struct{ Body v1.Validation }

func (s *server) validateDraft(ctx context.Context, in *DraftIn) (*validationOut, error) {
	out := &validationOut{}
	return out, s.view(ctx, func(tx *db.Tx) error {
		if _, err := s.draft(ctx, tx, in.ID, auth.Reading); err != nil {
			return err
		}
		found, err := s.Catalog.CheckDraft(ctx, tx, in.ID)
		out.Body = validation(found)
		return err
	})
}

// validation is what was found, as it is sent.
func validation(found problem.List) v1.Validation {
	found.Sort()
	faults := faultsOf(found)
	return v1.Validation{OK: !found.Blocked(), Faults: faults, More: found.More + len(found.All) - len(faults)}
}

// faultsOf is a list of faults that is never null and has a bound.
func faultsOf(found problem.List) []v1.Fault {
	return append([]v1.Fault{}, found.All[:min(len(found.All), maxFaults)]...)
}

type endDraftIn struct {
	DraftIn
	IfMatch string `header:"If-Match" maxLength:"128" doc:"The ETag of the draft; missing: whatever its version"`
}

type committedOut struct{ Body v1.Committed }

func (s *server) commitDraft(ctx context.Context, in *endDraftIn) (*committedOut, error) {
	v, _, _, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "draft "+in.ID, func(tx *db.Tx) (*committedOut, error) {
		if err := catalog.Turn(ctx, tx); err != nil {
			return nil, err
		}
		d, err := s.draft(ctx, tx, in.ID, auth.Writing)
		if err != nil {
			return nil, err
		}
		// The object may be elsewhere than the draft.
		old, err := catalog.Get(ctx, tx, d.Object.Kind(), d.Object.Head().Name)
		if err == nil {
			err = s.allow(ctx, auth.Writing(d.Object.Kind()), old.Object.Head().Folder)
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
		o, found, err := s.Catalog.CommitDraft(ctx, tx, in.ID, v, by(ctx))
		if err != nil {
			return nil, explain(err, found)
		}
		callOf(ctx).object = site.Label(o)
		return &committedOut{v1.Committed{Kind: o.Kind(), Name: o.Head().Name, Version: uint64(o.Head().Version), Warnings: faultsOf(found)}}, nil
	})
}

func (s *server) discardDraft(ctx context.Context, in *endDraftIn) (*nothingOut, error) {
	v, _, _, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "draft "+in.ID, func(tx *db.Tx) (*nothingOut, error) {
		if _, err := s.draft(ctx, tx, in.ID, auth.Writing); err != nil {
			return nil, err
		}
		return &nothingOut{}, catalog.DiscardDraft(ctx, tx, in.ID, v, by(ctx))
	})
}
