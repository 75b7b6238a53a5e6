package verify

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

const (
	remedyReads = "use a store whose reads see every completed write; switch off caches and asynchronous copies between Holdfast and the store"
	remedyLists = "use a store whose lists see every completed write, in byte order; a list that lags hides published checkpoints"
)

// holds reports whether key holds exactly m, read through c. Two requests
// for each readPiece, m.size+1 bytes.
func (p *probe) holds(ctx context.Context, c *conn, key string, m made) *finding {
	info, err := c.stat(ctx, key)
	if errs.Is(err, errs.NotFound) {
		return fail(remedyReads, "%s exists, and the store says it does not", key)
	}
	if err != nil {
		return trouble("asking for "+key, err)
	}
	if info.Size != int64(m.size) {
		return fail(remedyReads, "%s has %d bytes, and the store says %d", key, m.size, info.Size)
	}
	return p.reads(ctx, c, key, m)
}

// reads reports whether reading key to its end gives exactly m.
func (p *probe) reads(ctx context.Context, c *conn, key string, m made) *finding {
	want := body(m)
	for off := 0; ; off += readPiece {
		// One byte more than there is must not be there.
		b := make([]byte, min(readPiece, m.size+1-off))
		n, err := c.readRange(ctx, key, b, int64(off))
		if errs.Is(err, errs.NotFound) {
			return fail(remedyReads, "%s exists, and cannot be read: %v", key, err)
		}
		if err != nil {
			return trouble("reading "+key, err)
		}
		rest := want[off:]
		rest = rest[:min(len(rest), len(b))]
		if n != len(rest) {
			return fail(remedyReads, "reading %d bytes at %d of %s, which has %d, gives %d", len(b), off, key, m.size, n)
		}
		if !bytes.Equal(b[:n], rest) {
			return fail(remedyReads, "%d bytes read at %d of %s are not those written", n, off, key)
		}
		if off+readPiece > m.size {
			return nil
		}
	}
}

// absent reports whether key is nowhere, asked through c: three requests.
func (p *probe) absent(ctx context.Context, c *conn, key string) *finding {
	const remedy = remedyDeletes
	if _, err := c.stat(ctx, key); err == nil {
		return fail(remedy, "%s was deleted, and the store says it exists", key)
	} else if !errs.Is(err, errs.NotFound) {
		return trouble("asking for a deleted object", err)
	}
	if n, err := c.readRange(ctx, key, make([]byte, 16), 0); err == nil {
		return fail(remedy, "%s was deleted, and can be read (%d bytes)", key, n)
	} else if !errs.Is(err, errs.NotFound) {
		return trouble("reading a deleted object", err)
	}
	page, err := c.list(ctx, key, "", 1)
	if err != nil {
		return trouble("listing", err)
	}
	if len(page) != 0 {
		return fail(remedy, "%s was deleted, and is listed", key)
	}
	return nil
}

func costReadAfter(s *scale, conns uint64) Budget {
	n := uint64(s.visible)
	return Budget{n * (4*conns + 1), int64(n) * smallBody, int64(n*conns) * (16 + smallBody + 1)}
}

// tryReadAfter asks for objects before they exist, as those do who wait for
// the next one, creates them, and reads them at once over every connection.
func tryReadAfter(ctx context.Context, p *probe) finding {
	for i := range p.scale.visible {
		key := fmt.Sprintf("%sread/%03d", p.prefix, i)
		for _, c := range p.conns {
			if _, err := c.stat(ctx, key); !errs.Is(err, errs.NotFound) {
				return *p.early(key, err)
			}
			if _, err := c.readRange(ctx, key, make([]byte, 16), 0); !errs.Is(err, errs.NotFound) {
				return *p.early(key, err)
			}
		}
		m, err := p.put(ctx, p.conn(i), key, smallBody)
		if err != nil {
			return *trouble("creating", err)
		}
		for j := range p.conns {
			if f := p.holds(ctx, p.conn(i+1+j), key, m); f != nil {
				return *f
			}
		}
	}
	return pass("%d objects asked for before they were there, then created, and read at once over %d connections", p.scale.visible, len(p.conns))
}

func (p *probe) early(key string, err error) *finding {
	if err == nil {
		return fail(remedyReads, "%s, which nobody created, is there", key)
	}
	return trouble("asking for an object that is not there", err)
}

func costListAfter(s *scale, conns uint64) Budget {
	n := uint64(s.visible)
	return Budget{n * (1 + 2*conns), int64(n) * smallBody, 0}
}

// tryListAfter looks for each new object in lists at once: the list of all,
// and the one that goes on behind the object before it.
func tryListAfter(ctx context.Context, p *probe) finding {
	dir := p.prefix + "list/"
	last := ""
	for i := range p.scale.visible {
		key := fmt.Sprintf("%s%03d", dir, i)
		if _, err := p.put(ctx, p.conn(i), key, smallBody); err != nil {
			return *trouble("creating", err)
		}
		for j := range p.conns {
			for _, after := range []string{"", last} {
				page, err := p.conn(i+1+j).list(ctx, dir, after, store.MaxList)
				if err != nil {
					return *trouble("listing", err)
				}
				want := i + 1
				if after != "" {
					want = 1
				}
				if len(page) != want || page[len(page)-1].Key != key {
					return *fail(remedyLists, "%s was created, and a list made at once shows %d objects instead of %d", key, len(page), want)
				}
				if got := page[len(page)-1].Size; got != smallBody {
					return *fail(remedyLists, "%s has %d bytes, and a list says %d", key, smallBody, got)
				}
			}
		}
		last = key
	}
	return pass("%d objects listed at once over %d connections", p.scale.visible, len(p.conns))
}

func costDeleteStays(_ *scale, conns uint64) Budget {
	return Budget{2*deletes + 2*deletes*3*conns, deletes * smallBody, 2 * deletes * int64(conns) * 16}
}

// tryDeleteStays looks for what was deleted at the beginning and for what was
// deleted just now.
func tryDeleteStays(ctx context.Context, p *probe) finding {
	if !p.mayDelete {
		return finding{NotPermitted, "not tried: the credentials may not delete", "nothing for a publisher or a recovery"}
	}
	for i := range deletes {
		key := fmt.Sprintf("%sdelete/again-%02d", p.prefix, i)
		if _, err := p.put(ctx, p.conn(i), key, smallBody); err != nil {
			return *trouble("creating", err)
		}
		if err := p.conn(i+1).remove(ctx, key); err != nil {
			return *trouble("deleting", err)
		}
		p.forget(key)
		p.gone = append(p.gone, key)
	}
	for _, key := range p.gone {
		for _, c := range p.conns {
			if f := p.absent(ctx, c, key); f != nil {
				return *f
			}
		}
	}
	return pass("%d deleted objects are nowhere, the first of them deleted %d requests ago", len(p.gone), p.tally.total().Requests)
}

// lateLooks is how many objects durable reads again.
const lateLooks = 16

func costDurable(*scale, uint64) Budget {
	return Budget{2 * lateLooks, 0, lateLooks * (raceBody + raceSpread + 1)}
}

// tryDurable reads some objects over a connection that did not exist when
// they were written. More cannot be seen from outside.
func tryDurable(ctx context.Context, p *probe) finding {
	if p.opts.Connect == nil {
		return finding{Unknown, "cannot be seen from outside, and there was no second connection", ""}
	}
	st, err := p.opts.Connect(ctx)
	if err != nil {
		return *trouble("connecting anew", err)
	}
	c := &conn{st, p.tally}
	kept := p.kept()
	seen := 0
	for _, key := range slices.Sorted(maps.Keys(kept)) {
		if kept[key].size > raceBody+raceSpread || seen == lateLooks {
			continue
		}
		if f := p.holds(ctx, c, key, kept[key]); f != nil {
			return *f
		}
		seen++
	}
	return finding{Unknown, fmt.Sprintf("cannot be proven from outside; a connection opened afterwards reads all %d objects tried", seen),
		"nothing; that a completed write survives the loss of power is the store's own promise"}
}

func costUnchanged(s *scale, _ uint64) Budget {
	n := uint64(s.rounds + s.recreate)
	return Budget{2 * (n + 1 + uint64(s.bigBody/readPiece)), 0, int64(n)*(raceBody+raceSpread+1) + s.bigBody + 1}
}

// tryUnchanged reads at the end what the races left: a loser's write may land
// late.
func tryUnchanged(ctx context.Context, p *probe) finding {
	kept := p.kept()
	n := 0
	for _, key := range slices.Sorted(maps.Keys(kept)) {
		if !strings.HasPrefix(key, p.prefix+"race/") && !strings.HasPrefix(key, p.prefix+"again/") {
			continue
		}
		if f := p.holds(ctx, p.conn(n), key, kept[key]); f != nil {
			if f.verdict == Fail {
				f.detail = "an object changed after it was created: " + f.detail
				f.remedy = remedyOnce
			}
			return *f
		}
		n++
	}
	return pass("%d raced-for objects still hold their winners' bytes at the end", n)
}
