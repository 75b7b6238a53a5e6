package api

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
)

// Fingerprint asks a manager for the fingerprint of its authority. Nothing proves
// that the manager is who it says: a person compares the fingerprint with what the
// manager printed when it started. Kinds: Invalid (the address), Unavailable,
// Denied (what answers is no manager).
func Fingerprint(ctx context.Context, address string) (string, error) {
	const op = "api.Fingerprint"
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", errs.New(op, errs.Invalid, "the manager's address", "it is not https://HOST:PORT").WithRemedy("write it as https://msa-a:8443")
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// What the other side shows is looked at by a person.
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return "", errs.E(op, errs.Unavailable, u.Host, err).WithRemedy("see whether the manager runs and is reached at this address")
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	for i, c := range chain {
		if fp := control.Fingerprint(c); i > 0 {
			if _, err := control.CheckPinned(chain, fp, control.RoleManager); err == nil {
				return fp, nil
			}
		}
	}
	return "", errs.New(op, errs.Denied, u.Host, "what answers is no manager of Holdfast").WithRemedy("see whether the address is right")
}

// Words are a fingerprint as words that can be read aloud.
func Words(fingerprint string) string { return control.Words(fingerprint) }
