package rocva

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/setup"
	"holdfast/internal/recovery"
)

// copyCredentials is the name of a file of a domain's access: KEY=VALUE lines for the
// store of a copy, by its place.
func copyCredentials(i int) string { return "copy" + strconv.Itoa(i+1) + "." + credentialsFile }

// reads is where a recovery of a domain reads.
type reads struct {
	url    string
	access map[string]string
	warn   string // of what people must know; "": nothing
	// copies are to be kept once the domain lives here: those of the first store. A
	// recovery from one of them decides nothing about the others.
	copies []recovery.ProtectCopy
}

// reads finds the container of a domain that can be opened: in the first store; where
// that cannot, and the recovery is not planned, in the first of the others that can. A
// planned one ends at a checkpoint that was just published, which is in the first store.
func (s *Appliance) reads(ctx context.Context, open opener, d *setup.Domain, planned bool) reads {
	first := reads{url: d.Container, access: s.access(d)}
	for i := range d.Copies {
		first.copies = append(first.copies, recovery.ProtectCopy{Container: d.Copies[i].Container, Credentials: s.copyAccess(d, i)[credentialsFile]})
	}
	if planned || len(d.Copies) == 0 {
		return first
	}
	_, why := opened(ctx, open, first, d)
	if why == nil {
		return first
	}
	for i := range d.Copies {
		from := reads{url: d.Copies[i].Container, access: s.copyAccess(d, i)}
		newest, err := opened(ctx, open, from, d)
		if err != nil {
			s.log.Warn("a copy cannot be read either", "domain", d.Name, "store", d.Copies[i].Store, "err", err)
			continue
		}
		from.warn = fmt.Sprintf("THE FIRST STORE CANNOT BE READ (%v): the recovery is from the copy in store %s, whose newest recovery point is of %s UTC, %s ago; what was published later is not in it",
			why, d.Copies[i].Store, newest.UTC().Format(time.DateTime), time.Since(newest).Round(time.Second))
		return from
	}
	return first // its own error is told by the step
}

// opener opens a container, as Parts.Open does.
type opener func(ctx context.Context, url string, access map[string]string) (*journal.Container, error)

// opened reads a container so far as a recovery must, and returns the time of its newest
// recovery point.
func opened(ctx context.Context, open opener, from reads, d *setup.Domain) (newest time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	c, err := open(ctx, from.url, from.access)
	if err != nil {
		return newest, err
	}
	if c.Domain().ID != d.ID {
		return newest, errs.New("rocva.opened", errs.Conflict, from.url, "the container is another domain's")
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return newest, err
	}
	cp, err := h.Find("latest")
	return cp.Time, err
}

// copyAccess is access for a copy.
func (s *Appliance) copyAccess(d *setup.Domain, i int) map[string]string {
	out := map[string]string{keyFile: s.path("access", string(d.Name), keyFile)}
	if strings.TrimSpace(d.Copies[i].Credentials) != "" {
		out[credentialsFile] = s.path("access", string(d.Name), copyCredentials(i))
	}
	return out
}
