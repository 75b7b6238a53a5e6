package api

import (
	"context"
	"net/http"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/site"
)

func (s *server) registerTrust() {
	add(s, operation{ID: "get-identity", Method: http.MethodGet, Path: "/identity", Tag: "pairing", May: auth.SystemRead, Scoped: true,
		Summary: "This site's name and fingerprint", Detail: "To be compared when sites are paired."}, s.identity)
	s.registerPairing()
	s.registerEnrolments()
}

// IdentityBody is who this manager is.
type IdentityBody struct {
	Site        string `json:"site"`
	Fingerprint string `json:"fingerprint" doc:"SHA-256 of the site authority's certificate"`
	Words       string `json:"words" doc:"The same, to be read out"`
	Address     string `json:"address,omitempty" doc:"Where boxes and peers reach it"`
	Authority   string `json:"authority" doc:"The authority's certificate, PEM"`
}

func (s *server) identity(context.Context, *none) (*item[IdentityBody], error) {
	p, err := s.pki()
	if err != nil {
		return nil, err
	}
	return &item[IdentityBody]{IdentityBody{p.Site(), p.Fingerprint(), control.Words(p.Fingerprint()), s.Access.Address, control.EncodePEM(p.Root().Raw)}}, nil
}

func (s *server) registerPairing() {
	const tag = "pairing"
	add(s, operation{ID: "list-pairings", Method: http.MethodGet, Path: "/pairing", Tag: tag, May: auth.PairRead, Summary: "The paired sites, with the status of both directions"}, s.listPairs)
	add(s, operation{ID: "get-pairing", Method: http.MethodGet, Path: "/pairing/{name}", Tag: tag, May: auth.PairRead, Summary: "One paired site"}, s.getPair)
	add(s, created(operation{ID: "invite-site", Method: http.MethodPost, Path: "/pairing/invitations", Tag: tag, May: auth.PairWrite, Change: true, Secret: true,
		Summary: "Make a token by which another site pairs with this one, or pairs again"}), s.invitePair)
	add(s, operation{ID: "accept-site", Method: http.MethodPost, Path: "/pairing/accept", Tag: tag, May: auth.PairWrite, Change: true, Secret: true,
		Summary: "Use another site's token", Detail: "Then have its admin compare this site's fingerprint, and confirm."}, s.acceptPair)
	add(s, operation{ID: "confirm-site", Method: http.MethodPost, Path: "/pairing/{name}/confirm", Tag: tag, May: auth.PairWrite, Change: true,
		Summary: "Trust the site that has used the token", Detail: "With the fingerprint that was compared with what the other site's manager shows."}, s.confirmPair)
	add(s, operation{ID: "unpair-site", Method: http.MethodDelete, Path: "/pairing/{name}", Tag: tag, May: auth.PairWrite, Change: true, Status: http.StatusNoContent,
		Summary: "Un-pair", Detail: "The other manager is told, if it answers."}, s.unpair)
	add(s, operation{ID: "present-site", Method: http.MethodPost, Path: "/pairing/present", Tag: tag, Open: true, Change: true, Secret: true, Status: http.StatusOK,
		Summary: "For managers: come with a token"}, s.presentPair)
	add(s, operation{ID: "beat-site", Method: http.MethodPost, Path: "/pairing/beat", Tag: tag, May: auth.PeerBeat, Summary: "For paired managers: tell that one is there"}, s.beatPair)
	add(s, operation{ID: "leave-site", Method: http.MethodPost, Path: "/pairing/leave", Tag: tag, May: auth.PeerBeat, Change: true, Status: http.StatusNoContent,
		Summary: "For paired managers: tell that one un-pairs"}, s.leavePair)
}

func (s *server) listPairs(ctx context.Context, _ *none) (*every[pair.Pair], error) {
	var out *every[pair.Pair]
	return out, s.view(ctx, func(tx *db.Tx) error {
		all, err := pair.List(ctx, tx)
		out = everyOf(all)
		return err
	})
}

func (s *server) getPair(ctx context.Context, in *NameIn) (*item[pair.Pair], error) {
	return read(ctx, s, func(tx *db.Tx) (pair.Pair, error) { return pair.Get(ctx, tx, site.Name(in.Name)) })
}

type invitePairIn struct {
	Body struct {
		Name    site.Name `json:"name" maxLength:"63" doc:"What the pair is called here"`
		Address string    `json:"address,omitempty" maxLength:"1024" doc:"Where the other site reaches this manager; empty: its usual address"`
		Good    site.Span `json:"good,omitempty" doc:"How long the token is good; empty: an hour"`
	}
}

// InvitationBody is a token.
type InvitationBody struct {
	Token string `json:"token" doc:"It is shown this once, and good once"`
}

func (s *server) invitePair(ctx context.Context, in *invitePairIn) (*item[InvitationBody], error) {
	p, err := s.pki()
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "pair "+string(in.Body.Name), func(tx *db.Tx) (*item[InvitationBody], error) {
		t, err := pair.Invite(ctx, tx, p, in.Body.Name, s.address(in.Body.Address), time.Duration(in.Body.Good), by(ctx))
		if err != nil {
			return nil, err
		}
		return &item[InvitationBody]{InvitationBody{t}}, catalog.Note(ctx, tx, "pairing", string(in.Body.Name), "invite", by(ctx))
	})
}

func (s *server) address(given string) string {
	if given != "" {
		return given
	}
	return s.Access.Address
}

type acceptPairIn struct {
	Body struct {
		Name    site.Name `json:"name" maxLength:"63" doc:"What the pair is called here"`
		Token   string    `json:"token" maxLength:"4096"`
		Address string    `json:"address,omitempty" maxLength:"1024" doc:"Where the other site reaches this manager; empty: its usual address"`
	}
}

func (s *server) acceptPair(ctx context.Context, in *acceptPairIn) (*item[pair.Pair], error) {
	k, err := s.pki()
	if err != nil {
		return nil, err
	}
	// The other site has taken the token by then; what we trust is entered below.
	a, err := pair.Accept(ctx, k, in.Body.Name, in.Body.Token, s.address(in.Body.Address))
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "pair "+string(in.Body.Name), func(tx *db.Tx) (*item[pair.Pair], error) {
		p, err := a.Trust(ctx, tx)
		if err != nil {
			return nil, err
		}
		return &item[pair.Pair]{p}, catalog.Note(ctx, tx, "pairing", string(in.Body.Name), "accept", by(ctx))
	})
}

type confirmPairIn struct {
	NameIn
	Body struct {
		Fingerprint string `json:"fingerprint" minLength:"64" maxLength:"64"`
	}
}

func (s *server) confirmPair(ctx context.Context, in *confirmPairIn) (*item[pair.Pair], error) {
	k, err := s.pki()
	if err != nil {
		return nil, err
	}
	if err := person(ctx); err != nil {
		return nil, err
	}
	detail(ctx, in.Body)
	return change(ctx, s, "pair "+in.Name, func(tx *db.Tx) (*item[pair.Pair], error) {
		p, err := pair.Confirm(ctx, tx, k, site.Name(in.Name), in.Body.Fingerprint)
		if err != nil {
			return nil, err
		}
		return &item[pair.Pair]{p}, catalog.Note(ctx, tx, "pairing", in.Name, "confirm", by(ctx))
	})
}

func (s *server) unpair(ctx context.Context, in *NameIn) (*nothingOut, error) {
	if s.Access.Pairs != nil {
		if err := s.Access.Pairs.Leave(ctx, site.Name(in.Name)); err != nil {
			s.Logger.Info("a pair's manager could not be told that it is un-paired", "pair", db.Text(in.Name, site.MaxName), "err", err)
		}
	}
	return change(ctx, s, "pair "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		if err := pair.Remove(ctx, tx, site.Name(in.Name)); err != nil {
			return nil, err
		}
		return &nothingOut{}, catalog.Note(ctx, tx, "pairing", in.Name, "delete", by(ctx))
	})
}

func (s *server) presentPair(ctx context.Context, in *item[pair.Presentation]) (*item[pair.Presented], error) {
	k, err := s.pki()
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "site "+db.Text(string(in.Body.Site), site.MaxName), func(tx *db.Tx) (*item[pair.Presented], error) {
		p, err := pair.Present(ctx, tx, k, in.Body, remoteOf(ctx))
		return &item[pair.Presented]{p}, err
	})
}

func (s *server) beatPair(ctx context.Context, in *item[pair.Beat]) (*item[pair.Beat], error) {
	k, err := s.pki()
	if err != nil {
		return nil, err
	}
	out := &item[pair.Beat]{}
	return out, s.DB.Tx(ctx, func(tx *db.Tx) error { // a beat is nothing for the audit log
		out.Body, err = pair.Note(ctx, tx, k, site.Name(callOf(ctx).who.Peer()), in.Body, s.Release)
		return err
	})
}

func (s *server) leavePair(ctx context.Context, _ *item[struct{}]) (*nothingOut, error) {
	name := callOf(ctx).who.Peer()
	return change(ctx, s, "pair "+name, func(tx *db.Tx) (*nothingOut, error) {
		if err := pair.Left(ctx, tx, site.Name(name)); err != nil {
			return nil, err
		}
		return &nothingOut{}, catalog.Note(ctx, tx, "pairing", name, "left", by(ctx))
	})
}

func (s *server) registerEnrolments() {
	const tag = "enrolments"
	add(s, operation{ID: "list-enrolments", Method: http.MethodGet, Path: "/enrolments", Tag: tag, May: auth.BoxRead, Summary: "The boxes that are enrolled or invited, with their health"}, s.listBoxes)
	add(s, operation{ID: "get-enrolment", Method: http.MethodGet, Path: "/enrolments/{name}", Tag: tag, May: auth.BoxRead, Summary: "One box"}, s.getBox)
	add(s, created(operation{ID: "invite-box", Method: http.MethodPost, Path: "/enrolments/invitations", Tag: tag, May: auth.BoxWrite, Change: true, Secret: true,
		Summary: "Make a token by which a box enrols", Detail: "With replace, the box that has the name is out when the new one joins."}), s.inviteBox)
	add(s, operation{ID: "assign-box", Method: http.MethodPut, Path: "/enrolments/{name}/domains", Tag: tag, May: auth.BoxWrite, Change: true, Status: http.StatusNoContent,
		Summary: "Say which domains a DRVA serves", Detail: "By id. Its certificate stands for them soon after."}, s.assignBox)
	add(s, operation{ID: "revoke-box", Method: http.MethodPost, Path: "/enrolments/{name}/revoke", Tag: tag, May: auth.BoxWrite, Change: true, Status: http.StatusNoContent,
		Summary: "Have a box's certificate count no more", Detail: "The manager refuses it at once. Other boxes take its certificate until it expires."}, s.revokeBox)
	add(s, operation{ID: "remove-box", Method: http.MethodDelete, Path: "/enrolments/{name}", Tag: tag, May: auth.BoxWrite, Change: true, Status: http.StatusNoContent,
		Summary: "Forget a box"}, s.removeBox)
	add(s, operation{ID: "join-box", Method: http.MethodPost, Path: "/enrolments/join", Tag: tag, Open: true, Change: true, Secret: true, Status: http.StatusOK,
		Summary: "For boxes: come with a token"}, s.joinBox)
	add(s, operation{ID: "beat-box", Method: http.MethodPost, Path: "/enrolments/beat", Tag: tag, May: auth.BoxBeat, Summary: "For boxes: tell that one lives"}, s.beatBox)
	add(s, operation{ID: "renew-box", Method: http.MethodPost, Path: "/enrolments/renew", Tag: tag, May: auth.BoxBeat, Change: true, Secret: true, Status: http.StatusOK,
		Summary: "For boxes: get another certificate"}, s.renewBox)
}

type boxesOut struct {
	Body struct {
		Items []enrol.Box `json:"items"`
		Next  string      `json:"next,omitempty" doc:"Cursor of the next page; missing: this is the last"`
	}
}

func (s *server) listBoxes(ctx context.Context, in *struct{ Paging }) (*boxesOut, error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	out := &boxesOut{}
	out.Body.Items = []enrol.Box{}
	return out, s.view(ctx, func(tx *db.Tx) error {
		boxes, err := enrol.List(ctx, tx, site.Name(after), in.Limit)
		if len(boxes) == in.Limit {
			out.Body.Next = cursor(string(boxes[len(boxes)-1].Name))
		}
		out.Body.Items = append(out.Body.Items, boxes...)
		return err
	})
}

func (s *server) getBox(ctx context.Context, in *NameIn) (*item[enrol.Box], error) {
	return read(ctx, s, func(tx *db.Tx) (enrol.Box, error) { return enrol.Get(ctx, tx, site.Name(in.Name)) })
}

type inviteBoxIn struct {
	Body struct {
		Name      site.Name `json:"name" maxLength:"63" doc:"Of the appliance"`
		Role      site.Role `json:"role" enum:"drva,iofilter,rocva"`
		Addresses []string  `json:"addresses,omitempty" maxItems:"16" doc:"Host names and addresses others dial it by; empty: the one it comes from"`
		Manager   string    `json:"manager,omitempty" maxLength:"1024" doc:"Where it reaches this manager; empty: its usual address"`
		Good      site.Span `json:"good,omitempty" doc:"How long the token is good; empty: an hour"`
		Replace   bool      `json:"replace,omitempty"`
	}
}

func (s *server) inviteBox(ctx context.Context, in *inviteBoxIn) (*item[InvitationBody], error) {
	p, err := s.pki()
	if err != nil {
		return nil, err
	}
	detail(ctx, in.Body)
	b := in.Body
	return change(ctx, s, "appliance "+string(b.Name), func(tx *db.Tx) (*item[InvitationBody], error) {
		if err := agrees(ctx, tx, b.Name, b.Role); err != nil {
			return nil, err
		}
		t, err := enrol.Invite(ctx, tx, p, enrol.Invitation{Name: b.Name, Role: b.Role, Addresses: b.Addresses,
			Manager: s.address(b.Manager), Good: time.Duration(b.Good), Replace: b.Replace}, by(ctx))
		if err != nil {
			return nil, err
		}
		return &item[InvitationBody]{InvitationBody{t}}, catalog.Note(ctx, tx, "enrolment", string(b.Name), "invite", by(ctx))
	})
}

// agrees refuses another role than the configured appliance of that name has, if there
// is one.
func agrees(ctx context.Context, tx *db.Tx, name site.Name, role site.Role) error {
	stored, err := catalog.Get(ctx, tx, site.KindBox, name)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if a, ok := stored.Object.(*site.Appliance); ok && a.Role != role {
		return errs.New("api", errs.Conflict, "appliance "+string(name), "it is configured as "+string(a.Role)).WithRemedy("invite it as that, or change its configuration")
	}
	return nil
}

type assignBoxIn struct {
	NameIn
	Body struct {
		Domains []string `json:"domains" maxItems:"63" doc:"Ids"`
	}
}

func (s *server) assignBox(ctx context.Context, in *assignBoxIn) (*nothingOut, error) {
	var ids []dr.DomainID
	for _, text := range in.Body.Domains {
		id, err := dr.ParseUUID(text)
		if err != nil {
			return nil, errs.New("api", errs.Invalid, "appliance "+in.Name, db.Text(text, 64)+" is no id of a domain").WithRemedy("send ids, not names")
		}
		ids = append(ids, dr.DomainID{UUID: id})
	}
	detail(ctx, in.Body)
	return change(ctx, s, "appliance "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		if err := enrol.Assign(ctx, tx, site.Name(in.Name), ids); err != nil {
			return nil, err
		}
		return &nothingOut{}, catalog.Note(ctx, tx, "enrolment", in.Name, "assign", by(ctx))
	})
}

func (s *server) revokeBox(ctx context.Context, in *NameIn) (*nothingOut, error) {
	return change(ctx, s, "appliance "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		if err := enrol.Revoke(ctx, tx, site.Name(in.Name)); err != nil {
			return nil, err
		}
		return &nothingOut{}, catalog.Note(ctx, tx, "enrolment", in.Name, "revoke", by(ctx))
	})
}

func (s *server) removeBox(ctx context.Context, in *NameIn) (*nothingOut, error) {
	return change(ctx, s, "appliance "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		if err := enrol.Remove(ctx, tx, site.Name(in.Name)); err != nil {
			return nil, err
		}
		return &nothingOut{}, catalog.Note(ctx, tx, "enrolment", in.Name, "delete", by(ctx))
	})
}

func (s *server) joinBox(ctx context.Context, in *item[enrol.Request]) (*item[enrol.Reply], error) {
	p, err := s.pki()
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "appliance", func(tx *db.Tx) (*item[enrol.Reply], error) {
		r, err := enrol.Accept(ctx, tx, p, in.Body, remoteOf(ctx))
		if err != nil {
			return nil, err
		}
		callOf(ctx).object = "appliance " + string(r.Name)
		return &item[enrol.Reply]{r}, catalog.Note(ctx, tx, "enrolment", string(r.Name), "join", "")
	})
}

func (s *server) beatBox(ctx context.Context, in *item[enrol.Beat]) (*item[enrol.Answer], error) {
	who := callOf(ctx).who
	out := &item[enrol.Answer]{}
	return out, s.DB.Tx(ctx, func(tx *db.Tx) (err error) { // a beat is nothing for the audit log
		out.Body, err = enrol.Note(ctx, tx, site.Name(who.Box()), who.Proof(), in.Body, remoteOf(ctx))
		return err
	})
}

func (s *server) renewBox(ctx context.Context, in *item[enrol.Renewal]) (*item[enrol.Reply], error) {
	p, err := s.pki()
	if err != nil {
		return nil, err
	}
	who := callOf(ctx).who
	return change(ctx, s, "appliance "+who.Box(), func(tx *db.Tx) (*item[enrol.Reply], error) {
		r, err := enrol.Renew(ctx, tx, p, site.Name(who.Box()), who.Proof(), in.Body.CSR)
		return &item[enrol.Reply]{r}, err
	})
}
