package verify

import (
	"context"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// broken is a store in memory with parts replaced: what stores that almost
// work do. Parts that are nil work.
type broken struct {
	*mem.Store
	create func(ctx context.Context, key string, body []byte) error
	read   func(ctx context.Context, key string, p []byte, off int64) (int, error)
	stat   func(ctx context.Context, key string) (store.Info, error)
	list   func(ctx context.Context, prefix, after string, limit int) ([]store.Info, error)
	remove func(ctx context.Context, key string) error
	caps   func(store.Capabilities) store.Capabilities
}

func (b *broken) Create(ctx context.Context, key string, body []byte) error {
	if b.create != nil {
		return b.create(ctx, key, body)
	}
	return b.Store.Create(ctx, key, body)
}

func (b *broken) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if b.read != nil {
		return b.read(ctx, key, p, off)
	}
	return b.Store.ReadRange(ctx, key, p, off)
}

func (b *broken) Stat(ctx context.Context, key string) (store.Info, error) {
	if b.stat != nil {
		return b.stat(ctx, key)
	}
	return b.Store.Stat(ctx, key)
}

func (b *broken) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	if b.list != nil {
		return b.list(ctx, prefix, after, limit)
	}
	return b.Store.List(ctx, prefix, after, limit)
}

func (b *broken) Delete(ctx context.Context, key string) error {
	if b.remove != nil {
		return b.remove(ctx, key)
	}
	return b.Store.Delete(ctx, key)
}

func (b *broken) Capabilities() store.Capabilities {
	c := b.Store.Capabilities()
	if b.caps != nil {
		c = b.caps(c)
	}
	return c
}

// denied is what a store answers to who may not.
func denied(key string) error { return errs.New("broken", errs.Denied, key, "not allowed") }

// breakage makes a store broken in one way, and names what must notice.
type breakage struct {
	name     string
	property string // the first one that must refuse a maintainer
	make     func() *broken
}

var breakages = []breakage{
	{"two winners", propCreateOnce, func() *broken {
		b := &broken{Store: mem.New()}
		var mu sync.Mutex
		told := map[string]bool{}
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			mu.Lock()
			defer mu.Unlock()
			if errs.Is(err, errs.Exists) && strings.Contains(key, "/race/") && !told[key] {
				told[key] = true
				return nil // one loser is told that it won
			}
			return err
		}
		return b
	}},
	{"looks first, then writes", propCreateOnce, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			if _, err := b.Store.Stat(ctx, key); err == nil {
				return errs.New("broken", errs.Exists, key, "exists")
			}
			time.Sleep(time.Millisecond) // the window between looking and writing
			_ = b.Store.Delete(ctx, key)
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
	{"ignores the condition", propCreateOnce, func() *broken {
		b := &broken{Store: mem.New()}
		var mu sync.Mutex
		b.create = func(ctx context.Context, key string, body []byte) error {
			mu.Lock()
			defer mu.Unlock()
			_ = b.Store.Delete(ctx, key)
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
	{"loser overwrites", propCreateOnce, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			if errs.Is(err, errs.Exists) && strings.Contains(key, "/race/") {
				b.Damage(key, func([]byte) []byte { return append([]byte(nil), body...) })
			}
			return err
		}
		return b
	}},
	{"half an object is seen", propCreateOnce, func() *broken {
		b := &broken{Store: mem.New()}
		var since sync.Map // when the first writer began
		b.create = func(ctx context.Context, key string, body []byte) error {
			if _, later := since.LoadOrStore(key, time.Now()); later && strings.Contains(key, "/race/") {
				time.Sleep(20 * time.Millisecond)
			}
			return b.Store.Create(ctx, key, body)
		}
		b.read = func(ctx context.Context, key string, p []byte, off int64) (int, error) {
			n, err := b.Store.ReadRange(ctx, key, p, off)
			if began, ok := since.Load(key); ok && strings.Contains(key, "/race/") && time.Since(began.(time.Time)) < 10*time.Millisecond {
				n /= 2
			}
			return n, err
		}
		return b
	}},
	{"equal content may be created again", propOverwrite, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			if errs.Is(err, errs.Exists) {
				p := make([]byte, len(body)+1)
				if n, _ := b.Store.ReadRange(ctx, key, p, 0); string(p[:n]) == string(body) {
					return nil
				}
			}
			return err
		}
		return b
	}},
	{"an empty body replaces", propOverwrite, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			if errs.Is(err, errs.Exists) && len(body) == 0 {
				b.Damage(key, func([]byte) []byte { return nil })
			}
			return err
		}
		return b
	}},
	{"a second life reads as the first", propRecreate, func() *broken {
		b := &broken{Store: mem.New()}
		var first sync.Map
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			if err == nil {
				if was, again := first.LoadOrStore(key, append([]byte(nil), body...)); again {
					b.Damage(key, func([]byte) []byte { return was.([]byte) })
				}
			}
			return err
		}
		return b
	}},
	{"remembers that it was not there", propReadAfter, func() *broken {
		b := &broken{Store: mem.New()}
		var misses sync.Map
		b.stat = func(ctx context.Context, key string) (store.Info, error) {
			if until, missed := misses.Load(key); missed && time.Now().Before(until.(time.Time)) {
				return store.Info{}, errs.New("broken", errs.NotFound, key, "remembered")
			}
			info, err := b.Store.Stat(ctx, key)
			if errs.Is(err, errs.NotFound) {
				misses.Store(key, time.Now().Add(20*time.Millisecond))
			}
			return info, err
		}
		return b
	}},
	{"stale read", propReadAfter, func() *broken {
		b := &broken{Store: mem.New()}
		var seen sync.Map
		b.read = func(ctx context.Context, key string, p []byte, off int64) (int, error) {
			if _, again := seen.LoadOrStore(key, true); !again && strings.Contains(key, "/read/") {
				seen.Delete(key)
				if _, err := b.Store.Stat(ctx, key); err == nil {
					seen.Store(key, true)
					return 0, errs.New("broken", errs.NotFound, key, "not yet")
				}
			}
			return b.Store.ReadRange(ctx, key, p, off)
		}
		return b
	}},
	{"list lag", propListAfter, func() *broken {
		b := &broken{Store: mem.New()}
		b.list = func(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
			page, err := b.Store.List(ctx, prefix, after, limit)
			var shown []store.Info
			for _, info := range page {
				if time.Since(info.Modified) > 5*time.Millisecond {
					shown = append(shown, info)
				}
			}
			return shown, err
		}
		return b
	}},
	{"list by name without case of slash", propListOrder, func() *broken {
		b := &broken{Store: mem.New()}
		b.list = func(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
			page, err := b.Store.List(ctx, prefix, after, limit)
			for i := 1; i < len(page); i++ { // a directory before its sibling with a dash
				if strings.ReplaceAll(page[i-1].Key, "/", "\x00") > strings.ReplaceAll(page[i].Key, "/", "\x00") {
					page[i-1], page[i] = page[i], page[i-1]
				}
			}
			return page, err
		}
		return b
	}},
	{"prefixes only of whole directories", propListOrder, func() *broken {
		b := &broken{Store: mem.New()}
		b.list = func(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
			if strings.HasSuffix(prefix, "/order/a") {
				prefix += "/"
			}
			return b.Store.List(ctx, prefix, after, limit)
		}
		return b
	}},
	{"after is included", propListPaging, func() *broken {
		b := &broken{Store: mem.New()}
		b.list = func(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
			if strings.HasSuffix(prefix, "/list/") || after == "" {
				return b.Store.List(ctx, prefix, after, limit)
			}
			return b.Store.List(ctx, prefix, after[:len(after)-1], limit)
		}
		return b
	}},
	{"a page ends early", propListPaging, func() *broken {
		b := &broken{Store: mem.New()}
		b.list = func(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
			page, err := b.Store.List(ctx, prefix, after, limit)
			if limit == 7 && len(page) == 7 {
				page = page[:6]
			}
			return page, err
		}
		return b
	}},
	{"colons become dashes", propKeys, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			if strings.Contains(key, "/keys/") {
				key = strings.ReplaceAll(key, ":", "-")
			}
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
	{"no long names", propKeys, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			if len(key) > 255 {
				return errs.New("broken", errs.Invalid, key[:20], "name too long")
			}
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
	{"wrong range", propRanges, func() *broken {
		b := &broken{Store: mem.New()}
		b.read = func(ctx context.Context, key string, p []byte, off int64) (int, error) {
			if off > 0 && strings.HasSuffix(key, "/ranges") {
				off-- // off by one
			}
			return b.Store.ReadRange(ctx, key, p, off)
		}
		return b
	}},
	{"the range is ignored", propRanges, func() *broken {
		b := &broken{Store: mem.New()}
		b.read = func(ctx context.Context, key string, p []byte, _ int64) (int, error) {
			return b.Store.ReadRange(ctx, key, p, 0)
		}
		return b
	}},
	{"silent truncation", propObjectSize, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			return b.Store.Create(ctx, key, body[:min(len(body), 3<<20)])
		}
		return b
	}},
	{"no large objects", propObjectSize, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			if len(body) > 3<<20 {
				return errs.New("broken", errs.Invalid, key, "request too large")
			}
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
	{"a bit rots in a large object", propObjectSize, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			if len(body) > 3<<20 {
				b.Damage(key, func(p []byte) []byte { p[len(p)/2] ^= 4; return p })
			}
			return err
		}
		return b
	}},
	{"delete that comes back", propDeleteStays, func() *broken {
		b := &broken{Store: mem.New()}
		var mu sync.Mutex
		buried := map[string][]byte{}
		b.remove = func(ctx context.Context, key string) error {
			p := make([]byte, 1<<16)
			n, err := b.Store.ReadRange(ctx, key, p, 0)
			if err == nil && strings.Contains(key, "/delete/0") {
				mu.Lock()
				buried[key] = p[:n]
				mu.Unlock()
			}
			return b.Store.Delete(ctx, key)
		}
		b.create = func(ctx context.Context, key string, body []byte) error {
			if strings.HasSuffix(key, "/ranges") { // much later
				mu.Lock()
				defer mu.Unlock()
				for k, was := range buried {
					if err := b.Store.Create(ctx, k, was); err != nil {
						return err
					}
				}
			}
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
	{"delete does nothing", propRecreate, func() *broken {
		b := &broken{Store: mem.New()}
		b.remove = func(context.Context, string) error { return nil }
		return b
	}},
	{"a late loser overwrites", propUnchanged, func() *broken {
		b := &broken{Store: mem.New()}
		var late sync.Map
		b.create = func(ctx context.Context, key string, body []byte) error {
			err := b.Store.Create(ctx, key, body)
			if errs.Is(err, errs.Exists) && strings.HasSuffix(key, "/race/001") {
				late.Store(key, append([]byte(nil), body...))
			}
			if strings.HasSuffix(key, "/ranges") {
				late.Range(func(k, v any) bool {
					b.Damage(k.(string), func([]byte) []byte { return v.([]byte) })
					return true
				})
			}
			return err
		}
		return b
	}},
	{"a lock that does not hold", propLock, func() *broken {
		b := &broken{Store: mem.New()}
		b.remove = func(ctx context.Context, key string) error {
			if strings.HasSuffix(key, "/locked") {
				return nil
			}
			return b.Store.Delete(ctx, key)
		}
		return b
	}},
	{"objects are lost", propUnchanged, func() *broken {
		b := &broken{Store: mem.New()}
		b.create = func(ctx context.Context, key string, body []byte) error {
			if strings.Contains(key, "/speed/007") {
				page, _ := b.Store.List(ctx, "probe/", "", store.MaxList)
				for _, info := range page {
					if strings.Contains(info.Key, "/race/000") {
						_ = b.Store.Delete(ctx, info.Key)
					}
				}
			}
			return b.Store.Create(ctx, key, body)
		}
		return b
	}},
}
