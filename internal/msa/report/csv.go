package report

import (
	"bytes"
	"encoding/csv"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/errs"
)

// columns of the table: one row for each step, with the run's data on each, so
// that reports of many runs can be put in one sheet.
var columns = []string{"run", "plan", "operation", "run_status", "by", "number", "group", "vm", "title", "status", "began", "ended", "seconds", "warnings", "errors"}

// CSV renders the bounded report's steps, one a row, after a row of names. A cell
// that a spreadsheet would take for a formula begins with an apostrophe.
func (r *Report) CSV() ([]byte, error) {
	b := r.Bounded()
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	_ = w.Write(columns) // a Buffer takes everything; Error tells what else there is
	for i := range b.Steps {
		s := &b.Steps[i]
		row := []string{b.Run, b.Plan, b.Operation, string(b.Status), b.By, s.Number, s.Group, s.VM, s.Title, string(s.Status),
			stamp(s.Began), stamp(s.Ended), seconds(s.Took()), strings.Join(s.Warnings, "; "), strings.Join(s.Errors, "; ")}
		for j := range row {
			row[j] = plain(row[j])
		}
		_ = w.Write(row)
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return nil, errs.E("report.CSV", errs.Internal, r.Run, err)
	}
	return out.Bytes(), nil
}

// plain keeps a spreadsheet from running a cell.
func plain(s string) string {
	// What encoding/csv cannot bring back as it was goes, too: a lone carriage
	// return, and zero bytes, which some programs take for an end.
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "").Replace(s)
	if s != "" && strings.ContainsRune("=+-@\t\n|%", rune(s[0])) {
		return "'" + s
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}
