package recovery

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"holdfast/internal/errs"
)

// reportName is the report's file in a run's directory.
const reportName = "report.json"

// Report is what a run came to, for people and auditors.
type Report struct {
	Run       string     `json:"run"`
	Operation Operation  `json:"operation"`
	State     State      `json:"state"`
	Domain    string     `json:"domain"`
	Name      string     `json:"name"`
	By        string     `json:"by,omitempty"`
	Note      string     `json:"note,omitempty"`
	Point     string     `json:"point"`
	Chosen    string     `json:"chosen,omitempty"`
	Forced    bool       `json:"forced,omitempty"`
	Began     time.Time  `json:"began"`
	Ended     time.Time  `json:"ended"`
	RTO       float64    `json:"rto_seconds,omitempty"` // from the begin to the last VM's start
	RPO       float64    `json:"rpo_seconds,omitempty"` // age of the point at the begin
	Bytes     int64      `json:"bytes_read"`
	Evidence  []string   `json:"evidence,omitempty"` // files below evidence/
	VMs       []VMLine   `json:"vms"`
	Steps     []StepLine `json:"steps"`
	Error     string     `json:"error,omitempty"`
	Remedy    string     `json:"remedy,omitempty"`
	Warnings  int        `json:"warnings"`
}

// VMLine is a VM in a report.
type VMLine struct {
	Name  string    `json:"name"`
	Group int       `json:"group"`
	State string    `json:"vm_state"`
	Began time.Time `json:"started,omitzero"`
	Error string    `json:"error,omitempty"`
}

// StepLine is a step in a report.
type StepLine struct {
	Try      int        `json:"try"`
	Action   Action     `json:"action"`
	Name     string     `json:"step"`
	Status   StepStatus `json:"status"`
	Seconds  float64    `json:"seconds"`
	Warnings []string   `json:"warnings,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// ReportOf makes the report of a record.
func ReportOf(rec *Record) *Report {
	p := &Report{
		Run: rec.ID.String(), Operation: rec.Operation, State: rec.State, Domain: rec.Domain.String(), Name: rec.Name,
		By: rec.Request.By, Note: rec.Request.Note, Point: brief(rec.Checkpoint), Chosen: rec.Chosen, Forced: rec.Request.Forced,
		Began: rec.Created, Ended: rec.Updated, Bytes: rec.Bytes, Error: rec.Error, Remedy: rec.Remedy, VMs: []VMLine{}, Steps: []StepLine{},
	}
	if !rec.BootedAt.IsZero() {
		p.RTO = rec.BootedAt.Sub(rec.Created).Seconds()
	}
	if rec.Checkpoint != nil {
		p.RPO = max(0, rec.Created.Sub(rec.Checkpoint.Time).Seconds())
	}
	for i := range rec.VMs {
		v := &rec.VMs[i]
		p.VMs = append(p.VMs, VMLine{v.Config.Name, v.Group, v.State, v.Started, v.Error})
		if v.Shot != "" {
			p.Evidence = append(p.Evidence, v.Shot)
		}
		if !v.Started.IsZero() {
			p.Evidence = append(p.Evidence, fileName(v.Config.Name, v.Config.ID.UUID)+".serial.log")
		}
	}
	for _, s := range rec.Steps {
		l := StepLine{s.Try, s.Action, s.Name, s.Status, 0, s.Warnings, s.Error}
		if !s.Ended.IsZero() {
			l.Seconds = s.Ended.Sub(s.Begun).Seconds()
		}
		p.Warnings += len(s.Warnings)
		p.Steps = append(p.Steps, l)
	}
	return p
}

// report writes the report of the run as it stands.
func (r *Run) report() error { return r.writeJSON(r.path(reportName), ReportOf(r.Record())) }

// Report returns the report of the run in dir as it stands now.
func (s *Service) Report(dir string) (*Report, error) {
	rec, err := readRecord(s.fs, dir)
	if err != nil {
		return nil, err
	}
	return ReportOf(rec), nil
}

// Print writes the report for people.
func (p *Report) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s of %s\t%s\n", p.Operation, p.Name, p.State)
	fmt.Fprintf(w, "point\t%s\n", p.Point)
	fmt.Fprintf(w, "began\t%s\n", p.Began.Format(time.RFC3339))
	if p.RTO > 0 {
		fmt.Fprintf(w, "rto\t%.1f s until the last VM was started\n", p.RTO)
		fmt.Fprintf(w, "rpo\t%.1f s at the begin\n", p.RPO)
	}
	fmt.Fprintf(w, "read from the store\t%d bytes\n", p.Bytes)
	for _, v := range p.VMs {
		fmt.Fprintf(w, "vm %s\t%s %s\n", v.Name, v.State, v.Error)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(w, "%s / %s\t%s\t%.1f s\t%s\n", s.Action, s.Name, s.Status, s.Seconds, s.Error)
		for _, words := range s.Warnings {
			fmt.Fprintf(w, "  warning\t%s\n", words)
		}
	}
	for _, e := range p.Evidence {
		fmt.Fprintf(w, "evidence\tevidence/%s\n", e)
	}
	if p.Error != "" {
		fmt.Fprintf(w, "error\t%s\n  remedy\t%s\n", p.Error, p.Remedy)
	}
	if err := w.Flush(); err != nil {
		return errs.E("recovery.Report", errs.Unavailable, "", err)
	}
	return nil
}
