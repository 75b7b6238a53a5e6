package stats

import (
	"bytes"
	"context"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
)

// collector shows the newest samples, and what the database counts.
type collector struct {
	r   *Recorder
	d   *db.DB
	log *slog.Logger
}

var (
	alarmsDesc  = prometheus.NewDesc("holdfast_alarms", "Alarms that hold.", []string{"code", "severity", "acknowledged"}, nil)
	vmsDesc     = prometheus.NewDesc("holdfast_vms", "VMs of a site.", []string{"site", "state"}, nil)
	siteDesc    = prometheus.NewDesc("holdfast_site_reached", "1 if the site's platform answers.", []string{"site"}, nil)
	runsDesc    = prometheus.NewDesc("holdfast_runs", "Runs of plans that have not ended.", []string{"state"}, nil)
	pendingDesc = prometheus.NewDesc("holdfast_outlet_pending", "Events that wait at an outlet.", []string{"outlet"}, nil)
	droppedDesc = prometheus.NewDesc("holdfast_samples_dropped_total", "Samples that did not fit.", nil, nil)
	upDesc      = prometheus.NewDesc("holdfast_database_up", "1 if the manager's database answers.", nil, nil)
	sampleDescs = func() map[Metric]*prometheus.Desc {
		m := map[Metric]*prometheus.Desc{}
		for _, d := range Table() {
			m[d.Metric] = prometheus.NewDesc("holdfast_"+string(d.Metric), d.Words+" ("+d.Unit+").", []string{"kind", "name"}, nil)
		}
		return m
	}()
)

// Exposition renders metrics for Prometheus: this replica's samples, what the database
// counts, and how the process does. Make it with NewExposition; for concurrent use.
type Exposition struct{ reg *prometheus.Registry }

// NewExposition returns what renders a recorder's samples. A nil log is none.
func NewExposition(r *Recorder, d *db.DB, log *slog.Logger) *Exposition {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(&collector{r, d, log}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Exposition{reg}
}

// ContentType is the media type of Text.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Text renders them in Prometheus's text form. Kind Internal: a metric that is not as
// it was declared.
func (e *Exposition) Text() ([]byte, error) {
	const op = "stats.Text"
	families, err := e.reg.Gather()
	if err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return nil, errs.E(op, errs.Internal, f.GetName(), err)
		}
	}
	return b.Bytes(), nil
}

// Describe sends every description.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range sampleDescs {
		ch <- d
	}
	for _, d := range []*prometheus.Desc{alarmsDesc, vmsDesc, siteDesc, runsDesc, pendingDesc, droppedDesc, upDesc} {
		ch <- d
	}
}

// Collect sends every value. What the database does not tell is missing, and said so.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.r.mu.Lock()
	old := c.r.now().Add(-freshFor)
	for s, l := range c.r.newest {
		if kind, name, ok := strings.Cut(s.object, " "); ok && !l.at.Before(old) {
			ch <- prometheus.MustNewConstMetric(sampleDescs[s.metric], prometheus.GaugeValue, float64(l.value), kind, strings.ToValidUTF8(name, "_"))
		}
	}
	dropped := c.r.dropped
	c.r.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(dropped))
	ctx, cancel := context.WithTimeout(context.Background(), scrapeFor)
	defer cancel()
	up := 1.0
	if list, err := c.counts(ctx); err != nil {
		c.log.Warn("a scrape lacks what the database counts", "err", err)
		up = 0
	} else {
		for _, m := range list {
			ch <- m
		}
	}
	ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up)
}

// counts asks the database.
func (c *collector) counts(ctx context.Context) (list []prometheus.Metric, err error) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	err = c.d.View(ctx, func(tx *db.Tx) error {
		list = nil
		err := tx.Rows(ctx, `SELECT code, CASE WHEN acknowledged_at = 0 THEN 'no' ELSE 'yes' END, count(*) FROM alarms WHERE cleared_at = 0
			GROUP BY code, CASE WHEN acknowledged_at = 0 THEN 'no' ELSE 'yes' END`, nil, func(scan func(...any) error) error {
			var code, known string
			var n int64
			if err := scan(&code, &known, &n); err != nil {
				return err
			}
			d, _ := alarm.Of(alarm.Code(code))
			gauge(alarmsDesc, float64(n), code, string(d.Severity), known)
			return nil
		})
		if err != nil {
			return err
		}
		for desc, query := range map[*prometheus.Desc]string{
			runsDesc:    `SELECT state, count(*) FROM runs WHERE ended_at = 0 GROUP BY state`,
			pendingDesc: `SELECT outlet, count(*) FROM deliveries GROUP BY outlet`,
		} {
			if err := tx.Rows(ctx, query, nil, func(scan func(...any) error) error {
				var label string
				var n int64
				if err := scan(&label, &n); err != nil {
					return err
				}
				gauge(desc, float64(n), label)
				return nil
			}); err != nil {
				return err
			}
		}
		sites, err := inventory.Sites(ctx, tx)
		for _, s := range sites {
			reached := 0.0
			if s.Away.IsZero() && !s.Seen.IsZero() {
				reached = 1
			}
			gauge(siteDesc, reached, string(s.Site))
			gauge(vmsDesc, float64(s.Running), string(s.Site), "running")
			gauge(vmsDesc, float64(s.VMs-s.Running), string(s.Site), "off")
			gauge(vmsDesc, float64(s.Placeholders), string(s.Site), "placeholder")
		}
		return err
	})
	return list, err
}
