package pair

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/call"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/site"
)

// Bounds and times.
const (
	maxToken   = 4 << 10 // bytes
	maxPairs   = 256     // of one site
	maxRelease = 100     // bytes
	maxError   = 500     // bytes of what is kept of a failure

	// InviteFor is how long a token is good unless it is said; MostInvite the longest.
	InviteFor  = time.Hour
	MostInvite = 7 * 24 * time.Hour
	// BeatEvery is how often a site tells the other that it is there.
	BeatEvery = 10 * time.Second
	// LostAfter is when a direction that was silent is called lost.
	LostAfter = 3 * BeatEvery
)

// The paths of the manager's API that other managers call.
const (
	PresentPath = "/api/v1/pairing/present"
	BeatPath    = "/api/v1/pairing/beat"
	LeavePath   = "/api/v1/pairing/leave"
)

// Status is how a pair stands, in one word. Names are stable.
type Status string

// The statuses.
const (
	StatusInvited   Status = "invited"   // a token was made
	StatusPresented Status = "presented" // a person has to confirm the fingerprint
	StatusOK        Status = "ok"        // both directions work
	StatusOneWay    Status = "one-way"   // one does
	StatusLost      Status = "lost"      // none does
	StatusRefused   Status = "refused"   // the other side is not, or does not take us for, who it was: pair again
	StatusRevoked   Status = "revoked"   // the other side has un-paired
)

// Pair is another site's manager, as ours knows it.
type Pair struct {
	Name        site.Name  `json:"name"`
	PeerSite    site.Name  `json:"peer_site,omitempty"` // empty until it is known
	Address     string     `json:"address,omitempty"`   // where we call it; empty: only it calls us
	Trust       site.Trust `json:"trust,omitempty"`
	Status      Status     `json:"status"`
	Fingerprint string     `json:"fingerprint,omitempty"` // of its authority, if it is trusted
	Words       string     `json:"words,omitempty"`       // the same, to be read out
	// Presented is the fingerprint that waits to be confirmed, with where it came from.
	Presented      string `json:"presented,omitempty"`
	PresentedWords string `json:"presented_words,omitempty"`
	PresentedBy    string `json:"presented_by,omitempty"`
	PresentedAt    int64  `json:"presented_at,omitempty"` // UTC milliseconds, as the others
	CreatedAt      int64  `json:"created_at"`

	OutAt     int64  `json:"out_at,omitempty"`    // when we called last
	OutOKAt   int64  `json:"out_ok_at,omitempty"` // when that was taken last
	OutError  string `json:"out_error,omitempty"` // why it was not
	OutRemedy string `json:"out_remedy,omitempty"`
	InAt      int64  `json:"in_at,omitempty"` // when it called us last
	SkewMS    int64  `json:"skew_ms"`         // its clock less ours, with the way of the message in it
	Release   string `json:"release,omitempty"`

	root      *x509.Certificate // its authority; nil: not trusted
	presented *presented
}

// presented is what waits for confirmation.
type presented struct {
	Site      site.Name `json:"site"`
	Address   string    `json:"address"`
	Authority string    `json:"authority"` // PEM
}

const columns = `name, peer_site, address, trust, authority, fingerprint, presented, presented_at, presented_by, created_at, out_at, out_ok_at, out_error, out_remedy, in_at, skew, release`

func read(scan func(...any) error, now int64) (p Pair, err error) {
	var authority, shown string
	if err := scan(&p.Name, &p.PeerSite, &p.Address, &p.Trust, &authority, &p.Fingerprint, &shown, &p.PresentedAt, &p.PresentedBy, &p.CreatedAt,
		&p.OutAt, &p.OutOKAt, &p.OutError, &p.OutRemedy, &p.InAt, &p.SkewMS, &p.Release); err != nil {
		return p, err
	}
	corrupt := func(err error) (Pair, error) {
		return p, errs.E("pair.read", errs.Corrupt, "pair "+string(p.Name), err).WithRemedy("pair the sites again")
	}
	if authority != "" {
		if p.root, err = parseRoot(authority); err != nil {
			return corrupt(err)
		}
		if control.Fingerprint(p.root) != p.Fingerprint {
			return corrupt(fmt.Errorf("the authority is not that of the fingerprint"))
		}
		p.Words = control.Words(p.Fingerprint)
	}
	if shown != "" {
		p.presented = &presented{}
		if err := json.Unmarshal([]byte(shown), p.presented); err != nil {
			return corrupt(err)
		}
		root, err := parseRoot(p.presented.Authority)
		if err != nil {
			return corrupt(err)
		}
		p.Presented = control.Fingerprint(root)
		p.PresentedWords = control.Words(p.Presented)
	}
	p.Status = p.status(now)
	return p, nil
}

func parseRoot(pem string) (*x509.Certificate, error) {
	der, err := control.DecodePEM(pem)
	if err != nil {
		return nil, err
	}
	return control.ParseRoot(der)
}

func (p *Pair) status(now int64) Status {
	in := p.InAt > 0 && now-p.InAt <= LostAfter.Milliseconds()
	out := p.OutOKAt > 0 && now-p.OutOKAt <= LostAfter.Milliseconds() && p.OutError == ""
	switch {
	case p.Trust == site.Revoked:
		return StatusRevoked
	case p.Presented != "":
		return StatusPresented
	case p.Trust != site.Trusted:
		return StatusInvited
	case p.OutRemedy == repair:
		return StatusRefused
	case in && out:
		return StatusOK
	case in || out:
		return StatusOneWay
	}
	return StatusLost
}

// take returns a pair's row and has it until the transaction ends.
func take(ctx context.Context, tx *db.Tx, name site.Name) (p Pair, found bool, err error) {
	err = tx.Rows(ctx, `UPDATE peers SET name = name WHERE name = $1 RETURNING `+columns, []any{name}, func(scan func(...any) error) error {
		found = true
		var err error
		p, err = read(scan, tx.Now())
		return err
	})
	return p, found, err
}

func noPair(op string, name site.Name) error {
	return errs.New(op, errs.NotFound, "pair "+db.Text(string(name), site.MaxName), "there is no such pair").WithRemedy("list the pairs there are")
}

// Get returns a pair. Kind NotFound.
func Get(ctx context.Context, tx *db.Tx, name site.Name) (p Pair, err error) {
	found := false
	err = tx.Rows(ctx, `SELECT `+columns+` FROM peers WHERE name = $1`, []any{name}, func(scan func(...any) error) (err error) {
		found = true
		p, err = read(scan, tx.Now())
		return err
	})
	if err == nil && !found {
		err = noPair("pair.Get", name)
	}
	return p, err
}

// List returns all pairs by name: there are at most 256.
func List(ctx context.Context, tx *db.Tx) (list []Pair, err error) {
	err = tx.Rows(ctx, `SELECT `+columns+` FROM peers ORDER BY name LIMIT $1`, []any{maxPairs}, func(scan func(...any) error) error {
		p, err := read(scan, tx.Now())
		list = append(list, p)
		return err
	})
	return list, err
}

// ticket is what a token holds.
type ticket struct {
	Manager     string    `json:"manager"`
	Fingerprint string    `json:"fingerprint"`
	Secret      string    `json:"secret"`
	Site        site.Name `json:"site"`
}

const tokenPrefix = "hfp1."

func (t ticket) String() string {
	b, _ := json.Marshal(t) // of texts alone
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func parseTicket(s string) (t ticket, err error) {
	bad := errs.New("pair.Accept", errs.Invalid, "token", "it is no pairing token").WithRemedy("copy the whole token, from hfp1. on")
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok || len(text) > maxToken {
		return t, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || json.Unmarshal(b, &t) != nil || !validAddress(t.Manager) || control.Words(t.Fingerprint) == "" || t.Secret == "" || !t.Site.Valid() {
		return ticket{}, bad
	}
	return t, nil
}

func validAddress(a string) bool {
	return strings.HasPrefix(a, "https://") && len(a) > len("https://") && len(a) <= site.MaxURL && !strings.ContainsAny(a, " @?#\\\r\n\t")
}

// insert makes a pair's row if there is none.
func insert(ctx context.Context, tx *db.Tx, name site.Name) error {
	const op = "pair.insert"
	if !name.Valid() {
		return errs.New(op, errs.Invalid, "pair "+db.Text(string(name), site.MaxName), "not a name").WithRemedy("use a-z, 0-9, '-', '.' and '_'")
	}
	var n int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM peers WHERE name <> $1`, []any{name}, &n); err != nil {
		return err
	}
	if n >= maxPairs {
		return errs.New(op, errs.Full, "pair "+string(name), fmt.Sprintf("there are %d pairs", n)).WithRemedy("remove those that are over")
	}
	_, err := tx.Exec(ctx, `INSERT INTO peers (name, peer_site, address, trust, authority, fingerprint, presented, presented_at, presented_by, created_at, changed_at, out_at, out_ok_at, out_error, out_remedy, in_at, skew, release)
		VALUES ($1, '', '', '', '', '', '', 0, '', $2, $2, 0, 0, '', '', 0, 0, '') ON CONFLICT DO NOTHING`, name, tx.Now())
	return err
}

// Invite makes a token by which another site's manager pairs with ours, or pairs
// again. manager is where that one reaches ours. Kinds: Invalid, Full.
func Invite(ctx context.Context, tx *db.Tx, k *pki.PKI, name site.Name, manager string, good time.Duration, by string) (string, error) {
	const op = "pair.Invite"
	if good == 0 {
		good = InviteFor
	}
	switch {
	case good < time.Minute || good > MostInvite:
		return "", errs.New(op, errs.Invalid, "pair "+string(name), "a token is good for a minute to seven days").WithRemedy("choose a time in between")
	case !validAddress(manager):
		return "", errs.New(op, errs.Invalid, "pair "+string(name), "the manager's address is none").WithRemedy("write it as https://msa-a:8443")
	}
	if err := insert(ctx, tx, name); err != nil {
		return "", err
	}
	if err := auth.Forget(ctx, tx, auth.ForPair, string(name)); err != nil {
		return "", err
	}
	secret, err := auth.Mint(ctx, tx, auth.ForPair, string(name), "", by, good)
	return ticket{manager, k.Fingerprint(), secret, site.Name(k.Site())}.String(), err
}

// Presentation is what a manager sends to pair with another one.
type Presentation struct {
	Secret    string    `json:"secret"`
	Site      site.Name `json:"site"`
	Address   string    `json:"address,omitempty"` // where it is called back; empty: nowhere
	Authority string    `json:"authority"`         // PEM
}

// Presented is the answer.
type Presented struct {
	Site      site.Name `json:"site"`
	Authority string    `json:"authority"` // PEM
}

// Present enters that another manager has come with a token's secret. Nothing is
// trusted by it. Kinds: Denied (the secret), Invalid (what it presents), Conflict (it
// is us, or another pair's).
func Present(ctx context.Context, tx *db.Tx, k *pki.PKI, in Presentation, remote string) (Presented, error) {
	const op = "pair.Present"
	s, err := auth.Spend(ctx, tx, auth.ForPair, in.Secret)
	if err != nil {
		return Presented{}, err
	}
	object := "pair " + s.Subject
	root, err := parseRoot(in.Authority)
	if err != nil {
		return Presented{}, errs.E(op, errs.Invalid, object, err)
	}
	if !in.Site.Valid() || in.Address != "" && !validAddress(in.Address) {
		return Presented{}, errs.New(op, errs.Invalid, object, "it says no site, or no address where it is called").WithRemedy("use a manager of this release")
	}
	if err := notUs(ctx, tx, op, k, site.Name(s.Subject), in.Site, root); err != nil {
		return Presented{}, err
	}
	text, err := json.Marshal(presented{in.Site, in.Address, control.EncodePEM(root.Raw)})
	if err != nil {
		return Presented{}, errs.E(op, errs.Internal, object, err)
	}
	n, err := tx.Exec(ctx, `UPDATE peers SET presented = $2, presented_at = $3, presented_by = $4, changed_at = $3, trust = CASE WHEN trust = $5 THEN trust ELSE $6 END WHERE name = $1`,
		s.Subject, string(text), tx.Now(), db.Text(remote, 128), site.Trusted, site.Presented)
	if err == nil && n == 0 {
		err = errs.New(op, errs.Denied, object, "the pair was removed meanwhile").WithRemedy("have another token made")
	}
	return Presented{site.Name(k.Site()), control.EncodePEM(k.Root().Raw)}, err
}

// notUs refuses our own site as a peer, and one site in two pairs.
func notUs(ctx context.Context, tx *db.Tx, op string, k *pki.PKI, name, peer site.Name, root *x509.Certificate) error {
	if root.Equal(k.Root()) || peer == site.Name(k.Site()) {
		return errs.New(op, errs.Conflict, "pair "+string(name), "a site is not paired with itself").WithRemedy("use the token at the other site's manager; sites have different names")
	}
	all, err := List(ctx, tx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Name != name && p.Trust == site.Trusted && (p.PeerSite == peer || p.Fingerprint == control.Fingerprint(root)) {
			return errs.New(op, errs.Conflict, "pair "+string(name), fmt.Sprintf("site %s is paired already, as %s", p.PeerSite, p.Name)).
				WithRemedy("pair again under that name, or remove it first")
		}
	}
	return nil
}

// Confirm trusts what a pair has presented, if it is the fingerprint that a person has
// compared with what the other site's manager shows. Kinds: NotFound, Conflict
// (nothing, or something else, is presented).
func Confirm(ctx context.Context, tx *db.Tx, k *pki.PKI, name site.Name, fingerprint string) (Pair, error) {
	const op = "pair.Confirm"
	p, found, err := take(ctx, tx, name)
	switch {
	case err != nil:
		return Pair{}, err
	case !found:
		return Pair{}, noPair(op, name)
	case p.Presented == "":
		return Pair{}, errs.New(op, errs.Conflict, "pair "+string(name), "nothing waits to be confirmed").WithRemedy("have the other site's admin use a token of this pair")
	case p.Presented != fingerprint:
		return Pair{}, errs.New(op, errs.Conflict, "pair "+string(name), "the fingerprint is not the one that was presented").
			WithRemedy("if it is the other manager's, somebody else has used the token: make a new one")
	}
	root, err := parseRoot(p.presented.Authority)
	if err != nil {
		return Pair{}, err
	}
	if err := notUs(ctx, tx, op, k, name, p.presented.Site, root); err != nil {
		return Pair{}, err
	}
	if err := trust(ctx, tx, name, p.presented.Site, p.presented.Address, root); err != nil {
		return Pair{}, err
	}
	return Get(ctx, tx, name)
}

func trust(ctx context.Context, tx *db.Tx, name, peer site.Name, address string, root *x509.Certificate) error {
	_, err := tx.Exec(ctx, `UPDATE peers SET peer_site = $2, address = $3, authority = $4, fingerprint = $5, trust = $6, presented = '', presented_at = 0, presented_by = '',
		changed_at = $7, out_at = 0, out_ok_at = 0, out_error = '', out_remedy = '', in_at = 0, skew = 0 WHERE name = $1`,
		name, peer, address, control.EncodePEM(root.Raw), control.Fingerprint(root), site.Trusted, tx.Now())
	return err
}

// Accepted is a site whose token was used, and who is to be trusted for it.
type Accepted struct {
	k       *pki.PKI
	name    site.Name
	site    site.Name
	address string
	root    *x509.Certificate
}

// Accept uses another site's token: our manager presents itself there. What comes of it
// is trusted with Trust. address is where that one calls ours back; "": nowhere. It
// makes a call, and is not for a transaction. Kinds: Invalid and Denied (the token),
// Unavailable.
func Accept(ctx context.Context, k *pki.PKI, name site.Name, token, address string) (*Accepted, error) {
	const op = "pair.Accept"
	t, err := parseTicket(token)
	if err != nil {
		return nil, err
	}
	if !name.Valid() || address != "" && !validAddress(address) {
		return nil, errs.New(op, errs.Invalid, "pair "+db.Text(string(name), site.MaxName), "the name, or our own address, is none").WithRemedy("write the address as https://msa-b:8443")
	}
	cfg, err := k.Client(t.Fingerprint)
	if err != nil {
		return nil, err
	}
	c := call.New(t.Manager, cfg)
	defer c.Close()
	var r Presented
	if err := c.Post(ctx, PresentPath, Presentation{t.Secret, site.Name(k.Site()), address, control.EncodePEM(k.Root().Raw)}, &r); err != nil {
		return nil, err
	}
	root, err := parseRoot(r.Authority)
	if err != nil {
		return nil, errs.E(op, errs.Denied, "pair "+string(name), err)
	}
	if control.Fingerprint(root) != t.Fingerprint || r.Site != t.Site {
		return nil, errs.New(op, errs.Denied, "pair "+string(name), "the other manager is not the one that made the token").WithRemedy("have another token made")
	}
	return &Accepted{k, name, t.Site, t.Manager, root}, nil
}

// Trust enters that the site is trusted, which the token's fingerprint has proved.
// Kinds: Conflict (another pair's site, or our own), Full.
func (a *Accepted) Trust(ctx context.Context, tx *db.Tx) (Pair, error) {
	if err := insert(ctx, tx, a.name); err != nil {
		return Pair{}, err
	}
	if err := notUs(ctx, tx, "pair.Accept", a.k, a.name, a.site, a.root); err != nil {
		return Pair{}, err
	}
	if err := trust(ctx, tx, a.name, a.site, a.address, a.root); err != nil {
		return Pair{}, err
	}
	return Get(ctx, tx, a.name)
}

// Remove un-pairs: the other manager is nobody from the next request on, and its token
// no good. Tell it with Monitor.Leave before, if it is there. Kind NotFound.
func Remove(ctx context.Context, tx *db.Tx, name site.Name) error {
	n, err := tx.Exec(ctx, `DELETE FROM peers WHERE name = $1`, name)
	if err == nil && n == 0 {
		err = noPair("pair.Remove", name)
	}
	if err != nil {
		return err
	}
	return auth.Forget(ctx, tx, auth.ForPair, string(name))
}

// Holder is auth.CertificateFunc for paired managers: a chain of a trusted pair's
// authority, for the manager of that pair's site and nothing else. Kinds: NotFound
// (of no pair's authority), Denied.
func Holder(d *db.DB) auth.CertificateFunc {
	return func(ctx context.Context, chain []*x509.Certificate) (*auth.Principal, error) {
		const op = "pair.Holder"
		if len(chain) == 0 {
			return nil, errs.New(op, errs.NotFound, "certificate", "there is none")
		}
		var pairs []Pair
		err := d.View(ctx, func(tx *db.Tx) (err error) { pairs, err = List(ctx, tx); return err })
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			if p.root == nil || p.Trust != site.Trusted || control.CheckIssuer(chain[0], p.root) != nil {
				continue
			}
			name, err := control.CheckChain(chain[0], p.root, x509.ExtKeyUsageClientAuth, control.RoleManager)
			if err != nil {
				return nil, err
			}
			if name != string(p.PeerSite) {
				return nil, errs.New(op, errs.Denied, "pair "+string(p.Name), fmt.Sprintf("its authority speaks for site %s, not for %s", p.PeerSite, db.Text(name, site.MaxName))).WithRemedy("pair the sites again")
			}
			return auth.OfPeer(string(p.Name)), nil
		}
		return nil, errs.New(op, errs.NotFound, "certificate", "it is of no pair's authority")
	}
}

// Guard is for catalog.Catalog: what a configured pair says of trust is what people
// agreed on here, by Confirm, and not what somebody writes. A file that was exported may
// be applied again. Kind Denied.
func Guard(ctx context.Context, tx *db.Tx, old, now site.Object) error {
	p, ok := now.(*site.SitePair)
	if !ok || p == nil || p.Trust == site.Proposed && p.Fingerprint == "" {
		return nil
	}
	if was, ok := old.(*site.SitePair); ok && was != nil && was.Trust == p.Trust && was.Fingerprint == p.Fingerprint && was.Peer == p.Peer {
		return nil
	}
	all, err := List(ctx, tx)
	if err != nil {
		return err
	}
	for i := range all {
		if x := &all[i]; x.PeerSite == p.Peer && x.Trust == p.Trust && x.Fingerprint == p.Fingerprint {
			return nil
		}
	}
	return errs.New("pair.Guard", errs.Denied, site.Label(p), "whom this site trusts is not written, but agreed on").
		WithRemedy("leave trust and fingerprint out, and pair the sites: holdfast pair invite")
}
