// Package report is what a run of a plan came to, for people and auditors: steps
// with times, warnings and errors, the checkpoint of each domain, RPO and RTO, who
// asked, who agreed, notes. It is rendered as JSON, as CSV for spreadsheets, and as
// one HTML page that needs nothing else and prints well.
//
// Whatever a guest, a script or a user has said ends up in a report: HTML escapes
// all of it, CSV keeps spreadsheets from taking it for a formula, and everything has
// a bound, so that a report of any run can be kept and shown. What is cut is
// counted.
//
// A Report is plain data. Nothing here reads a clock or keeps state.
package report
