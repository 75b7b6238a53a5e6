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

// bounded is a buffer that takes MaxHTML bytes and no more.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxHTML {
		return 0, errs.New("report.HTML", errs.Full, "", "the page has become too large")
	}
	return b.Buffer.Write(p)
}

// HTML renders the bounded report as one page that loads nothing from anywhere and
// runs nothing. Steps that do not fit into MaxHTML are counted: escaping may make
// six bytes of one.
func (r *Report) HTML() ([]byte, error) {
	b := r.Bounded()
	for {
		var out bounded
		err := pageTemplate.Execute(&out, b)
		switch {
		case err == nil:
			return out.Bytes(), nil
		case errs.Is(err, errs.Full) && len(b.Steps) > 0:
			keep := len(b.Steps) / 2
			b.Cut += len(b.Steps) - keep
			b.Steps = b.Steps[:keep]
		case errs.Is(err, errs.Full) && len(b.LeftOut) > 0:
			keep := len(b.LeftOut) / 2
			b.Cut += len(b.LeftOut) - keep
			b.LeftOut = b.LeftOut[:keep]
		default:
			return nil, errs.E("report.HTML", errs.Internal, r.Run, err)
		}
	}
}
