package verify

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// clean removes what the trial wrote, also after ctx has ended, and notes in
// the report what is left.
func (p *probe) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	p.tally.trying("cleaning up")
	refused := p.removeAll(ctx)
	left, err := p.remaining(ctx)
	if err != nil && !p.mayCreate {
		return // nothing was written, and nothing can be listed
	}
	p.report.LeftCount = len(left)
	p.report.Left = left[:min(len(left), maxNamed)]
	switch {
	case err != nil:
		p.report.LeftWhy = "what is left could not be listed: " + err.Error()
		p.report.LeftCount = max(p.report.LeftCount, 1)
	case len(left) == 0:
	case len(p.locks) > 0 && len(left) <= len(p.locks):
		p.report.LeftWhy = fmt.Sprintf("held by the trial's own lock for %v; credentials that may delete can remove it then", lockFor)
	case refused != nil && errs.Is(refused, errs.Denied):
		p.report.LeftWhy = "the credentials may not delete; others that may can remove it, nothing reads it again"
	case refused != nil:
		p.report.LeftWhy = "deleting failed: " + refused.Error()
	default:
		p.report.LeftWhy = "it was deleted and is still listed"
	}
}

// removeAll deletes every key that was ever sent: a Create that failed may
// have worked. It returns the first refusal, after which it stops.
func (p *probe) removeAll(ctx context.Context) (first error) {
	p.mu.Lock()
	keys := make(chan string, len(p.all))
	for key := range p.all {
		keys <- key
	}
	p.mu.Unlock()
	close(keys)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range cleaners {
		wg.Go(func() {
			for key := range keys {
				err := p.conn(i).remove(ctx, key)
				if err == nil {
					continue
				}
				if _, held := p.locks[key]; held {
					continue // expected; named in the report
				}
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
				return
			}
		})
	}
	wg.Wait()
	return first
}

// remaining lists what is still below the trial's prefix, up to one page.
func (p *probe) remaining(ctx context.Context) ([]string, error) {
	page, err := p.conns[0].list(ctx, p.prefix, "", store.MaxList)
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(page))
	for _, info := range page {
		keys = append(keys, info.Key)
	}
	slices.Sort(keys)
	return keys, nil
}
