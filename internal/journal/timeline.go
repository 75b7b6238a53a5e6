package journal

import (
	"context"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// timelines lists the timelines that have anything under their name, head or
// not. Cost: one small list a timeline.
func (c *Container) timelines(ctx context.Context) ([]dr.TimelineID, error) {
	var out []dr.TimelineID
	after := ""
	for range maxTimelines {
		page, err := c.st.List(ctx, prefixTime, after, 1)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return out, nil
		}
		dir, _, ok := strings.Cut(strings.TrimPrefix(page[0].Key, prefixTime), "/")
		id, perr := dr.ParseUUID(dir)
		if !ok || perr != nil {
			after = page[0].Key // foreign; fsck reports it
			continue
		}
		out = append(out, dr.TimelineID{UUID: id})
		after = prefixTime + dir + "0" // '0' is next to '/': everything of this timeline lies before
	}
	return nil, errs.New("journal.timelines", errs.Invalid, prefixTime, "the container has more timelines than this release reads")
}

// pickTimeline returns t if it exists; if t is zero the current timeline: the
// youngest that is neither dropped nor a test.
func (c *Container) pickTimeline(ctx context.Context, t dr.TimelineID) (dr.TimelineID, error) {
	const op = "journal.History"
	if !t.IsZero() {
		if _, err := c.readHead(ctx, t); errs.Is(err, errs.NotFound) {
			return t, errs.New(op, errs.NotFound, t.String(), "the container has no such timeline").
				WithRemedy("inspect the container to see its timelines")
		} else if err != nil {
			return t, err
		}
		return t, nil
	}
	all, err := c.Timelines(ctx)
	if err != nil {
		return t, err
	}
	for _, v := range all {
		if v.Current {
			return v.ID, nil
		}
	}
	if len(all) == 0 {
		return t, errs.New(op, errs.Corrupt, prefixTime, "the container has no timeline")
	}
	return t, errs.New(op, errs.NotFound, prefixTime, "every timeline of the container is dropped, or a test").
		WithRemedy("name the timeline")
}
