package api

import (
	"context"
	"net/http"

	v1 "holdfast/api"
	"holdfast/internal/msa/db"
)

func (s *server) registerSystem() {
	add(s, operation{
		ID: "get-health", Method: http.MethodGet, Path: "/health", Tag: "system", Open: true,
		Summary: "Whether the manager can do its work", Detail: "503, when its database does not answer.",
	}, s.health)
	add(s, operation{
		ID: "get-version", Method: http.MethodGet, Path: "/version", Tag: "system",
		Summary: "Which release answers",
	}, s.version)
}

// none is the input of an operation that takes nothing.
type none struct{}

type healthOut struct{ Body v1.Health }

func (s *server) health(ctx context.Context, _ *none) (*healthOut, error) {
	if err := s.view(ctx, func(*db.Tx) error { return nil }); err != nil {
		return nil, err
	}
	return &healthOut{v1.Health{Status: "ok"}}, nil
}

type versionOut struct{ Body v1.Version }

func (s *server) version(ctx context.Context, _ *none) (*versionOut, error) {
	out := &versionOut{v1.Version{Release: s.Release, API: "1"}}
	err := s.view(ctx, func(tx *db.Tx) error {
		out.Body.Now = db.Time(tx.Now())
		return nil
	})
	return out, err
}
