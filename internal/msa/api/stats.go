package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	v1 "holdfast/api"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/bundle"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/stats"
)

func (s *server) registerStats() {
	get := func(id, path, summary string, may auth.Permission) operation {
		return operation{ID: id, Method: http.MethodGet, Path: path, Tag: "statistics", Summary: summary, May: may}
	}
	add(s, get("list-metrics", "/stats/metrics", "Every metric that is kept", ""), s.listMetrics)
	add(s, get("list-stat-objects", "/stats/metrics/{metric}/objects", "Which objects have samples of a metric", auth.StatsRead), s.listStatObjects)
	add(s, get("get-stats", "/stats", "The points of a metric of an object, as fine as they are kept and fit an answer", auth.StatsRead), s.getStats)
	prometheus := get("get-metrics", "/metrics", "The newest values, for Prometheus", auth.StatsRead)
	prometheus.Type = "text/plain"
	prometheus.Detail = "Scrape it with an API token as bearer token. Of several replicas each tells of the appliances that report to it: scrape all."
	add(s, prometheus, s.getMetrics)
	support := get("get-support-bundle", "/support-bundle", "What somebody who helps has to know, without a secret", auth.SystemAdmin)
	support.Type, support.Stream = "application/gzip", true
	support.Detail = "A gzipped tar archive: configuration, inventories, alarms, runs, events, metrics."
	add(s, support, s.getBundle)
}

func (s *server) listMetrics(context.Context, *none) (*every[stats.Declared], error) {
	return everyOf(stats.Table()), nil
}

type statObjectsIn struct {
	Metric string `path:"metric" maxLength:"64"`
	After  string `query:"after" maxLength:"600" doc:"The last object that is known already"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
}

func (s *server) listStatObjects(ctx context.Context, in *statObjectsIn) (*every[string], error) {
	var list []string
	err := s.view(ctx, func(tx *db.Tx) (err error) {
		list, err = stats.Objects(ctx, tx, stats.Metric(db.Text(in.Metric, 64)), in.After, in.Limit)
		return err
	})
	return everyOf(list), err
}

type statsIn struct {
	Metric string    `query:"metric" required:"true" maxLength:"64" doc:"As rpo_ms"`
	Object string    `query:"object" required:"true" maxLength:"600" doc:"As domain erp"`
	From   time.Time `query:"from" doc:"Missing: an hour before to"`
	To     time.Time `query:"to" doc:"Missing: now"`
}

func (s *server) getStats(ctx context.Context, in *statsIn) (*item[v1.Series], error) {
	return read(ctx, s, func(tx *db.Tx) (v1.Series, error) {
		q := stats.Query{Metric: stats.Metric(in.Metric), Object: in.Object, From: in.From, To: in.To}
		if q.To.IsZero() {
			q.To = db.Time(tx.Now())
		}
		if q.From.IsZero() {
			q.From = q.To.Add(-time.Hour)
		}
		level, points, err := stats.Read(ctx, tx, q)
		out := v1.Series{Metric: in.Metric, Object: in.Object, Every: level.String(), Points: []v1.Point{}}
		for _, p := range points {
			out.Points = append(out.Points, v1.Point(p))
		}
		return out, err
	})
}

type metricsOut struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func (s *server) getMetrics(context.Context, *none) (*metricsOut, error) {
	b, err := s.exposition.Text()
	return &metricsOut{stats.ContentType, b}, err
}

func (s *server) getBundle(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
	c := callOf(ctx)
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "application/gzip")
		hc.SetHeader("Content-Disposition", `attachment; filename="holdfast-support.tar.gz"`)
		if err := bundle.Write(ctx, hc.BodyWriter(), bundle.Options{DB: s.DB, Release: s.Release, Metrics: s.exposition.Text}); err != nil {
			// The archive has no end: nobody takes it for whole.
			s.Logger.Warn("a support bundle broke off", "request", c.id, "err", err)
		}
	}}, nil
}
