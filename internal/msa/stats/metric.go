package stats

import (
	"fmt"
	"strings"
)

// Metric names what is measured, with its unit. Names are stable: Prometheus knows
// them with holdfast_ before.
type Metric string

// The metrics.
const (
	RPO           Metric = "rpo_ms"
	PointAge      Metric = "newest_point_age_ms"
	HistorySpan   Metric = "history_span_ms"
	HistoryBytes  Metric = "history_bytes"
	LogUsed       Metric = "log_used_bytes"
	LogQuota      Metric = "log_quota_bytes"
	Tracked       Metric = "tracked_bytes"
	Held          Metric = "held_ms_per_s"
	WriteBytes    Metric = "write_bytes_per_s"
	WriteOps      Metric = "writes_per_s"
	SentBytes     Metric = "wan_sent_bytes_per_s"
	StoredBytes   Metric = "stored_bytes_per_s"
	PutLatency    Metric = "put_ms"
	Upkeep        Metric = "upkeep_pending_bytes"
	SyncDone      Metric = "sync_done_bytes"
	SyncTotal     Metric = "sync_total_bytes"
	ClockSkew     Metric = "clock_skew_ms"
	ApplianceLoad Metric = "appliance_load_permille"
)

// Declared is what is said of a metric.
type Declared struct {
	Metric Metric `json:"metric"`
	Unit   string `json:"unit"`
	Of     string `json:"of"` // what objects are
	Words  string `json:"words"`
}

// Table lists the metrics. A copy.
func Table() []Declared {
	return []Declared{
		{RPO, "ms", "domain, vm", "what would be lost now: since the last write that is in a point"},
		{PointAge, "ms", "domain", "how old the newest recovery point is"},
		{HistorySpan, "ms", "domain", "how far back the history reaches"},
		{HistoryBytes, "bytes", "domain", "what the history takes in the store"},
		{LogUsed, "bytes", "domain", "what waits in the replication log"},
		{LogQuota, "bytes", "domain", "what the log may hold"},
		{Tracked, "bytes", "domain, vm", "what changed and was not shipped"},
		{Held, "ms/s", "domain, vm", "how long guests were slowed down, of each second"},
		{WriteBytes, "bytes/s", "domain, vm", "what guests wrote"},
		{WriteOps, "1/s", "domain, vm", "how often guests wrote"},
		{SentBytes, "bytes/s", "domain, appliance, site", "what was sent to stores"},
		{StoredBytes, "bytes/s", "domain", "what was stored, compressed"},
		{PutLatency, "ms", "domain, store", "how long it took to put an object"},
		{Upkeep, "bytes", "domain", "what maintenance has still to delete"},
		{SyncDone, "bytes", "domain, vm", "how much of a copy is done"},
		{SyncTotal, "bytes", "domain, vm", "how much of a copy there is"},
		{ClockSkew, "ms", "appliance", "how far an appliance's clock is from the manager's"},
		{ApplianceLoad, "1/1000", "appliance", "how busy an appliance is"},
	}
}

// defined is Table for looking up; it is made once and never changed.
var defined = func() map[Metric]Declared {
	m := map[Metric]Declared{}
	for _, d := range Table() {
		m[d.Metric] = d
	}
	return m
}()

// Valid reports whether a metric is declared.
func (m Metric) Valid() bool { _, ok := defined[m]; return ok }

// Markdown renders the table for the documents.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| metric | unit | of | what |\n|---|---|---|---|\n")
	for _, d := range Table() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Metric, d.Unit, d.Of, d.Words)
	}
	return b.String()
}
