package control

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/errs"
)

// Fingerprint is how people compare certificates: the SHA-256 of the DER form, 64
// hexadecimal digits. That of a site is its authority's, which outlives the
// certificates it signs.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Words renders a fingerprint to be read out: its first 128 bits as eight words of
// consonants and vowels in turn (proquints), 16 bits each. Finding another
// certificate with the same words takes 2^128 tries. "" for what is no fingerprint.
func Words(fingerprint string) string {
	const consonants, vowels = "bdfghjklmnprstvz", "aiou"
	b, err := hex.DecodeString(fingerprint)
	if err != nil || len(b) != sha256.Size {
		return ""
	}
	var words []string
	for i := 0; i < 16; i += 2 {
		n := int(b[i])<<8 | int(b[i+1])
		words = append(words, string([]byte{consonants[n>>12], vowels[n>>10&3], consonants[n>>6&15], vowels[n>>4&3], consonants[n&15]}))
	}
	return strings.Join(words, "-")
}

// Pinned is the TLS of a client that knows the other side by the fingerprint of its
// site's authority, and by its role; the name of the host says nothing that would be
// more. own is the client's certificate, or nil. The server sends its authority's
// certificate along, as managers do. The error in a failed handshake is of kind
// Denied.
func Pinned(fingerprint string, expect Role, own *tls.Certificate) *tls.Config {
	return PinnedTo(fingerprint, expect, "", own)
}

// PinnedTo is Pinned to the one box that has a name in that role; "": any.
func PinnedTo(fingerprint string, expect Role, name string, own *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The check below takes the place of the one that is skipped.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			got, err := CheckPinned(s.PeerCertificates, fingerprint, expect)
			if err == nil && name != "" && got != name {
				err = errs.New("control.Pinned", errs.Denied, string(expect)+" "+name, "the other side is "+got)
			}
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if own == nil {
				return &tls.Certificate{}, nil
			}
			return own, nil
		},
	}
}

// CheckPinned checks a chain as Pinned does and returns the name the box has in the
// role. Kind Denied.
func CheckPinned(chain []*x509.Certificate, fingerprint string, expect Role) (name string, err error) {
	const op = "control.Pinned"
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return Fingerprint(c) == fingerprint })
	if i <= 0 {
		return "", errs.New(op, errs.Denied, string(expect), "its certificate is not of the authority with the fingerprint "+fingerprint).
			WithRemedy("compare the fingerprint with what the manager's own console shows; if it was changed on purpose, confirm the new one")
	}
	name, err = CheckChain(chain[0], chain[i], x509.ExtKeyUsageServerAuth, expect)
	return name, err
}

// CheckChain checks that an authority signed a certificate, for a use, now, and that it
// stands for a box of the expected role; it returns that box's name. Kind Denied.
func CheckChain(cert, root *x509.Certificate, use x509.ExtKeyUsage, expect Role) (name string, err error) {
	const op = "control.CheckChain"
	pool := x509.NewCertPool()
	pool.AddCert(root)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
		return "", errs.E(op, errs.Denied, string(expect), err)
	}
	for _, b := range BoxesOf(cert) {
		if b.Role == expect {
			return b.Name, nil
		}
	}
	return "", errs.New(op, errs.Denied, string(expect), fmt.Sprintf("the certificate stands for no %s", expect))
}

// CheckIssuer reports whether an authority has signed a certificate, be it good now or
// not: an error says that it has not.
func CheckIssuer(cert, root *x509.Certificate) error { return cert.CheckSignatureFrom(root) }
