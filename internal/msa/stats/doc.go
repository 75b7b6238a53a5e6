// Package stats keeps how things went: samples of declared metrics of VMs, domains,
// appliances, stores and sites, by the minute, the hour and the day, and shown to
// Prometheus.
//
//	Observe ──▶ Recorder (memory, one minute at most) ──Flush─┬─▶ minutes   48 h
//	                 │                                        ├─▶ hours     62 d
//	                 └──▶ /metrics                            └─▶ days      5 y
//
// A row has how many samples there were, their sum, the least and the most. Each flush
// merges its samples into the rows of all levels in one transaction: merging is
// associative, so that hours and days are at any moment what one computation over all
// samples would give, from however many replicas, without reading a minute again.
//
// What a killed replica had not flushed is lost: a minute of statistics. Values are
// integers in the metric's unit, bounded so that no sum overflows.
package stats
