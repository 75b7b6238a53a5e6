package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/stats"
)

// Events, alarms and outlets, as they are defined.
type (
	// Outlet is where events are sent.
	Outlet = alarm.Outlet
	// AlarmCode is what is declared of a code.
	AlarmCode = alarm.Definition
	// AlarmEvent is something that happened.
	AlarmEvent = alarm.Event
	// Metric is what is declared of a metric.
	Metric = stats.Declared
)

// Alarm is a condition that holds, or did.
type Alarm struct {
	Code         string     `json:"code"`
	Object       string     `json:"object"`
	Severity     string     `json:"severity"`
	Words        string     `json:"words" doc:"What it means"`
	Detail       string     `json:"detail,omitempty" doc:"What exactly"`
	Remedy       string     `json:"remedy"`
	Count        int64      `json:"count" doc:"How often it was raised"`
	Raised       time.Time  `json:"raised"`
	Cleared      *time.Time `json:"cleared,omitempty" doc:"Missing: it holds"`
	Acknowledged *time.Time `json:"acknowledged,omitempty"`
	By           string     `json:"by,omitempty" doc:"Who acknowledged it"`
	Note         string     `json:"note,omitempty"`
}

// Acknowledge says that somebody knows of an alarm.
type Acknowledge struct {
	Code   string `json:"code" maxLength:"64"`
	Object string `json:"object" maxLength:"600"`
	Note   string `json:"note,omitempty" maxLength:"1024"`
}

// OutletState is an outlet and how it does.
type OutletState struct {
	Outlet
	Sent     int64      `json:"sent"`
	Dropped  int64      `json:"dropped" doc:"Events that were not sent because too many waited"`
	Pending  int64      `json:"pending" doc:"Events that wait"`
	Failures int64      `json:"failures" doc:"In a row"`
	Error    string     `json:"error,omitempty" doc:"Of the last attempt"`
	Last     *time.Time `json:"last,omitempty" doc:"When an event was taken last"`
}

// Series is the points of one metric of one object.
type Series struct {
	Metric string  `json:"metric"`
	Object string  `json:"object"`
	Every  string  `json:"every" doc:"How fine the points are: minute, hour or day"`
	Points []Point `json:"points"`
}

// Point is what the samples of a span came to.
type Point struct {
	At      time.Time `json:"at" doc:"The begin of the span"`
	Samples int64     `json:"samples"`
	Mean    int64     `json:"mean"`
	Least   int64     `json:"least"`
	Most    int64     `json:"most"`
}

// Alarms returns a page of alarms, the newest first: those that hold, or with all also
// those that did.
func (c *Client) Alarms(ctx context.Context, all bool, o ListOptions) (page Page[Alarm], err error) {
	q := o.query()
	if all {
		q.Set("all", "true")
	}
	err = c.Call(ctx, http.MethodGet, "/alarms", q, nil, &page)
	return page, err
}

// AcknowledgeAlarm says that somebody knows of an alarm. Kind NotFound: it does not
// hold.
func (c *Client) AcknowledgeAlarm(ctx context.Context, a Acknowledge) error {
	return c.Call(ctx, http.MethodPost, "/alarms/acknowledge", nil, a, nil)
}

// AlarmEvents returns a page of what happened, the newest first.
func (c *Client) AlarmEvents(ctx context.Context, o ListOptions) (page Page[AlarmEvent], err error) {
	err = c.Call(ctx, http.MethodGet, "/alarm-events", o.query(), nil, &page)
	return page, err
}

// AlarmCodes returns every code there is.
func (c *Client) AlarmCodes(ctx context.Context) (list []AlarmCode, err error) {
	var page Page[AlarmCode]
	err = c.Call(ctx, http.MethodGet, "/alarm-codes", nil, nil, &page)
	return page.Items, err
}

// Outlets returns every outlet.
func (c *Client) Outlets(ctx context.Context) (list []OutletState, err error) {
	var page Page[OutletState]
	err = c.Call(ctx, http.MethodGet, "/outlets", nil, nil, &page)
	return page.Items, err
}

// Outlet returns one outlet. Kind NotFound.
func (c *Client) Outlet(ctx context.Context, name string) (o OutletState, err error) {
	err = c.Call(ctx, http.MethodGet, "/outlets/"+url.PathEscape(name), nil, nil, &o)
	return o, err
}

// PutOutlet makes an outlet, or changes the one that was read: its version says which.
func (c *Client) PutOutlet(ctx context.Context, o Outlet) (out Outlet, err error) {
	err = c.Call(ctx, http.MethodPut, "/outlets/"+url.PathEscape(o.Name), nil, o, &out)
	return out, err
}

// DeleteOutlet deletes an outlet. Kind NotFound.
func (c *Client) DeleteOutlet(ctx context.Context, name string) error {
	return c.Call(ctx, http.MethodDelete, "/outlets/"+url.PathEscape(name), nil, nil, nil)
}

// TestOutlet sends a test to an outlet. Kind NotFound.
func (c *Client) TestOutlet(ctx context.Context, name string) error {
	return c.Call(ctx, http.MethodPost, "/outlets/"+url.PathEscape(name)+"/test", nil, nil, nil)
}

// Metrics returns every metric that is kept.
func (c *Client) Metrics(ctx context.Context) (list []Metric, err error) {
	var page Page[Metric]
	err = c.Call(ctx, http.MethodGet, "/stats/metrics", nil, nil, &page)
	return page.Items, err
}

// Stats returns a series, as fine as it is kept and fits an answer.
func (c *Client) Stats(ctx context.Context, metric, object string, from, to time.Time) (s Series, err error) {
	q := url.Values{"metric": {metric}, "object": {object}, "from": {from.UTC().Format(time.RFC3339)}, "to": {to.UTC().Format(time.RFC3339)}}
	err = c.Call(ctx, http.MethodGet, "/stats", q, nil, &s)
	return s, err
}

// StatObjects returns the objects that have samples of a metric, in order, behind one.
func (c *Client) StatObjects(ctx context.Context, metric, after string, limit int) (list []string, err error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	limitOf(q, limit)
	var page Page[string]
	err = c.Call(ctx, http.MethodGet, "/stats/metrics/"+url.PathEscape(metric)+"/objects", q, nil, &page)
	return page.Items, err
}

// PrometheusMetrics returns the newest values in Prometheus's text form.
func (c *Client) PrometheusMetrics(ctx context.Context) (text []byte, err error) {
	err = c.Call(ctx, http.MethodGet, "/metrics", nil, nil, &text)
	return text, err
}

// SupportBundle returns a gzipped tar archive of what somebody who helps has to know.
func (c *Client) SupportBundle(ctx context.Context) (archive []byte, err error) {
	err = c.Call(ctx, http.MethodGet, "/support-bundle", nil, nil, &archive)
	return archive, err
}
