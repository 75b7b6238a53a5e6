package journal

import (
	"fmt"
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

// Find returns the checkpoint that spec names:
//
//	latest        the newest recoverable group checkpoint
//	12 or #12     the checkpoint with this id
//	TIME          the newest recoverable group checkpoint at or before TIME
//	nearest:TIME  the recoverable group checkpoint nearest to TIME
//	tag:NAME      the newest recoverable checkpoint with this tag
//
// TIME is RFC 3339 or "2006-01-02 15:04:05", the latter in UTC. What Find
// returns is recoverable. Kind Invalid for a spec of no such form, NotFound
// when there is no such checkpoint, Corrupt or Unavailable when there is and
// it cannot be recovered; the words say what exists near.
func (h *History) Find(spec string) (CheckpointInfo, error) {
	h.mu.RLock()
	points := h.points // appended to, never changed
	h.mu.RUnlock()
	spec = strings.TrimSpace(spec)
	if len(points) == 0 {
		return CheckpointInfo{}, notFound(spec, "the history has no checkpoint yet", "wait until the first one is published")
	}
	if spec == "latest" {
		return findLatest(points)
	}
	if name, ok := strings.CutPrefix(spec, "tag:"); ok {
		return findTag(points, spec, name)
	}
	if at, ok := strings.CutPrefix(spec, "nearest:"); ok {
		t, err := parseTime(spec, at)
		if err != nil {
			return CheckpointInfo{}, err
		}
		return findNearest(points, spec, t)
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(spec, "#"), 10, 64); err == nil {
		return findID(points, spec, dr.CheckpointID(n))
	}
	t, err := parseTime(spec, spec)
	if err != nil {
		return CheckpointInfo{}, err
	}
	return findBefore(points, spec, t)
}

func notFound(spec, words, remedy string) error {
	return errs.New("journal.Find", errs.NotFound, spec, words).WithRemedy(remedy)
}

func parseTime(spec, s string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, strings.TrimSpace(s), time.UTC); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errs.New("journal.Find", errs.Invalid, spec, "this names no checkpoint").
		WithRemedy(`use latest, an id as 12 or #12, a time as 2006-01-02T15:04:05Z or "2006-01-02 15:04:05" (UTC), nearest:TIME or tag:NAME`)
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
		if points[i].Tag != name || name == "" {
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
		if points[i].Tag != "" {
			tags = append(tags, fmt.Sprintf("%s (#%d)", points[i].Tag, points[i].ID))
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
