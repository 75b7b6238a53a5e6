package journal

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// timeLayouts are the forms of time Find takes. Those without a zone are UTC,
// as checkpoints are shown.
var timeLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04"}

// Found is the checkpoint a spec chose.
type Found struct {
	CheckpointInfo
	Words string // what was chosen and how it lies to what was asked for
}

// Find is FindAt for now, with this machine's time zone as "local".
func (h *History) Find(spec string) (CheckpointInfo, error) {
	f, err := h.FindAt(spec, time.Now(), time.Local)
	return f.CheckpointInfo, err
}

// FindAt returns the checkpoint that spec names:
//
//	latest         the newest recoverable group checkpoint
//	app            the newest of those that is consistent for applications
//	12 or #12      the checkpoint with this id
//	TIME           the newest recoverable group checkpoint at or before TIME
//	nearest:TIME   the recoverable group checkpoint nearest to TIME;
//	               "nearest to TIME" is the same
//	tag:NAME       the newest recoverable checkpoint with this tag
//
// TIME is RFC 3339, "2006-01-02 15:04:05", or a time of day as 14:03 or
// 14:03:20, alone or after "today" or "yesterday"; alone it is the last such
// time before now. What names no zone is in UTC, as checkpoints are shown;
// "UTC" or "local" may follow. What FindAt returns is recoverable. Kind Invalid
// for a spec of no such form, NotFound when there is no such checkpoint, Corrupt
// or Unavailable when there is and it cannot be recovered; the words say what
// exists near.
func (h *History) FindAt(spec string, now time.Time, local *time.Location) (Found, error) {
	h.mu.RLock()
	points := h.points // appended to or replaced, never changed
	h.mu.RUnlock()
	spec = strings.TrimSpace(spec)
	if len(points) == 0 {
		return Found{}, notFound(spec, "the history has no checkpoint yet", "wait until the first one is published")
	}
	if spec == "latest" {
		return found(findLatest(points))
	}
	if spec == "app" {
		return found(findApp(points))
	}
	if name, ok := strings.CutPrefix(spec, "tag:"); ok {
		return found(findTag(points, spec, strings.TrimSpace(name)))
	}
	at, nearest := strings.CutPrefix(spec, "nearest:")
	if !nearest {
		at, nearest = strings.CutPrefix(spec, "nearest to ")
	}
	if !nearest {
		if n, err := strconv.ParseUint(strings.TrimPrefix(spec, "#"), 10, 64); err == nil {
			return found(findID(points, spec, dr.CheckpointID(n)))
		}
	}
	t, err := parseTime(spec, at, now, local)
	if err != nil {
		return Found{}, err
	}
	find := findBefore
	if nearest {
		find = findNearest
	}
	f, err := found(find(points, spec, t))
	if err == nil {
		f.Words += ", " + distance(f.Time, t)
	}
	return f, err
}

// found says what was chosen.
func found(p CheckpointInfo, err error) (Found, error) {
	if err != nil {
		return Found{}, err
	}
	words := fmt.Sprintf("checkpoint #%d of %s UTC (%s, %s)", p.ID, p.Time.UTC().Format("2006-01-02 15:04:05"), p.Scope, p.Kind)
	if tags := slices.Concat([]string{p.Tag}, p.Tags); strings.Join(tags, "") != "" {
		words += ", tagged " + strings.TrimPrefix(strings.Join(tags, ", "), ", ")
	}
	if p.Suspect != "" {
		words += ", SUSPECT: " + p.Suspect
	}
	return Found{p, words}, nil
}

func distance(got, want time.Time) string {
	asked := want.UTC().Format("2006-01-02 15:04:05") + " UTC"
	switch d := got.Sub(want).Round(time.Second); {
	case d < 0:
		return fmt.Sprintf("%v before %s", -d, asked)
	case d > 0:
		return fmt.Sprintf("%v after %s", d, asked)
	}
	return "at " + asked
}

func notFound(spec, words, remedy string) error {
	return errs.New("journal.Find", errs.NotFound, spec, words).WithRemedy(remedy)
}

func parseTime(spec, text string, now time.Time, local *time.Location) (time.Time, error) {
	s, loc := strings.TrimSpace(text), time.UTC
	if cut, ok := cutWord(s, "local"); ok {
		s, loc = cut, local
	} else if cut, ok := cutWord(s, "utc"); ok {
		s = cut
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, loc); err == nil {
			return t, nil
		}
	}
	if t, ok := timeOfDay(s, now.In(loc)); ok {
		return t, nil
	}
	return time.Time{}, errs.New("journal.Find", errs.Invalid, spec, "this names no checkpoint").
		WithRemedy(`use latest, an id as 12 or #12, a time as 2006-01-02T15:04:05Z, "2006-01-02 15:04:05" or 14:03 (UTC; or with "local" behind it), nearest:TIME or tag:NAME`)
}

// cutWord takes a word off the end, whatever its case.
func cutWord(s, word string) (string, bool) {
	at := len(s) - len(word)
	if at < 1 || !strings.EqualFold(s[at:], word) {
		return s, false
	}
	return strings.TrimSpace(s[:at]), true
}

// timeOfDay reads 14:03 and the like, in now's zone.
func timeOfDay(s string, now time.Time) (time.Time, bool) {
	days, alone := 0, true
	if day, rest, ok := strings.Cut(s, " "); ok {
		switch strings.ToLower(day) {
		case "today":
			s, alone = strings.TrimSpace(rest), false
		case "yesterday":
			s, days, alone = strings.TrimSpace(rest), -1, false
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		c, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		t := time.Date(now.Year(), now.Month(), now.Day()+days, c.Hour(), c.Minute(), c.Second(), 0, now.Location())
		if alone && t.After(now) {
			t = time.Date(now.Year(), now.Month(), now.Day()-1, c.Hour(), c.Minute(), c.Second(), 0, now.Location())
		}
		return t, true
	}
	return time.Time{}, false
}

// offered reports whether a checkpoint is offered without being asked for by
// name: recoverable, and consistent over the whole domain.
func (p *CheckpointInfo) offered() bool { return p.Recoverable && p.Scope == dr.Group }

func (p *CheckpointInfo) brief() string {
	s := fmt.Sprintf("#%d of %s", p.ID, p.Time.UTC().Format("2006-01-02 15:04:05"))
	switch {
	case !p.Recoverable:
		s += " (not recoverable)"
	case p.Scope != dr.Group:
		s += " (partial)"
	}
	return s
}

// near lists the neighbours of place i.
func near(points []CheckpointInfo, i int) string {
	var out []string
	for j := max(0, i-2); j < min(len(points), i+2); j++ {
		out = append(out, points[j].brief())
	}
	return fmt.Sprintf("there are %d checkpoints, %s to %s; near: %s", len(points),
		points[0].brief(), points[len(points)-1].brief(), strings.Join(out, ", "))
}

func findLatest(points []CheckpointInfo) (CheckpointInfo, error) {
	for i := len(points) - 1; i >= 0; i-- {
		if points[i].offered() {
			return points[i], nil
		}
	}
	last := points[len(points)-1]
	why := last.Why
	if last.Recoverable {
		why = "it is consistent for single VMs only"
	}
	return CheckpointInfo{}, notFound("latest",
		fmt.Sprintf("none of the %d checkpoints is a recoverable group checkpoint; of the newest, %s: %s", len(points), last.brief(), why),
		"a partial checkpoint can be chosen by its id")
}

// findApp returns the newest checkpoint for which guests were frozen.
func findApp(points []CheckpointInfo) (CheckpointInfo, error) {
	for i := len(points) - 1; i >= 0; i-- {
		if points[i].offered() && points[i].Kind == dr.AppConsistent {
			return points[i], nil
		}
	}
	return CheckpointInfo{}, notFound("app", fmt.Sprintf("none of the %d checkpoints is a recoverable one for which guests were frozen", len(points)),
		"choose latest; or give the domain an interval for checkpoints that freeze guests, which need an agent")
}

func findID(points []CheckpointInfo, spec string, id dr.CheckpointID) (CheckpointInfo, error) {
	i := sort.Search(len(points), func(i int) bool { return points[i].ID >= id })
	if i == len(points) || points[i].ID != id {
		return CheckpointInfo{}, notFound(spec, "there is no such checkpoint", near(points, i))
	}
	return recoverable(points, spec, i)
}

func recoverable(points []CheckpointInfo, spec string, i int) (CheckpointInfo, error) {
	if p := points[i]; !p.Recoverable {
		return CheckpointInfo{}, errs.New("journal.Find", errs.Unavailable, spec,
			fmt.Sprintf("checkpoint #%d cannot be recovered: %s", p.ID, p.Why)).WithRemedy(near(points, i))
	}
	return points[i], nil
}

func findTag(points []CheckpointInfo, spec, name string) (CheckpointInfo, error) {
	found := -1
	for i := len(points) - 1; i >= 0; i-- {
		if !points[i].Named(name) {
			continue
		}
		if points[i].Recoverable {
			return points[i], nil
		}
		found = max(found, i)
	}
	if found >= 0 {
		return recoverable(points, spec, found)
	}
	var tags []string
	for i := len(points) - 1; i >= 0 && len(tags) < 10; i-- {
		for _, tag := range slices.Concat([]string{points[i].Tag}, points[i].Tags) {
			if tag != "" {
				tags = append(tags, fmt.Sprintf("%s (#%d)", tag, points[i].ID))
			}
		}
	}
	if len(tags) == 0 {
		return CheckpointInfo{}, notFound(spec, "no checkpoint has this tag", "no checkpoint has a tag; "+near(points, len(points)))
	}
	return CheckpointInfo{}, notFound(spec, "no checkpoint has this tag", "tags there are: "+strings.Join(tags, ", "))
}

func findBefore(points []CheckpointInfo, spec string, t time.Time) (CheckpointInfo, error) {
	at := -1
	for i := range points {
		// Not a search: a clock set back leaves times out of order.
		if points[i].offered() && !points[i].Time.After(t) && (at < 0 || !points[i].Time.Before(points[at].Time)) {
			at = i
		}
	}
	if at >= 0 {
		return points[at], nil
	}
	i := sort.Search(len(points), func(i int) bool { return points[i].Time.After(t) })
	return CheckpointInfo{}, notFound(spec, "no recoverable group checkpoint lies at or before this time", near(points, i))
}

func findNearest(points []CheckpointInfo, spec string, t time.Time) (CheckpointInfo, error) {
	at := -1
	var best time.Duration
	for i := range points {
		if d := points[i].Time.Sub(t).Abs(); points[i].offered() && (at < 0 || d <= best) {
			at, best = i, d
		}
	}
	if at >= 0 {
		return points[at], nil
	}
	return CheckpointInfo{}, notFound(spec, "there is no recoverable group checkpoint", near(points, len(points)))
}
