package journal

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// points is a history of six checkpoints, a minute apart from 12:00.
func points() []CheckpointInfo {
	var out []CheckpointInfo
	for i := range 6 {
		out = append(out, CheckpointInfo{
			Checkpoint:  dr.Checkpoint{ID: dr.CheckpointID(10 + i), Time: testNow.Add(time.Duration(i) * time.Minute), Scope: dr.Group},
			Recoverable: true,
		})
	}
	out[0].Recoverable, out[0].Why = false, "baseline was not complete"
	out[2].Tag = "before patch"
	out[1].Kind, out[5].Kind = dr.AppConsistent, dr.AppConsistent
	out[4].Scope = dr.Partial
	out[5].Recoverable, out[5].Why, out[5].Tag = false, "it rests on a lost object", "after patch"
	return out
}

func TestFind(t *testing.T) {
	h := &History{points: points()}
	for spec, want := range map[string]dr.CheckpointID{
		"latest":                         13,
		" latest ":                       13,
		"app":                            11,
		"12":                             12,
		"#12":                            12,
		"14":                             14, // partial, by name
		"tag:before patch":               12,
		"2026-03-01T12:02:30Z":           12,
		"2026-03-01T13:02:30+01:00":      12,
		"2026-03-01 12:01:00":            11,
		"2026-03-01 12:09:00":            13,
		"nearest:2026-03-01 12:02:40":    13,
		"nearest:2026-03-01T10:00:00Z":   11,
		"nearest: 2026-03-01T12:01:10Z ": 11,
	} {
		got, err := h.Find(spec)
		if err != nil || got.ID != want {
			t.Errorf("%q: #%d, %v; want #%d", spec, got.ID, err, want)
		}
	}
	for spec, c := range map[string]struct {
		kind  errs.Kind
		words string
	}{
		"#10":                 {errs.Unavailable, "baseline was not complete"},
		"#15":                 {errs.Unavailable, "lost object"},
		"#99":                 {errs.NotFound, "#15"},
		"tag:after patch":     {errs.Unavailable, "lost object"},
		"tag:nothing":         {errs.NotFound, "before patch (#12)"},
		"tag:":                {errs.NotFound, "tags there are"},
		"2026-03-01 12:00:30": {errs.NotFound, "near: #10"},
		"yesterday":           {errs.Invalid, "tag:NAME"},
		"":                    {errs.Invalid, "latest"},
		"nearest:soon":        {errs.Invalid, "latest"},
		"-3":                  {errs.Invalid, "latest"},
	} {
		_, err := h.Find(spec)
		if !errs.Is(err, c.kind) || err != nil && !strings.Contains(err.Error()+errs.RemedyOf(err), c.words) {
			t.Errorf("%q: %v (%v), remedy %q", spec, err, errs.KindOf(err), errs.RemedyOf(err))
		}
	}
}

func TestFindByTimeOfDay(t *testing.T) {
	h := &History{points: points()}
	h.points[3].Tags, h.points[3].Suspect = []string{"audit"}, "the ratio fell"
	now := testNow.Add(2 * time.Hour) // 14:00
	cet := time.FixedZone("CET", 3600)
	for spec, want := range map[string]struct {
		id    dr.CheckpointID
		words string
	}{
		"12:02":                     {12, "tagged before patch, at 2026-03-01 12:02:00 UTC"},
		"12:02:30":                  {12, "30s before 2026-03-01 12:02:30 UTC"},
		"today 12:01":               {11, "at 2026-03-01"},
		"TODAY 12:01 utc":           {11, ""},
		"13:02 local":               {12, ""},
		"today 13:02 Local":         {12, ""},
		"nearest to 12:02:40":       {13, "20s after 2026-03-01 12:02:40 UTC"},
		"nearest:13:02:40 local":    {13, "SUSPECT: the ratio fell, 20s after"},
		"nearest:yesterday 23:00":   {11, "13h1m0s after 2026-02-28 23:00:00 UTC"},
		"nearest to 23:00":          {11, "2026-02-28 23:00:00"}, // the last one before now
		"2026-03-01 13:02:00 local": {12, ""},
		"tag:audit":                 {13, "checkpoint #13 of 2026-03-01 12:03:00 UTC (group, crash), tagged audit, SUSPECT"},
		"latest":                    {13, "checkpoint #13"},
	} {
		got, err := h.FindAt(spec, now, cet)
		if err != nil || got.ID != want.id || !strings.Contains(got.Words, want.words) {
			t.Errorf("%q: #%d %q, %v", spec, got.ID, got.Words, err)
		}
	}
	for _, spec := range []string{"25:00", "today", "today 12", "tomorrow 12:00", "12:00 mars", "local", "nearest to noon"} {
		if _, err := h.FindAt(spec, now, cet); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", spec, err)
		}
	}
	if _, err := h.FindAt("23:00", now, cet); !errs.Is(err, errs.NotFound) { // yesterday's
		t.Errorf("%v", err)
	}
}

func TestFindWhenNothingCanBeRecovered(t *testing.T) {
	h := &History{}
	if _, err := h.Find("latest"); !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "no checkpoint yet") {
		t.Errorf("empty history: %v", err)
	}
	h.points = points()[4:]
	_, err := h.Find("latest")
	if !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "lost object") || !strings.Contains(errs.RemedyOf(err), "by its id") {
		t.Errorf("%v, remedy %q", err, errs.RemedyOf(err))
	}
	if _, err := h.Find("nearest:2026-03-01 12:00:00"); !errs.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
}

func FuzzFind(f *testing.F) {
	for _, s := range []string{"latest", "app", "#1", "tag:x", "nearest:2026-03-01 12:00:00", "2026-03-01T12:02:30Z", "18446744073709551616", "today 14:03 local", "nearest to 14:03:20"} {
		f.Add(s)
	}
	h := &History{points: points()}
	f.Fuzz(func(t *testing.T, spec string) {
		if cp, err := h.Find(spec); err == nil && !cp.Recoverable {
			t.Fatalf("%q gives a checkpoint that cannot be recovered", spec)
		}
	})
}
