package api

import (
	"context"
	"net/http"

	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/site"
)

func (s *server) registerCommands() {
	// What waits is no request under way: a box's exchange has a bound of its own.
	add(s, operation{ID: "exchange-box", Method: http.MethodPost, Path: "/enrolments/exchange", Tag: "enrolments", May: auth.BoxBeat, Stream: true,
		Summary: "For boxes: wait for something to do, and for what to be", Detail: "It is answered as soon as there is something, else after 15 s."}, s.exchangeBox)
	add(s, operation{ID: "tell-box", Method: http.MethodPost, Path: "/enrolments/told", Tag: "enrolments", May: auth.BoxBeat, Status: http.StatusNoContent,
		Summary: "For boxes: tell of oneself, how far commands are, and how they ended"}, s.tellBox)
	add(s, operation{ID: "command-site", Method: http.MethodPost, Path: "/pairing/commands", Tag: "pairing", May: auth.PeerBeat, Stream: true,
		Summary: "For paired managers: have a step of a shared domain done here, and ask how far it is", Detail: "What is begun is in the audit log."}, s.commandPair)
}

// desk is where commands lie. Kind Unavailable: this manager has none.
func (s *server) desk() (*command.Desk, error) {
	if s.Desk == nil {
		return nil, errs.New("api", errs.Unavailable, "", "this manager gives no commands")
	}
	return s.Desk, nil
}

func (s *server) exchangeBox(ctx context.Context, in *item[command.Exchange]) (*item[*command.Reply], error) {
	d, err := s.desk()
	if err != nil {
		return nil, err
	}
	select {
	case s.polls <- struct{}{}:
		defer func() { <-s.polls }()
	default:
		return nil, errs.New("api", errs.Transient, "", "as many boxes wait here as can").WithRemedy("add a replica of the manager")
	}
	who := callOf(ctx).who
	r, err := d.Exchange(ctx, site.Name(who.Box()), who.Proof(), &in.Body)
	return &item[*command.Reply]{r}, err
}

func (s *server) tellBox(ctx context.Context, in *item[command.Told]) (*nothingOut, error) {
	d, err := s.desk()
	if err != nil {
		return nil, err
	}
	who := callOf(ctx).who
	return &nothingOut{}, d.Tell(ctx, site.Name(who.Box()), who.Proof(), &in.Body)
}

func (s *server) commandPair(ctx context.Context, in *item[command.Abroad]) (*item[command.Status], error) {
	d, err := s.desk()
	if err != nil {
		return nil, err
	}
	var p pair.Pair
	if err := s.view(ctx, func(tx *db.Tx) (err error) { p, err = pair.Get(ctx, tx, site.Name(callOf(ctx).who.Peer())); return err }); err != nil {
		return nil, err
	}
	st, err := d.AskFor(ctx, &command.Peer{Pair: p.Name, Site: p.PeerSite, Fingerprint: p.Fingerprint}, &in.Body)
	return &item[command.Status]{st}, err
}
