package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/internal/errs"
)

// Bounds of one report. A run of 2,000 VMs has some 12,000 steps, with little to say in most.
const (
	MaxSteps    = 50000
	MaxDomains  = 1000
	MaxLeftOut  = 2000
	MaxMessages = 20      // warnings, and errors, of one step
	MaxMessage  = 1024    // bytes of one
	MaxName     = 255     // bytes of a domain's name, tag or kind of checkpoint
	MaxOutput   = 4 << 10 // bytes kept of a script's output: its end
	MaxNotes    = 8 << 10
	// MaxTotal bounds the text of all steps, bytes. The steps after that are counted.
	MaxTotal = 4 << 20
	// MaxHTML bounds the page, bytes; steps that do not fit are counted.
	MaxHTML = 16 << 20
	// MaxJSON bounds what Decode reads, bytes: MaxTotal, each byte of it escaped by
	// six, with as much again for what is around it.
	MaxJSON = 12 * MaxTotal
)

// Status is how a step, or a run, ended. Names are stable.
type Status string

// The statuses.
const (
	Inactive    Status = "inactive"
	Running     Status = "running"
	Success     Status = "success"
	Warning     Status = "warning"
	Error       Status = "error"
	Skipped     Status = "skipped"
	Cancelled   Status = "cancelled"
	AlreadyDone Status = "already-done"
)

// Report is the report of one run.
type Report struct {
	Run       string    `json:"run"`
	Plan      string    `json:"plan"`
	Version   uint64    `json:"plan_version,omitempty"`
	Operation string    `json:"operation"`
	From      string    `json:"from,omitempty"`
	To        string    `json:"to,omitempty"`
	Status    Status    `json:"status"`
	State     string    `json:"state,omitempty"` // of the plan, afterwards
	By        string    `json:"by,omitempty"`
	Agreed    string    `json:"agreed,omitempty"` // the second person
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended,omitzero"` // zero: it goes on
	Notes     string    `json:"notes,omitempty"`
	Domains   []Domain  `json:"domains,omitempty"`
	Steps     []Step    `json:"steps,omitempty"`
	LeftOut   []string  `json:"left_out,omitempty"` // VMs, and why
	Cut       int       `json:"cut,omitempty"`      // steps and messages that did not fit
}

// Domain is what a run came to for one domain.
type Domain struct {
	Name       string    `json:"name"`
	Checkpoint uint64    `json:"checkpoint,omitempty"`
	Time       time.Time `json:"checkpoint_time,omitzero"`
	Kind       string    `json:"checkpoint_kind,omitempty"`
	Tag        string    `json:"tag,omitempty"`
	RPO        float64   `json:"rpo_seconds"` // age of the checkpoint when the run began, or when the source stopped
	RTO        float64   `json:"rto_seconds"` // from the begin until its last VM was up; 0: it is not
	VMs        int       `json:"vms"`
	Up         int       `json:"vms_up"`
}

// Step is one step of a run.
type Step struct {
	Number   string    `json:"number"` // as "3.1.2"
	Title    string    `json:"title"`
	Group    string    `json:"group,omitempty"`
	VM       string    `json:"vm,omitempty"`
	Status   Status    `json:"status"`
	Began    time.Time `json:"began,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Warnings []string  `json:"warnings,omitempty"`
	Errors   []string  `json:"errors,omitempty"`
	Output   string    `json:"output,omitempty"` // of a script: the end of it
}

// Took is how long a step took, or 0.
func (s *Step) Took() time.Duration { return took(s.Began, s.Ended) }

// Took is how long the run took, or 0.
func (r *Report) Took() time.Duration { return took(r.Began, r.Ended) }

func took(a, b time.Time) time.Duration {
	if a.IsZero() || b.IsZero() {
		return 0
	}
	return max(0, b.Sub(a))
}

// Warnings and Errors count those of all steps.
func (r *Report) Warnings() (n int) {
	for i := range r.Steps {
		n += len(r.Steps[i].Warnings)
	}
	return n
}

// Errors counts the errors of all steps.
func (r *Report) Errors() (n int) {
	for i := range r.Steps {
		n += len(r.Steps[i].Errors)
	}
	return n
}

// Bounded returns a copy in which everything keeps its bound; what does not fit is
// counted in Cut. Text becomes valid UTF-8.
func (r *Report) Bounded() *Report {
	b := *r
	b.Run, b.Plan, b.Operation, b.From, b.To, b.State = short(r.Run), short(r.Plan), short(r.Operation), short(r.From), short(r.To), short(r.State)
	b.Status, b.By, b.Agreed, b.Notes = Status(short(string(r.Status))), short(r.By), short(r.Agreed), head(r.Notes, MaxNotes)
	b.Domains = nil
	for i, d := range r.Domains {
		if i >= MaxDomains {
			b.Cut += len(r.Domains) - i
			break
		}
		d.Name, d.Kind, d.Tag = head(d.Name, MaxName), head(d.Kind, MaxName), head(d.Tag, MaxName)
		b.Domains = append(b.Domains, d)
	}
	b.LeftOut, b.Cut = messages(r.LeftOut, MaxLeftOut, b.Cut)
	b.Steps = nil
	total := 0
	for i, s := range r.Steps {
		if i >= MaxSteps {
			b.Cut += len(r.Steps) - i
			break
		}
		s.Number, s.Title, s.Group, s.VM, s.Status = short(s.Number), short(s.Title), short(s.Group), short(s.VM), Status(short(string(s.Status)))
		s.Output = tail(s.Output, MaxOutput)
		s.Warnings, b.Cut = messages(s.Warnings, MaxMessages, b.Cut)
		s.Errors, b.Cut = messages(s.Errors, MaxMessages, b.Cut)
		if total += s.size(); total > MaxTotal {
			b.Cut += len(r.Steps) - i
			break
		}
		b.Steps = append(b.Steps, s)
	}
	return &b
}

// size is the bytes of a step's text.
func (s *Step) size() int {
	n := len(s.Number) + len(s.Title) + len(s.Group) + len(s.VM) + len(s.Output)
	for _, m := range append(s.Warnings[:len(s.Warnings):len(s.Warnings)], s.Errors...) {
		n += len(m)
	}
	return n
}

func messages(list []string, most, cut int) (kept []string, total int) {
	if len(list) > most {
		cut += len(list) - most
		list = list[:most]
	}
	for _, m := range list {
		kept = append(kept, short(m))
	}
	return kept, cut
}

func short(s string) string { return head(s, MaxMessage) }

const more = "…" // stands where something was cut

// head keeps the begin of s, and says so. Of a long text no more is looked at
// than is kept.
func head(s string, most int) string {
	long := len(s) > most+utf8.UTFMax
	if long {
		s = s[:most+utf8.UTFMax]
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	if !long && len(s) <= most {
		return s
	}
	end := min(len(s), most-len(more))
	for end > 0 && end < len(s) && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}

// tail keeps the end of s, and says so.
func tail(s string, most int) string {
	long := len(s) > most+utf8.UTFMax
	if long {
		s = s[len(s)-most-utf8.UTFMax:]
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	if !long && len(s) <= most {
		return s
	}
	begin := max(0, len(s)-most+len(more))
	for begin < len(s) && !utf8.RuneStart(s[begin]) {
		begin++
	}
	return more + s[begin:]
}

// JSON renders the bounded report, indented, with a line feed at its end.
func (r *Report) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(r.Bounded()); err != nil {
		return nil, errs.E("report.JSON", errs.Invalid, r.Run, err) // a time beyond year 9999
	}
	return b.Bytes(), nil
}

// Decode reads what JSON renders. Kinds: Invalid; Full, when there is more than
// any report has.
func Decode(b []byte) (*Report, error) {
	const op = "report.Decode"
	if len(b) > MaxJSON {
		return nil, errs.New(op, errs.Full, "", "the report is larger than any may be")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var r Report
	if err := d.Decode(&r); err != nil {
		return nil, errs.E(op, errs.Invalid, "", err)
	}
	return r.Bounded(), nil
}
