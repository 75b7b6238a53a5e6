package auth

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Grant is a role in a folder and all below it; the empty folder is everywhere.
type Grant struct {
	Role   Role     `json:"role"`
	Folder site.Ref `json:"folder,omitempty"`
}

// covers reports whether a folder is g's or below it. Whole names count: "erp" does
// not cover "erp2".
func (g Grant) covers(folder site.Ref) bool {
	return g.Folder == "" || folder == g.Folder || strings.HasPrefix(string(folder), string(g.Folder)+"/")
}

// checkGrants refuses roles that there are not, folders that are no paths, and too
// many.
func checkGrants(op, object string, grants []Grant) error {
	if len(grants) > maxGrants {
		return errs.New(op, errs.Invalid, object, fmt.Sprintf("%d grants; at most %d are possible", len(grants), maxGrants)).
			WithRemedy("grant a role in a folder above")
	}
	for _, g := range grants {
		if !slices.Contains(Roles(), g.Role) {
			return errs.New(op, errs.Invalid, object, fmt.Sprintf("there is no role %q", db.Text(string(g.Role), maxName))).
				WithRemedy("use one of " + joinRoles())
		}
		if !validFolder(g.Folder) {
			return errs.New(op, errs.Invalid, object, fmt.Sprintf("%q is not a folder", db.Text(string(g.Folder), maxFolder))).
				WithRemedy("write a path as erp/prod, or nothing for everywhere")
		}
	}
	return nil
}

// validFolder reports whether f is a path without empty or relative parts, so that
// the same folder has one name.
func validFolder(f site.Ref) bool {
	s := string(f)
	if s == "" {
		return true
	}
	if len(s) > maxFolder || s != db.Text(s, maxFolder) {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func joinRoles() string {
	var names []string
	for _, r := range Roles() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// Principal is who a request comes from. It is immutable, and what it may do is as
// of when it was authenticated. The zero value may nothing.
type Principal struct {
	User  string // a user's name; of a box "appliance/<name>", of a peer "peer/<pair>"
	Token string // id of the API token; empty: another way in
	// Session tells that a person is there: they logged in with a browser or the
	// CLI. What makes new ways in (tokens, passwords) needs one.
	Session bool
	// CSRF is what requests of the session send along, in the header CSRFHeader.
	CSRF string

	grants  []Grant
	scope   []Grant // of a token; means nothing unless limited
	limited bool
	box     string // name of the appliance
	proof   string // digest of its certificate
	peer    string // name of the pair
	session string // hash of the session's token
}

// May reports whether the principal may do something in a folder. What is in no
// folder is in the root: only grants for everywhere count.
func (p *Principal) May(perm Permission, folder site.Ref) bool {
	return p != nil && has(p.grants, perm, folder) && (!p.limited || has(p.scope, perm, folder))
}

// Anywhere reports whether the principal may do something in some folder. It opens
// lists, whose objects are then asked for one by one with May.
func (p *Principal) Anywhere(perm Permission) bool {
	if p == nil {
		return false
	}
	for _, g := range p.grants {
		if !g.Role.Has(perm) {
			continue
		}
		if !p.limited {
			return true
		}
		for _, s := range p.scope {
			// Two folders have something in common when one is in the other.
			if s.Role.Has(perm) && (s.covers(g.Folder) || g.covers(s.Folder)) {
				return true
			}
		}
	}
	return false
}

// Box is the name of the appliance that asks, "" for anybody else.
func (p *Principal) Box() string {
	if p == nil {
		return ""
	}
	return p.box
}

// Peer is the name of the pair whose manager asks, "" for anybody else.
func (p *Principal) Peer() string {
	if p == nil {
		return ""
	}
	return p.peer
}

// Grants are those of the user and, for a token, its scope besides: both must allow.
func (p *Principal) Grants() (grants, scope []Grant) {
	return slices.Clone(p.grants), slices.Clone(p.scope)
}

// Name is how logs and the audit log call the principal.
func (p *Principal) Name() string {
	switch {
	case p == nil:
		return ""
	case p.Token != "":
		return p.User + " by token " + p.Token
	}
	return p.User
}

func has(grants []Grant, perm Permission, folder site.Ref) bool {
	return slices.ContainsFunc(grants, func(g Grant) bool { return g.Role.Has(perm) && g.covers(folder) })
}

// Proof is the digest of the certificate that a box has proved, "" for anybody else.
func (p *Principal) Proof() string {
	if p == nil {
		return ""
	}
	return p.proof
}

// OfBox is the principal of an appliance that has proved the certificate with a
// digest.
func OfBox(name, proof string) *Principal {
	return &Principal{User: "appliance/" + name, box: name, proof: proof, grants: []Grant{{Role: boxRole}}}
}

// OfPeer is the principal of a paired manager that has proved its certificate.
func OfPeer(pair string) *Principal {
	return &Principal{User: "peer/" + pair, peer: pair, grants: []Grant{{Role: peerRole}}}
}
