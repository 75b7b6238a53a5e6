package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// TryStore is the kind of the step that tries a store; its input is a StoreTrial. The
// door has what does it: only the door knows how stores are reached.
const TryStore = "store.try"

// tryFor bounds a trial: a store that answers slowly takes some minutes.
const tryFor = 30 * time.Minute

// StoreTrial is the input of a step that tries a store.
type StoreTrial struct {
	Name site.Name `json:"name"`
	URL  string    `json:"url"`
	// Credential is the name of the sealed secret it is tried with; "": the process's own.
	Credential site.Name `json:"credential,omitempty"`
	Role       string    `json:"role"`
	Quick      bool      `json:"quick,omitempty"`
}

func (s *server) registerStores() {
	add(s, operation{
		ID: "try-store", Method: http.MethodPost, Path: "/stores/{name}/try", Tag: "stores", May: auth.StoreWrite, Scoped: true, Change: true, Status: http.StatusAccepted,
		Summary: "Try adversarially whether a store keeps its promises",
		Detail:  "A task: what does not hold is in its notes, everything in its result; it fails if the role cannot use the store. The store's credential is used, or, if it names none, what the manager's process has. What is written is below probe/, and removed at the end.",
	}, s.tryStore)
}

type tryStoreIn struct {
	NameIn
	Body v1.TryStore
}

func (s *server) tryStore(ctx context.Context, in *tryStoreIn) (*StartedOut, error) {
	role := in.Body.Role
	if role == "" {
		role = "publisher"
	}
	out, err := change(ctx, s, "store "+in.Name, func(tx *db.Tx) (*StartedOut, error) {
		st, err := catalog.Find[*site.Store](ctx, tx, site.Name(in.Name))
		if err != nil {
			return nil, err
		}
		if !seen(ctx, auth.StoreRead, st.Folder) {
			return nil, unseen(site.KindStore, in.Name)
		}
		if err := s.allow(ctx, auth.StoreWrite, st.Folder); err != nil {
			return nil, err
		}
		input, err := json.Marshal(StoreTrial{Name: st.Name, URL: st.URL, Credential: st.Credential, Role: role, Quick: in.Body.Quick})
		if err != nil {
			return nil, errs.E("api", errs.Internal, "store "+in.Name, err)
		}
		id, err := s.startTask(ctx, tx, "try", "store "+in.Name, runs.Step{Name: "try", Kind: TryStore, Version: 1, Input: input, Limit: tryFor})
		if err != nil {
			return nil, err
		}
		return s.started(ctx, tx, id)
	})
	s.wake()
	return out, err
}
