package verify

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

const remedyRights = "give the credentials the right; docs/operate/stores.md lists what each role needs"

func costList(*scale, uint64) Budget { return Budget{Requests: 1} }

func tryList(ctx context.Context, p *probe) finding {
	page, err := p.conns[0].list(ctx, p.prefix, "", store.MaxList)
	if err != nil {
		return *trouble("listing", err)
	}
	if len(page) != 0 {
		return *fail(remedyLists, "a prefix nobody ever used lists %d objects, first %s", len(page), page[0].Key)
	}
	return pass("may list")
}

func costCreate(*scale, uint64) Budget { return Budget{1, smallBody, 0} }

func tryCreate(ctx context.Context, p *probe) finding {
	if _, err := p.put(ctx, p.conns[0], p.prefix+"first", smallBody); err != nil {
		return *trouble("creating", err)
	}
	p.mayCreate = true
	return pass("may create")
}

func costRead(*scale, uint64) Budget { return Budget{3, 0, 2 * smallBody} }

// tryRead reads what was created, or else what is there.
func tryRead(ctx context.Context, p *probe) finding {
	c := p.conns[0]
	if m, ok := p.kept()[p.prefix+"first"]; ok {
		if f := p.holds(ctx, c, p.prefix+"first", m); f != nil {
			return *f
		}
		return pass("may read")
	}
	page, err := c.list(ctx, "", "", 1)
	if err != nil {
		return *trouble("listing", err)
	}
	if len(page) == 0 {
		return finding{Unknown, "there is nothing to read, and nothing could be created", "try again where there is a container, or with credentials that may create"}
	}
	info, err := c.stat(ctx, page[0].Key)
	if err != nil {
		return *trouble("asking for an object", err)
	}
	want := int(min(info.Size, smallBody))
	n, err := c.readRange(ctx, info.Key, make([]byte, smallBody), 0)
	switch {
	case err != nil:
		return *trouble("reading an object", err)
	case info.Size != page[0].Size || n != want:
		return *fail(remedyReads, "%s is listed with %d bytes, has %d, and a read of %d gives %d", info.Key, page[0].Size, info.Size, smallBody, n)
	}
	return pass("may read: %d bytes of %s", n, info.Key)
}

func costDelete(*scale, uint64) Budget { return Budget{3*deletes + 1, deletes * smallBody, 0} }

func tryDelete(ctx context.Context, p *probe) finding {
	for i := range deletes {
		key := fmt.Sprintf("%sdelete/%02d", p.prefix, i)
		if _, err := p.put(ctx, p.conn(i), key, smallBody); err != nil {
			return *trouble("creating", err)
		}
		err := p.conn(i).remove(ctx, key)
		if errs.Is(err, errs.Denied) {
			return finding{NotPermitted, "the credentials may not delete: right for a publisher, not for a maintainer",
				"nothing for a publisher or a recovery; a maintainer needs credentials that may delete"}
		}
		if err != nil {
			return *trouble("deleting", err)
		}
		p.forget(key)
		p.gone = append(p.gone, key)
	}
	if err := p.conns[0].remove(ctx, p.prefix+"delete/never"); err != nil {
		return *fail(remedyDeletes, "deleting what is not there fails: %v", err)
	}
	p.mayDelete = true
	return pass("may delete")
}

const remedyDeletes = "switch off what brings deleted objects back to readers (caches, asynchronous copies), or use another store"

const clockLooks = 5

func costClock(*scale, uint64) Budget { return Budget{2 * clockLooks, clockLooks * smallBody, 0} }

// tryClock compares the store's clock with ours. The store's may be given in
// whole seconds, cut or rounded.
func tryClock(ctx context.Context, p *probe) finding {
	best, window := time.Duration(0), time.Duration(-1)
	for i := range clockLooks {
		key := fmt.Sprintf("%sclock/%d", p.prefix, i)
		before := p.opts.Clock()
		if _, err := p.put(ctx, p.conns[0], key, smallBody); err != nil {
			return *trouble("creating", err)
		}
		after := p.opts.Clock()
		info, err := p.conns[0].stat(ctx, key)
		if err != nil {
			return *trouble("asking for an object", err)
		}
		if info.Modified.IsZero() {
			return finding{Unknown, "the store does not tell when an object was created", ""}
		}
		early, late := info.Modified.Sub(after), info.Modified.Add(time.Second).Sub(before)
		off := time.Duration(0) // nearest to zero that the two clocks allow
		if early > 0 {
			off = early
		} else if late < 0 {
			off = late
		}
		if window < 0 || late-early < window {
			best, window = off, late-early
		}
	}
	p.ahead = best
	if best.Abs() > maxSkew {
		return finding{Warn, fmt.Sprintf("the store's clock and this machine's differ by %v", best.Round(time.Second)),
			"set this machine's clock (NTP): locks and retention times are set by it and judged by the store"}
	}
	if best == 0 {
		return pass("the store's clock agrees with this machine's within %v", window.Round(10*time.Millisecond))
	}
	return pass("the store's clock is off by %v", best.Round(10*time.Millisecond))
}
