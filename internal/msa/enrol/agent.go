package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/call"
	"holdfast/internal/msa/site"
)

// The paths of the manager's API that boxes call.
const (
	JoinPath  = "/api/v1/enrolments/join"
	BeatPath  = "/api/v1/enrolments/beat"
	RenewPath = "/api/v1/enrolments/renew"
)

// home is what a box remembers of its manager, in the directory of its certificate.
type home struct {
	Version     int       `json:"version"`
	Manager     string    `json:"manager"`
	Fingerprint string    `json:"fingerprint"`
	Name        site.Name `json:"name"`
	Role        site.Role `json:"role"`
}

const (
	homeFile = "manager.json"
	maxHome  = 16 << 10
)

// Join enrols this box with a token and makes dir the certificate directory of its
// "tls" setting. id is a host component's, else "". Durable on return. Kinds: Invalid
// and Denied (the token; a manager that is not the one that made it), Unavailable.
func Join(ctx context.Context, token, dir, id, release string) (site.Name, error) {
	const op = "enrol.Join"
	t, err := parseTicket(token)
	if err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", errs.E(op, errs.Internal, dir, err)
	}
	csr, err := request(key)
	if err != nil {
		return "", err
	}
	c := call.New(t.Manager, control.Pinned(t.Fingerprint, control.RoleManager, nil))
	defer c.Close()
	var r Reply
	if err := c.Post(ctx, JoinPath, Request{Secret: t.Secret, CSR: csr, BoxID: id, Release: release}, &r); err != nil {
		return "", err
	}
	cert, root, err := r.check(t.Fingerprint, t.Name, key)
	if err != nil {
		return "", err
	}
	if err := control.WriteCredentials(dir, root.Raw, cert.Raw, key); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(home{1, t.Manager, t.Fingerprint, t.Name, t.Role}, "", "  ")
	if err != nil {
		return "", errs.E(op, errs.Internal, dir, err)
	}
	return t.Name, durable.WriteFile(durable.OS{}, filepath.Join(dir, homeFile), append(b, '\n'))
}

// request makes a certificate request for a key; what it says besides is not read.
func request(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", errs.E("enrol.request", errs.Internal, "certificate request", err)
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

// check refuses a certificate that is not what was asked for: of the authority with
// the fingerprint, for this key and name.
func (r *Reply) check(fingerprint string, name site.Name, key *ecdsa.PrivateKey) (cert, root *x509.Certificate, err error) {
	const op = "enrol.check"
	bad := func(err error) (*x509.Certificate, *x509.Certificate, error) {
		return nil, nil, errs.E(op, errs.Denied, "the manager's answer", err).WithRemedy("what answered may not be the manager: compare its fingerprint")
	}
	rootDER, err := control.DecodePEM(r.Authority)
	if err != nil {
		return bad(err)
	}
	certDER, err := control.DecodePEM(r.Certificate)
	if err != nil {
		return bad(err)
	}
	if root, err = control.ParseRoot(rootDER); err != nil {
		return bad(err)
	}
	if cert, err = x509.ParseCertificate(certDER); err != nil {
		return bad(err)
	}
	got, err := control.CheckChain(cert, root, x509.ExtKeyUsageClientAuth, control.RoleBox)
	if err != nil {
		return bad(err)
	}
	if control.Fingerprint(root) != fingerprint || !key.PublicKey.Equal(cert.PublicKey) || got != string(name) {
		return bad(errs.New(op, errs.Denied, string(name), "the certificate is of another authority, key or name"))
	}
	return cert, root, nil
}

// Agent tells a box's manager that the box lives, and renews its certificate.
type Agent struct {
	// Dir is what Join made.
	Dir     string
	Release string
	// Figures gives the box's capacity with each beat; nil: none.
	Figures func() map[string]int64
	// Told is called with each answer of the manager; nil: nobody is told.
	Told   func(Answer)
	Logger *slog.Logger // nil: none

	every time.Duration // of tests
}

// Run beats until ctx ends, and returns nil then. What the manager does not answer is
// logged once and tried again: a box works without its manager. Kinds: NotFound,
// Corrupt (Dir).
func (a *Agent) Run(ctx context.Context) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	if a.Logger == nil {
		a.Logger = slog.New(slog.DiscardHandler)
	}
	if a.every == 0 {
		a.every = BeatEvery
	}
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	failing := errs.Kind(255)
	for {
		err := a.beat(ctx, h)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && failing != 255:
			a.Logger.Info("the manager answers again", "manager", h.Manager)
			failing = 255
		case err != nil && errs.KindOf(err) != failing:
			a.Logger.Warn("the manager does not take this box's beat", "manager", h.Manager, "err", err, "remedy", errs.RemedyOf(err))
			failing = errs.KindOf(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *Agent) home() (h home, err error) {
	const op = "enrol.Agent"
	path := filepath.Join(a.Dir, homeFile)
	b, err := durable.ReadFile(durable.OS{}, path, maxHome)
	if err != nil {
		return h, errs.E(op, errs.Internal, path, err).WithRemedy("enrol the box")
	}
	if err := json.Unmarshal(b, &h); err != nil || h.Version != 1 || h.Manager == "" || h.Fingerprint == "" || !h.Name.Valid() {
		return h, errs.New(op, errs.Corrupt, path, "it does not say who the manager is").WithRemedy("enrol the box again")
	}
	return h, nil
}

// beat tells the manager once, and renews the certificate if it is told to.
func (a *Agent) beat(ctx context.Context, h home) error {
	creds, err := control.LoadCredentials(a.Dir)
	if err != nil {
		return err
	}
	c := call.New(h.Manager, control.Pinned(h.Fingerprint, control.RoleManager, creds.Certificate()))
	defer c.Close()
	b := Beat{At: time.Now().UnixMilli(), Release: a.Release}
	if a.Figures != nil {
		b.Capacity = a.Figures()
	}
	var answer Answer
	if err := c.Post(ctx, BeatPath, b, &answer); err != nil {
		return err
	}
	if a.Told != nil {
		a.Told(answer)
	}
	if !answer.Renew {
		return nil
	}
	key, err := control.LoadKey(a.Dir)
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	var r Reply
	if err := c.Post(ctx, RenewPath, Renewal{CSR: csr}, &r); err != nil {
		return err
	}
	cert, _, err := r.check(h.Fingerprint, h.Name, key)
	if err != nil {
		return err
	}
	return control.WriteCertificate(a.Dir, cert)
}

// Renewal is what a box sends to RenewPath.
type Renewal struct {
	CSR string `json:"csr"` // as Request.CSR
}
