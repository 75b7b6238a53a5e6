package enrol

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/site"
)

// Bounds.
const (
	maxAddresses = 16
	maxRequest   = 8 << 10 // bytes of a certificate request
	maxToken     = 4 << 10 // bytes of a token
	maxRelease   = 100     // bytes
	maxFigures   = 32      // of a capacity
	maxFigure    = 64      // bytes of a figure's name
	page         = 2000

	// InviteFor is how long a token is good unless it is said.
	InviteFor = time.Hour
	// MostInvite is the longest.
	MostInvite = 7 * 24 * time.Hour
	// BeatEvery is how often a box tells that it lives.
	BeatEvery = 10 * time.Second
	// SilentAfter is when a box that says nothing is called silent.
	SilentAfter = 3 * BeatEvery
	// MostSkew is the difference of clocks from which it is told.
	MostSkew = 2 * time.Second
)

// State is how the manager stands to a box. Names are stable.
type State string

// The states.
const (
	Invited  State = "invited"  // a token was made, nobody has used it yet
	Enrolled State = "enrolled" // it has a certificate
	Revoked  State = "revoked"  // it has one that does not count
)

// Health is what is seen of a box. Names are stable.
type Health string

// The healths.
const (
	Unseen Health = "unseen" // never
	Alive  Health = "alive"
	Skewed Health = "skewed" // alive, and its clock is off
	Silent Health = "silent"
)

// Box is an appliance as the manager knows it.
type Box struct {
	Name      site.Name `json:"name"`
	Role      site.Role `json:"role"`
	BoxID     string    `json:"box_id,omitempty"` // a host component's id; else empty
	State     State     `json:"state"`
	Health    Health    `json:"health"`
	Addresses []string  `json:"addresses,omitempty"`
	Domains   []string  `json:"domains,omitempty"` // ids of those it serves
	// Generation rises when another box takes the name over.
	Generation int64            `json:"generation"`
	CertUntil  int64            `json:"cert_until,omitempty"` // UTC milliseconds, as the others
	EnrolledAt int64            `json:"enrolled_at,omitempty"`
	SeenAt     int64            `json:"seen_at,omitempty"`
	Remote     string           `json:"remote,omitempty"` // address it was last seen from
	Release    string           `json:"release,omitempty"`
	SkewMS     int64            `json:"skew_ms"` // its clock less the database's, with the way of the message in it
	Capacity   map[string]int64 `json:"capacity,omitempty"`

	cert, before string
}

const columns = `name, role, box, state, generation, addresses, domains, cert, cert_until, cert_before, enrolled_at, seen_at, remote, release, skew, capacity`

func read(scan func(...any) error, now int64) (b Box, err error) {
	var addresses, domains, capacity string
	if err := scan(&b.Name, &b.Role, &b.BoxID, &b.State, &b.Generation, &addresses, &domains, &b.cert, &b.CertUntil, &b.before,
		&b.EnrolledAt, &b.SeenAt, &b.Remote, &b.Release, &b.SkewMS, &capacity); err != nil {
		return b, err
	}
	for text, v := range map[string]any{addresses: &b.Addresses, domains: &b.Domains, capacity: &b.Capacity} {
		if text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(text), v); err != nil {
			return b, errs.E("enrol.read", errs.Corrupt, "appliance "+string(b.Name), err)
		}
	}
	if b.Role != site.IOFilter {
		b.BoxID = "" // the row has the name there, to be unique
	}
	b.Health = health(&b, now)
	return b, nil
}

func health(b *Box, now int64) Health {
	switch skew := time.Duration(b.SkewMS) * time.Millisecond; {
	case b.SeenAt == 0:
		return Unseen
	case now-b.SeenAt > SilentAfter.Milliseconds():
		return Silent
	case skew > MostSkew || skew < -MostSkew:
		return Skewed
	}
	return Alive
}

// take returns a box's row and has it until the transaction ends.
func take(ctx context.Context, tx *db.Tx, op string, name site.Name) (b Box, found bool, err error) {
	err = tx.Rows(ctx, `UPDATE enrolments SET name = name WHERE name = $1 RETURNING `+columns, []any{name}, func(scan func(...any) error) error {
		found = true
		var err error
		b, err = read(scan, tx.Now())
		return err
	})
	return b, found, err
}

// Get returns a box. Kind NotFound.
func Get(ctx context.Context, tx *db.Tx, name site.Name) (b Box, err error) {
	found := false
	err = tx.Rows(ctx, `SELECT `+columns+` FROM enrolments WHERE name = $1`, []any{name}, func(scan func(...any) error) (err error) {
		found = true
		b, err = read(scan, tx.Now())
		return err
	})
	if err == nil && !found {
		err = noBox("enrol.Get", name)
	}
	return b, err
}

// List returns boxes by name, those after a name, at most a page.
func List(ctx context.Context, tx *db.Tx, after site.Name, limit int) (list []Box, err error) {
	err = tx.Rows(ctx, `SELECT `+columns+` FROM enrolments WHERE name > $1 ORDER BY name LIMIT $2`, []any{after, min(max(limit, 1), page)}, func(scan func(...any) error) error {
		b, err := read(scan, tx.Now())
		list = append(list, b)
		return err
	})
	return list, err
}

func noBox(op string, name site.Name) error {
	return errs.New(op, errs.NotFound, "appliance "+db.Text(string(name), site.MaxName), "no such box has been invited").WithRemedy("invite it first")
}

// Invitation is what a box is invited as.
type Invitation struct {
	Name site.Name `json:"name"` // of the appliance
	Role site.Role `json:"role"`
	// Addresses are the host names and addresses others dial it by, for its
	// certificate; empty: the one it comes from.
	Addresses []string `json:"addresses,omitempty"`
	// Manager is where the box reaches the manager: https://msa-a:8443.
	Manager string        `json:"manager"`
	Good    time.Duration `json:"-"` // 0: InviteFor
	// Replace says that a box that has the name is to be replaced: it is out when the
	// new one joins.
	Replace bool `json:"replace,omitempty"`
}

// ticket is what a token holds.
type ticket struct {
	Manager     string    `json:"manager"`
	Fingerprint string    `json:"fingerprint"`
	Secret      string    `json:"secret"`
	Name        site.Name `json:"name"`
	Role        site.Role `json:"role"`
}

const tokenPrefix = "hfe1."

func (t ticket) String() string {
	b, _ := json.Marshal(t) // of texts alone
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func parseTicket(s string) (t ticket, err error) {
	bad := errs.New("enrol.Join", errs.Invalid, "token", "it is no enrolment token").WithRemedy("copy the whole token, from hfe1. on")
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok || len(text) > maxToken {
		return t, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || json.Unmarshal(b, &t) != nil || t.Manager == "" || t.Fingerprint == "" || t.Secret == "" || !t.Name.Valid() {
		return ticket{}, bad
	}
	return t, nil
}

// Invite makes a token by which one box enrols. Kinds: Invalid, Exists (a box has the
// name, and Replace is not said), Full.
func Invite(ctx context.Context, tx *db.Tx, p *pki.PKI, inv Invitation, by string) (token string, err error) {
	const op = "enrol.Invite"
	if inv.Good == 0 {
		inv.Good = InviteFor
	}
	object := "appliance " + db.Text(string(inv.Name), site.MaxName)
	switch {
	case !inv.Name.Valid():
		return "", errs.New(op, errs.Invalid, object, "not a name").WithRemedy("use a-z, 0-9, '-', '.' and '_'")
	case inv.Role != site.DRVA && inv.Role != site.IOFilter && inv.Role != site.RocVA:
		return "", errs.New(op, errs.Invalid, object, "there is no such role").WithRemedy("use drva, iofilter or rocva")
	case inv.Good < time.Minute || inv.Good > MostInvite:
		return "", errs.New(op, errs.Invalid, object, "a token is good for a minute to seven days").WithRemedy("choose a time in between")
	case len(inv.Addresses) > maxAddresses || slices.ContainsFunc(inv.Addresses, func(a string) bool { return !pki.ValidHost(a) }):
		return "", errs.New(op, errs.Invalid, object, fmt.Sprintf("at most %d host names and addresses can be given", maxAddresses)).WithRemedy("write them as drva-1.example.com or 192.0.2.7")
	case !strings.HasPrefix(inv.Manager, "https://") || len(inv.Manager) > site.MaxURL:
		return "", errs.New(op, errs.Invalid, object, "the manager's address is none").WithRemedy("write it as https://msa-a:8443")
	}
	b, found, err := take(ctx, tx, op, inv.Name)
	if err != nil {
		return "", err
	}
	if found && b.State == Enrolled && !inv.Replace {
		return "", errs.New(op, errs.Exists, object, "a box is enrolled under this name").
			WithRemedy("say that it is to be replaced, or choose another name")
	}
	if !found {
		// The box column is unique by role: the name stands in until the id is known.
		if _, err := tx.Exec(ctx, `INSERT INTO enrolments (name, role, box, state, generation, addresses, domains, cert, cert_until, cert_before, enrolled_at, changed_at, seen_at, remote, release, skew, capacity)
			VALUES ($1, $2, $3, $4, 0, '', '', '', 0, '', 0, $5, 0, '', '', 0, '')`, inv.Name, inv.Role, "/"+inv.Name, Invited, tx.Now()); err != nil {
			return "", err
		}
	}
	content, err := json.Marshal(inv)
	if err != nil {
		return "", errs.E(op, errs.Internal, object, err)
	}
	// One token of a box at a time: the newest.
	if err := auth.Forget(ctx, tx, auth.ForBox, string(inv.Name)); err != nil {
		return "", err
	}
	secret, err := auth.Mint(ctx, tx, auth.ForBox, string(inv.Name), string(content), by, inv.Good)
	return ticket{inv.Manager, p.Fingerprint(), secret, inv.Name, inv.Role}.String(), err
}

// Request is what a box sends to join.
type Request struct {
	Secret string `json:"secret"`
	// CSR is a certificate request, base64 of DER. Only its public key counts.
	CSR string `json:"csr"`
	// BoxID is a host component's id; others send none.
	BoxID   string `json:"box_id,omitempty"`
	Release string `json:"release,omitempty"`
}

// Reply is what it gets.
type Reply struct {
	Name        site.Name `json:"name"`
	Role        site.Role `json:"role"`
	Certificate string    `json:"certificate"` // PEM
	Authority   string    `json:"authority"`   // PEM
}

// parseCSR returns the public key of a certificate request whose sender has the
// private one.
func parseCSR(text string) (crypto.PublicKey, error) {
	const op = "enrol.parseCSR"
	bad := func(why string) (crypto.PublicKey, error) {
		return nil, errs.New(op, errs.Invalid, "certificate request", why).WithRemedy("send a PKCS #10 request, base64 of DER")
	}
	if len(text) > maxRequest {
		return bad("it is too long")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return bad("it is not base64")
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return bad("it is not readable")
	}
	if err := r.CheckSignature(); err != nil {
		return bad("it is not signed with its own key")
	}
	return r.PublicKey, nil
}

func digestOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Accept enrols the box that has a token's secret. What it does it does with the
// transaction: a secret is spent when a certificate was signed for it. Kinds: Denied
// (the secret), Invalid, Exists (another box has this id).
func Accept(ctx context.Context, tx *db.Tx, p *pki.PKI, r Request, remote string) (Reply, error) {
	const op = "enrol.Accept"
	pub, err := parseCSR(r.CSR)
	if err != nil {
		return Reply{}, err
	}
	s, err := auth.Spend(ctx, tx, auth.ForBox, r.Secret)
	if err != nil {
		return Reply{}, err
	}
	var inv Invitation
	if err := json.Unmarshal([]byte(s.Content), &inv); err != nil {
		return Reply{}, errs.E(op, errs.Corrupt, s.Subject, err)
	}
	b, found, err := take(ctx, tx, op, inv.Name)
	if err != nil {
		return Reply{}, err
	}
	if !found {
		return Reply{}, errs.New(op, errs.Denied, s.Subject, "the box was removed meanwhile").WithRemedy("invite it again")
	}
	column := "/" + string(inv.Name)
	if inv.Role == site.IOFilter {
		id, err := dr.ParseUUID(r.BoxID)
		if err != nil || id.IsZero() {
			return Reply{}, errs.New(op, errs.Invalid, s.Subject, "a host component tells its id").WithRemedy("use a host component of this release")
		}
		column = id.String()
	}
	addresses := inv.Addresses
	if host := pki.HostOf(remote); len(addresses) == 0 && pki.ValidHost(host) {
		addresses = []string{host}
	}
	if b.Generation > 0 && b.Role != inv.Role {
		b.Domains = nil // what was assigned was assigned to something else
	}
	b.Role, b.BoxID, b.Addresses = inv.Role, r.BoxID, addresses
	der, err := sign(p, &b, pub)
	if err != nil {
		return Reply{}, err
	}
	texts, err := jsonTexts(addresses, b.Domains)
	if err != nil {
		return Reply{}, err
	}
	_, err = tx.Exec(ctx, `UPDATE enrolments SET role = $2, box = $3, state = $4, generation = generation + 1, addresses = $5, domains = $6, cert = $7, cert_until = $8,
		cert_before = '', enrolled_at = $9, changed_at = $9, seen_at = 0, remote = $10, release = $11, skew = 0, capacity = '' WHERE name = $1`,
		inv.Name, inv.Role, column, Enrolled, texts[0], texts[1], digestOf(der), der.NotAfter.UnixMilli(), tx.Now(), db.Text(remote, 128), db.Text(r.Release, maxRelease))
	if errs.Is(err, errs.Exists) {
		return Reply{}, errs.New(op, errs.Exists, "host "+r.BoxID, "another appliance has this id").
			WithRemedy("a host component that was copied has its original's id: give it one of its own; or remove the appliance that had it")
	}
	return Reply{inv.Name, inv.Role, control.EncodePEM(der.Raw), control.EncodePEM(p.Root().Raw)}, err
}

func jsonTexts(lists ...[]string) (texts []string, err error) {
	for _, l := range lists {
		b, err := json.Marshal(l)
		if err != nil {
			return nil, errs.E("enrol", errs.Internal, "list", err)
		}
		texts = append(texts, string(b))
	}
	return texts, nil
}

// sign makes the certificate of a box as the manager knows it. What it is on the data
// path comes first, because that is what a link takes it for.
func sign(p *pki.PKI, b *Box, pub crypto.PublicKey) (*x509.Certificate, error) {
	var names []control.Box
	switch b.Role {
	case site.IOFilter:
		names = append(names, control.Box{Role: control.RoleHost, Name: b.BoxID})
	case site.DRVA:
		for _, d := range b.Domains {
			names = append(names, control.Box{Role: control.RoleDRVA, Name: d})
		}
	case site.RocVA:
		names = append(names, control.Box{Role: control.RoleRocVA, Name: string(b.Name)})
	}
	names = append(names, control.Box{Role: control.RoleBox, Name: string(b.Name)})
	der, err := p.Issue(pub, names, b.Addresses)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E("enrol.sign", errs.Internal, string(b.Name), err)
	}
	return cert, nil
}

// Renew signs a new certificate for a box that has proved its old one: with the
// domains it has now. Kinds: NotFound, Denied (revoked), Invalid.
func Renew(ctx context.Context, tx *db.Tx, p *pki.PKI, name site.Name, used, csr string) (Reply, error) {
	const op = "enrol.Renew"
	pub, err := parseCSR(csr)
	if err != nil {
		return Reply{}, err
	}
	b, found, err := take(ctx, tx, op, name)
	if err != nil {
		return Reply{}, err
	}
	if err := b.counts(op, found, name, used); err != nil {
		return Reply{}, err
	}
	cert, err := sign(p, &b, pub)
	if err != nil {
		return Reply{}, err
	}
	_, err = tx.Exec(ctx, `UPDATE enrolments SET cert_before = $2, cert = $3, cert_until = $4, changed_at = $5 WHERE name = $1`,
		name, used, digestOf(cert), cert.NotAfter.UnixMilli(), tx.Now())
	return Reply{b.Name, b.Role, control.EncodePEM(cert.Raw), control.EncodePEM(p.Root().Raw)}, err
}

// counts refuses a box whose certificate does not count any more.
func (b *Box) counts(op string, found bool, name site.Name, used string) error {
	if !found || b.State != Enrolled || used == "" || used != b.cert && used != b.before {
		return errs.New(op, errs.Denied, "appliance "+db.Text(string(name), site.MaxName), "its certificate does not count any more").
			WithRemedy("invite the box again, and have it join")
	}
	return nil
}

// Holder is auth.Certificates for boxes: a chain of this site's authority, for a box
// whose certificate counts. Kinds: NotFound (no certificate of a box of this site: it
// may be somebody else's), Denied.
func Holder(d *db.DB, p *pki.PKI) auth.CertificateFunc {
	return func(ctx context.Context, chain []*x509.Certificate) (*auth.Principal, error) {
		const op = "enrol.Holder"
		if len(chain) == 0 || control.CheckIssuer(chain[0], p.Root()) != nil {
			return nil, errs.New(op, errs.NotFound, "certificate", "it is not of this site's authority")
		}
		name, err := control.CheckChain(chain[0], p.Root(), x509.ExtKeyUsageClientAuth, control.RoleBox)
		if err != nil {
			return nil, err
		}
		used := digestOf(chain[0])
		return auth.OfBox(name, used), d.View(ctx, func(tx *db.Tx) error {
			b, err := Get(ctx, tx, site.Name(name))
			if err != nil && !errs.Is(err, errs.NotFound) {
				return err
			}
			return b.counts(op, err == nil, site.Name(name), used)
		})
	}
}
