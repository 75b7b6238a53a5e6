package journal

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// claimEpoch creates the next epoch's claim and returns its number.
func (c *Container) claimEpoch(ctx context.Context, t dr.TimelineID, host string, now time.Time) (dr.Epoch, error) {
	const op = "journal.OpenPublisher"
	highest, err := c.highestEpoch(ctx, t)
	if err != nil {
		return 0, errs.E(op, errs.Internal, epochPrefix(t), err)
	}
	if err := c.checkClaimKey(ctx, t, highest); err != nil {
		return 0, err
	}
	for e := highest + 1; e != 0; e++ {
		body, err := c.sealJSON(segment.Header{Timeline: t, Epoch: e, Created: now}, &claim{
			Timeline: t, Epoch: e, Host: host, Time: now.UTC(), Nonce: dr.NewUUID(),
		})
		if err != nil {
			return 0, err
		}
		// Sealing draws a random key, so an own claim is told by its bytes.
		err = createOnce(ctx, c.st, epochKey(t, e), body)
		if err == nil {
			return e, nil
		} else if !errs.Is(err, errs.Exists) {
			return 0, errs.E(op, errs.Internal, epochKey(t, e), err)
		}
	}
	return 0, errs.New(op, errs.Full, t.String(), "the timeline has no epoch left")
}

// checkClaimKey refuses to go on under an older data key than the last
// publisher had.
func (c *Container) checkClaimKey(ctx context.Context, t dr.TimelineID, last dr.Epoch) error {
	const op = "journal.OpenPublisher"
	if last == 0 {
		return nil
	}
	key := epochKey(t, last)
	b := make([]byte, segment.HeaderSize)
	err := readExact(ctx, c.st, key, b, 0)
	if err != nil && failing(err) {
		return errs.E(op, errs.Internal, key, err)
	}
	h, herr := segment.ParseHeader(b)
	if err != nil || herr != nil {
		return nil // a damaged claim counts all the same; fsck reports it
	}
	return c.refuseDowngrade(op, key, h.Key)
}

// highestEpoch returns the highest claimed epoch, 0 when there is none.
func (c *Container) highestEpoch(ctx context.Context, t dr.TimelineID) (dr.Epoch, error) {
	var highest dr.Epoch
	count := 0
	err := listAll(ctx, c.st, epochPrefix(t), "", func(in store.Info) bool {
		if e, ok := parseEpochKey(t, in.Key); ok {
			highest = e // ascending
		}
		count++
		return count < maxEpochs
	})
	if err == nil && count >= maxEpochs {
		err = errs.New("journal.highestEpoch", errs.Full, epochPrefix(t), "the timeline has too many epochs")
	}
	return highest, err
}

// epochAbove reports whether an epoch above e is claimed. One small list.
func (c *Container) epochAbove(ctx context.Context, t dr.TimelineID, e dr.Epoch) (dr.Epoch, bool, error) {
	page, err := c.st.List(ctx, epochPrefix(t), epochKey(t, e), 1)
	if err != nil || len(page) == 0 {
		return 0, false, err
	}
	// A foreign name above ours is taken for a claim: stopping is the safe side.
	above, _ := parseEpochKey(t, page[0].Key)
	return above, true, nil
}

// takeOver fences the history at its first missing number. h is walked on
// while others are faster.
func (c *Container) takeOver(ctx context.Context, h *History, e dr.Epoch, now time.Time) (*writer, error) {
	const op = "journal.OpenPublisher"
	tk := taker{claimed: e}
	for {
		if err := h.Extend(ctx); err != nil {
			return nil, err
		}
		if p := h.chainProblems(); len(p) > 0 {
			return nil, damagedHistory(op, p)
		}
		if late := tk.walked(h.chain); late {
			return nil, fencedBy(op, h.timeline, h.chain.epoch, e)
		}
		n, prev := tk.fenceAt()
		id := dr.NewUUID()
		body, digest, err := segment.SealFence(segment.Header{
			Domain: c.domain.ID, Timeline: h.timeline, Epoch: e, Number: n, Prev: prev, PrevObject: tk.last, PrevNumber: tk.at,
			Key: c.current().id, Window: Window, Created: now, Object: id,
		})
		if err != nil {
			return nil, errs.E(op, errs.Internal, objectKey(h.timeline, n), err)
		}
		err = createOnce(ctx, c.st, objectKey(h.timeline, n), body)
		if err == nil {
			beyond, err := h.listFrom(ctx, n+Window)
			if err != nil {
				return nil, errs.E(op, errs.Internal, objectKey(h.timeline, n), err)
			}
			if len(beyond) == 0 || !sleptOn(n, beyond[len(beyond)-1].number) {
				return tk.won(digest, id, Window), nil
			}
			// The name had been taken, and was deleted while we slept: nobody
			// goes W beyond a missing number. Or another has fenced us already.
		} else if !errs.Is(err, errs.Exists) {
			return nil, errs.E(op, errs.Internal, objectKey(h.timeline, n), err)
		}
	}
}

func damagedHistory(op string, p []Problem) error {
	return errs.New(op, errs.Corrupt, p[0].Object, fmt.Sprintf(
		"the history is damaged (%s; %d problems): no checkpoint published from here on could be recovered", p[0].What, len(p))).
		WithRemedy("run fsck on the container; recover what it offers, then protect the domain into a new container")
}

func fencedBy(op string, t dr.TimelineID, by, own dr.Epoch) error {
	return errs.New(op, errs.Fenced, t.String(), fmt.Sprintf("epoch %d owns this history; this publisher has epoch %d", by, own)).
		WithRemedy("another appliance protects this domain now; if that is right, retire this one, else stop the other and start this one again")
}
