package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/store"
)

// orderKeys are names whose order differs between byte order and the ways
// people, file systems and databases sort: directories beside names that
// continue where the slash is, digits, and every byte a key may have.
func orderKeys(n int) []string {
	keys := []string{"a-b", "a.b", "a/b", "a:b", "a0", "a_b", "aa", "ab/c", "ab/c.d", "ab-/c", "10", "2", "1/z", "1-z", "z"}
	for i := range n {
		keys = append(keys, fmt.Sprintf("n/%x", (i*2654435761)%1000003))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

const fixedKeys = 15 // of orderKeys

func costListOrder(s *scale, conns uint64) Budget {
	n := uint64(s.listed + fixedKeys)
	return Budget{n + 2*conns, int64(n) * 64, 0}
}

// tryListOrder lists names that are hard to sort.
func tryListOrder(ctx context.Context, p *probe) finding {
	dir := p.prefix + "order/"
	keys := orderKeys(p.scale.listed)
	var want []string
	for _, k := range keys {
		want = append(want, dir+k)
	}
	for i, key := range slices.Backward(want) { // not in the order in which they must come back
		if _, err := p.put(ctx, p.conn(i), key, 64); err != nil {
			return *trouble("creating "+key, err)
		}
	}
	for _, c := range p.conns {
		page, err := c.list(ctx, dir, "", store.MaxList)
		if err != nil {
			return *trouble("listing", err)
		}
		if f := sameKeys(page, want, "a list of all"); f != nil {
			return *f
		}
		// A prefix may end inside an element.
		page, err = c.list(ctx, dir+"a", "", store.MaxList)
		if err != nil {
			return *trouble("listing", err)
		}
		inside := slices.DeleteFunc(slices.Clone(want), func(k string) bool { return !strings.HasPrefix(k, dir+"a") })
		if f := sameKeys(page, inside, "a list of a prefix that ends inside a name"); f != nil {
			return *f
		}
	}
	return pass("%d names that sort differently elsewhere come back in byte order", len(want))
}

// sameKeys compares a page with the keys that it must have.
func sameKeys(page []store.Info, want []string, what string) *finding {
	if len(page) != len(want) {
		return fail(remedyLists, "%s has %d objects instead of %d", what, len(page), len(want))
	}
	for i := range page {
		if page[i].Key != want[i] {
			return fail(remedyLists, "%s has %s where %s belongs", what, page[i].Key, want[i])
		}
	}
	return nil
}

func costListPaging(s *scale, _ uint64) Budget {
	n := uint64(s.listed + fixedKeys)
	return Budget{(n + 1) + (n/7 + 2) + 2 + n + 4, 0, 0}
}

// tryListPaging lists the same names in pages, and from between them.
func tryListPaging(ctx context.Context, p *probe) finding {
	dir := p.prefix + "order/"
	var want []string
	for _, k := range orderKeys(p.scale.listed) {
		want = append(want, dir+k)
	}
	lists := 0
	for _, limit := range []int{1, 7, len(want)} {
		after, got := "", []store.Info{}
		for {
			page, err := p.conn(lists).list(ctx, dir, after, limit)
			if err != nil {
				return *trouble("listing", err)
			}
			lists++
			if len(page) > limit || len(got)+len(page) > len(want) {
				return *fail(remedyLists, "in pages of %d a list gives more than there is: %d objects so far, then %d", limit, len(got), len(page))
			}
			got = append(got, page...)
			if len(page) < limit {
				break
			}
			after = page[len(page)-1].Key
		}
		if f := sameKeys(got, want, fmt.Sprintf("a list in pages of %d", limit)); f != nil {
			return *f
		}
	}
	for i, after := range want { // from every name on, and from one that is not there
		if i%2 == 1 {
			after += "0"
		}
		page, err := p.conn(i).list(ctx, dir, after, 3)
		if err != nil {
			return *trouble("listing", err)
		}
		lists++
		from, there := slices.BinarySearch(want, after)
		if there {
			from++
		}
		if f := sameKeys(page, want[from:min(from+3, len(want))], "a list after "+after); f != nil {
			return *f
		}
	}
	return pass("%d pages of %d names, from every place among them", lists, len(want))
}

// keyShapes are names at the edges of what Holdfast writes, relative to room
// bytes of prefix.
func keyShapes(room int) []string {
	long := strings.Repeat("l", store.MaxElement)
	deep := strings.Repeat("d/", 20) + "e"
	whole := room
	var longest strings.Builder
	for whole > store.MaxElement {
		n := min(store.MaxElement, whole-2) // something has to follow the slash
		longest.WriteString(strings.Repeat("w", n))
		longest.WriteByte('/')
		whole -= n + 1
	}
	longest.WriteString(strings.Repeat("k", whole))
	return []string{
		"abcdefghijklmnopqrstuvwxyz0123456789._:-",
		"e/a.b_c:d-e", "e/trailing.", "e/-", "e/_", "e/:", "e/a..b", "con", "e/00000000000000000000",
		long, "p/" + deep, longest.String(),
	}
}

const shapes = 12 // of keyShapes

func costKeys(_ *scale, _ uint64) Budget {
	return Budget{3*shapes + 1, shapes * 64, shapes * 65}
}

// tryKeys writes names of every allowed byte, depth and length.
func tryKeys(ctx context.Context, p *probe) finding {
	const remedy = "use a store or a gateway that keeps object names as they are"
	dir := p.prefix + "keys/"
	var want []string
	for i, shape := range keyShapes(store.MaxKey - len(dir)) {
		key := dir + shape
		m, err := p.put(ctx, p.conn(i), key, 64)
		if err != nil {
			f := trouble(fmt.Sprintf("creating a name of %d bytes", len(key)), err)
			f.remedy = remedy
			return *f
		}
		if f := p.holds(ctx, p.conn(i+1), key, m); f != nil {
			return *f
		}
		want = append(want, key)
	}
	slices.Sort(want)
	page, err := p.conns[0].list(ctx, dir, "", store.MaxList)
	if err != nil {
		return *trouble("listing", err)
	}
	if f := sameKeys(page, want, "a list of unusual names"); f != nil {
		f.remedy = remedy
		return *f
	}
	return pass("%d unusual names, up to %d bytes long and %d deep, kept as they are", len(want), store.MaxKey, 20)
}
