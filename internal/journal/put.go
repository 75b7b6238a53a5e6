package journal

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// put creates object n until it is known to be in the store, or known never to
// be, and tells run. It gives up when the publisher stops.
func (p *Publisher) put(n dr.ObjectNumber, body []byte, digest segment.Digest) {
	key := objectKey(p.timeline, n)
	for try := 0; ; try++ {
		err := p.c.st.Create(p.ctx, key, body)
		if errs.Is(err, errs.Exists) {
			var own bool
			if own, err = p.isOwn(key, body, digest); own {
				err = nil
			}
		}
		switch errs.KindOf(err) {
		case errs.Fenced, errs.Corrupt, errs.Invalid:
			if err != nil {
				p.results <- landing{n, errs.E("journal.Publish", errs.Internal, key, err)}
				return
			}
		}
		if err == nil {
			p.c.recent.add(key, body)
			p.results <- landing{n: n}
			return
		}
		// Whatever else went wrong may pass, and the object may be there or yet
		// appear: only the same object under the same name is safe.
		if !p.waitRetry(key, try, err) {
			return
		}
	}
}

// isOwn reads what lies under an own name. It is own when it is the very
// object we try to create: an earlier try landed and its answer was lost. Kind
// Fenced when it is somebody else's, Corrupt when nobody could tell.
func (p *Publisher) isOwn(key string, body []byte, digest segment.Digest) (bool, error) {
	const op = "journal.Publish"
	in, err := p.c.st.Stat(p.ctx, key)
	if err != nil {
		return false, transientNotFound(op, key, err)
	}
	head := make([]byte, segment.HeaderSize)
	if err := readExact(p.ctx, p.c.st, key, head, 0); err != nil {
		return false, transientNotFound(op, key, err)
	}
	if !bytes.Equal(head, body[:segment.HeaderSize]) {
		return false, foreign(op, key, head, p.epoch)
	}
	tail := make([]byte, segment.TailSize)
	if in.Size == int64(len(body)) {
		if err := readExact(p.ctx, p.c.st, key, tail, in.Size-segment.TailSize); err != nil {
			return false, transientNotFound(op, key, err)
		}
		if _, _, d, err := segment.ParseTail(tail); err == nil && d == digest {
			return true, nil
		}
	}
	return false, errs.New(op, errs.Corrupt, key, "the store has kept only a part of this object").
		WithRemedy("the store does not create objects whole: check it before publishing on")
}

// transientNotFound keeps a name that exists for Create and not for reads from
// being taken for an answer.
func transientNotFound(op, key string, err error) error {
	if errs.Is(err, errs.NotFound) {
		return errs.E(op, errs.Transient, key, fmt.Errorf("the store says that the object exists and that it does not: %w", err))
	}
	return errs.E(op, errs.Internal, key, err)
}

func foreign(op, key string, head []byte, own dr.Epoch) error {
	who := "not a journal object"
	if h, err := segment.ParseHeader(head); err == nil {
		who = fmt.Sprintf("of epoch %d", h.Epoch)
	}
	return errs.New(op, errs.Fenced, key, fmt.Sprintf("another object, %s, has this number; this publisher has epoch %d", who, own)).
		WithRemedy("another appliance protects this domain now; if that is right, retire this one, else stop the other and start this one again")
}

// checkEpoch looks whether a higher epoch is claimed and tells run. at is when
// the look begins.
func (p *Publisher) checkEpoch(at instant) {
	for try := 0; ; try++ {
		above, found, err := p.c.epochAbove(p.ctx, p.timeline, p.epoch)
		if err == nil {
			p.checks <- checked{at: at, above: above, found: found}
			return
		}
		if !p.waitRetry(epochPrefix(p.timeline), try, err) {
			return
		}
		at = readClock(p.clock)
	}
}

// waitRetry notes a failed try and waits before the next; false when the
// publisher has stopped meanwhile.
func (p *Publisher) waitRetry(key string, try int, err error) bool {
	if p.ctx.Err() != nil {
		return false
	}
	p.mu.Lock()
	p.lastErr = errs.E("journal.Publish", errs.Internal, key, err)
	p.tries++
	first := p.tries == 1
	p.mu.Unlock()
	if first {
		p.log.Warn("publishing is held up, trying on", "object", key, "err", err)
	}
	return sleep(p.ctx, p.backoff(try)) == nil
}

// backoff doubles from retryFirst to retryMost, less up to a quarter so that
// publishers do not march in step.
func backoff(try int) time.Duration {
	d := retryMost
	if try < 10 {
		d = min(retryFirst<<try, retryMost)
	}
	return d - rand.N(d/4)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
