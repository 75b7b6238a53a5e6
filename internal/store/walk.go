package store

import (
	"context"

	"holdfast/internal/errs"
)

// Walk calls fn for every object whose key begins with prefix, in ascending
// order, listing page by page. Objects created meanwhile may or may not be
// seen. It stops at fn's first error and returns it as it is.
func Walk(ctx context.Context, st Store, prefix string, fn func(Info) error) error {
	after := ""
	for {
		page, err := st.List(ctx, prefix, after, MaxList)
		if err != nil {
			return err
		}
		for _, info := range page {
			if info.Key <= after {
				// Going on would never end.
				return errs.New("store.Walk", errs.Internal, info.Key, "store listed it out of order")
			}
			after = info.Key
			if err := fn(info); err != nil {
				return err
			}
		}
		if len(page) < MaxList {
			return nil
		}
	}
}
