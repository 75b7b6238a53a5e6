package azblob

import (
	"context"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// leastByte is the smallest byte a key can hold: no key lies between k and k
// followed by it.
const leastByte = "-"

// List implements store.Store; see the package comment for what it costs.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	const op = "azblob.List"
	if err := store.CheckList(op, prefix, limit); err != nil {
		return nil, err
	}
	if after > prefix && !strings.HasPrefix(after, prefix) {
		return nil, store.Canceled(ctx, op, prefix) // all keys with prefix sort before after
	}
	l := lister{s: s, prefix: prefix, after: after, limit: limit, from: startAfter(prefix, after)}
	marker := ""
	for range maxPages {
		if err := store.Canceled(ctx, op, prefix); err != nil {
			return nil, err
		}
		next, err := l.page(ctx, marker)
		if err != nil {
			return nil, s.explain(ctx, op, prefix, err)
		}
		if len(l.found) == limit || next == "" {
			return l.found, nil
		}
		if next == marker {
			return nil, errs.New(op, errs.Transient, prefix, "service answers with the page that was asked for before")
		}
		marker = next
	}
	return nil, errs.E(op, errs.Transient, prefix, fmt.Errorf("listing did not end after %d requests", maxPages))
}

// startAfter is the key from which on to list what follows after; empty when
// the prefix says it all.
func startAfter(prefix, after string) string {
	if after < prefix {
		return ""
	}
	// after is any string; the service is sent what can be part of a name.
	for i := range len(after) {
		if store.CheckKey("", "x"+after[i:i+1]+"x") != nil {
			return after[:i] // comes before after: the rest is skipped here
		}
	}
	if after == "" {
		return ""
	}
	return after + leastByte
}

// lister is one List under way.
type lister struct {
	s             *Store
	prefix, after string
	from          string // key to begin at; empty: the prefix's first
	limit         int
	last          string // name of the last blob seen
	found         []store.Info
}

// page asks for one page behind marker and adds what belongs into the answer.
func (l *lister) page(ctx context.Context, marker string) (next string, err error) {
	prefix, from, most := l.s.prefix+l.prefix, l.s.prefix+l.from, int32(l.limit-len(l.found))
	opts := container.ListBlobsFlatOptions{MaxResults: &most}
	if prefix != "" {
		opts.Prefix = &prefix
	}
	if l.from != "" {
		opts.StartFrom = &from
		if l.s.scans.Load() {
			most = servicePage
		}
	}
	if marker != "" {
		opts.Marker = &marker
	}
	resp, err := l.s.container.NewListBlobsFlatPager(&opts).NextPage(ctx)
	if err != nil {
		return "", err
	}
	if resp.Segment != nil {
		for _, item := range resp.Segment.BlobItems {
			if item == nil || item.Name == nil {
				continue
			}
			if err := l.add(*item.Name, item); err != nil {
				return "", err
			}
		}
	}
	if resp.NextMarker == nil {
		return "", nil
	}
	return *resp.NextMarker, nil
}

// add puts a blob into the answer if it belongs there.
func (l *lister) add(name string, item *container.BlobItem) error {
	if name <= l.last && l.last != "" {
		return disordered(l.last, name)
	}
	l.last = name
	key, ok := l.s.key(name)
	if l.from != "" && name < l.s.prefix+l.from {
		l.s.scans.Store(true)
	}
	if !ok || key <= l.after || !strings.HasPrefix(key, l.prefix) || len(l.found) == l.limit {
		return nil
	}
	p := item.Properties
	if p == nil || p.ContentLength == nil || *p.ContentLength < 0 {
		return errs.New("", errs.Transient, key, "listing does not say the size")
	}
	l.found = append(l.found, store.Info{Key: key, Size: *p.ContentLength, Modified: moment(p.LastModified)})
	return nil
}

func disordered(before, name string) error {
	return errs.E("", errs.Invalid, "", fmt.Errorf("service lists %s behind %s, out of byte order", shorten(name), shorten(before))).
		WithRemedy("use a storage account without hierarchical namespace")
}
