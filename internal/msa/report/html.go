package report

import (
	"bytes"
	_ "embed"
	"html/template"
	"time"

	"holdfast/internal/errs"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"stamp": stamp,
	"took":  func(d time.Duration) string { return d.Round(10 * time.Millisecond).String() },
	"secs": func(s float64) string {
		return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
	},
}).Parse(page))

// HTML renders the bounded report as one page that loads nothing from anywhere and
// runs nothing. Steps that do not fit into MaxHTML are counted.
func (r *Report) HTML() ([]byte, error) {
	b := r.Bounded()
	for {
		var out bytes.Buffer
		if err := pageTemplate.Execute(&out, b); err != nil {
			return nil, errs.E("report.HTML", errs.Internal, r.Run, err)
		}
		if out.Len() <= MaxHTML {
			return out.Bytes(), nil
		}
		// Escaping may make six bytes of one: half as many steps, until it fits.
		if len(b.Steps) == 0 {
			keep := len(b.LeftOut) / 2
			b.Cut += len(b.LeftOut) - keep
			b.LeftOut = b.LeftOut[:keep]
			continue
		}
		keep := len(b.Steps) / 2
		b.Cut += len(b.Steps) - keep
		b.Steps = b.Steps[:keep]
	}
}
