package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"

	"holdfast/internal/control"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// exercisesOfAccess are about users, tokens, secrets, boxes and peers.
func init() {
	person := func(id, method, path string, body any) exercise {
		return exercise{id, func(r *rig) answer { return r.by(r.person(), method, path, body) }}
	}
	exercises = append(exercises, []exercise{
		{"set-up", func(r *rig) answer {
			var token string
			r.tx(func(tx *db.Tx) (err error) { token, err = auth.MintSetup(r.t.Context(), tx); return err })
			return r.by("", "POST", "/setup", obj{"token": token, "user": "root", "password": password})
		}},
		{"log-in", func(r *rig) answer { return r.by("", "POST", "/login", obj{"user": "root", "password": password}) }},
		{"get-session", func(r *rig) answer { return r.send("GET", "/session", nil) }},
		{"list-roles", func(r *rig) answer { return r.send("GET", "/roles", nil) }},
		person("create-user", "POST", "/users", obj{"name": "alice", "password": password, "grants": []obj{{"role": "viewer"}}}),
		{"get-user", func(r *rig) answer { return r.send("GET", "/users/alice", nil) }},
		{"list-users", func(r *rig) answer { return r.send("GET", "/users?limit=1", nil) }},
		person("put-user", "PUT", "/users/alice", obj{"title": "Alice", "grants": []obj{{"role": "viewer"}}, "version": 1}),
		person("set-user-password", "PUT", "/users/alice/password", obj{"password": password + " 2"}),
		{"end-user-sessions", func(r *rig) answer { return r.send("DELETE", "/users/alice/sessions", nil) }},
		person("create-token", "POST", "/tokens", obj{"title": "x", "scope": []obj{{"role": "viewer"}}, "expire": "1h"}),
		{"list-tokens", func(r *rig) answer { return r.by(r.person(), "GET", "/tokens", nil) }},
		{"revoke-token", func(r *rig) answer { return r.by(r.person(), "DELETE", "/tokens/"+r.token(), nil) }},
		{"list-user-tokens", func(r *rig) answer { return r.send("GET", "/users/root/tokens", nil) }},
		{"revoke-user-token", func(r *rig) answer { return r.send("DELETE", "/users/root/tokens/"+r.token(), nil) }},
		{"list-sessions", func(r *rig) answer { return r.by(r.person(), "GET", "/sessions", nil) }},
		{"end-session", func(r *rig) answer {
			who := r.person()
			all := as[struct{ Items []auth.Session }](r.by(who, "GET", "/sessions", nil))
			return r.by(who, "DELETE", "/sessions/"+all.Items[len(all.Items)-1].ID, nil)
		}},
		{"log-out", func(r *rig) answer { return r.by(r.person(), "DELETE", "/session", nil) }},
		person("set-own-password", "PUT", "/session/password", obj{"old": password, "new": password}),
		{"delete-user", func(r *rig) answer { return r.send("DELETE", "/users/alice", nil) }},
		{"list-approvals", func(r *rig) answer { r.question(); return r.send("GET", "/approvals?subject=plan+erp", nil) }},
		{"decide-approval", func(r *rig) answer {
			return r.by(r.person(), "POST", "/approvals/"+r.question()+"/verdict", obj{"verdict": "refused"})
		}},
		{"put-provider", func(r *rig) answer {
			return r.by(r.person(), "PUT", "/provider", obj{"issuer": r.idp.URL, "client_id": r.idp.ClientID, "client_secret": r.idp.Secret,
				"redirect": "https://msa" + prefix + "/login/provider/return", "groups": obj{"ops": []obj{{"role": "viewer"}}}, "version": 0})
		}},
		{"get-provider", func(r *rig) answer { return r.send("GET", "/provider", nil) }},
		{"begin-provider-log-in", func(r *rig) answer { return r.by("", "GET", "/login/provider", nil) }},
		{"end-provider-log-in", func(r *rig) answer { return r.comeBack() }},
		{"delete-provider", func(r *rig) answer { return r.send("DELETE", "/provider", nil) }},
		{"list-audit", func(r *rig) answer { return r.send("GET", "/audit?limit=2&operation=create-user", nil) }},
		{"verify-audit", func(r *rig) answer { return r.send("POST", "/audit/verify", "{}") }},
		{"export-audit", func(r *rig) answer { return r.send("GET", "/audit/export", nil) }},
		{"put-secret", func(r *rig) answer { return r.send("PUT", "/secrets/x", obj{"value": "v"}) }},
		{"list-secrets", func(r *rig) answer { return r.send("GET", "/secrets", nil) }},
		{"delete-secret", func(r *rig) answer { return r.send("DELETE", "/secrets/x", nil) }},
		{"rotate-secret-keys", func(r *rig) answer { return r.send("POST", "/secret-keys/rotate", nil) }},
		{"get-identity", func(r *rig) answer { return r.send("GET", "/identity", nil) }},
	}...)
	exercises = append(exercises, trustExercises()...)
}

// trustExercises are about boxes and peers.
func trustExercises() []exercise {
	return []exercise{
		{"invite-box", func(r *rig) answer {
			return r.send("POST", "/enrolments/invitations", obj{"name": "x2", "role": "rocva"})
		}},
		{"join-box", func(r *rig) answer { return r.join() }},
		{"beat-box", func(r *rig) answer { return r.by("box", "POST", "/enrolments/beat", enrol.Beat{At: 1}) }},
		{"renew-box", func(r *rig) answer { return r.by("box", "POST", "/enrolments/renew", obj{"csr": csr(r)}) }},
		{"exchange-box", func(r *rig) answer {
			if _, err := r.desk().Ask(r.t.Context(), &command.Command{Kind: "sync", Key: "k/sync", StepKey: "k", Run: "r", Step: "s", Plan: "p", From: "a", To: "b", Domain: "d",
				Input: []byte(`{"domain":"d"}`), Memory: []byte(`{"x":1}`)}, 0); err != nil {
				r.t.Fatal(err)
			}
			return r.by("box", "POST", "/enrolments/exchange", command.Exchange{})
		}},
		{"tell-box", func(r *rig) answer {
			return r.by("box", "POST", "/enrolments/told", command.Told{Report: &setup.Report{Lives: []site.Name{"d"}},
				Commands: []command.Tale{{ID: "x", Done: true, Outcome: command.Outcome{Memory: []byte(`{"y":[2]}`)}}}})
		}},
		{"list-enrolments", func(r *rig) answer { return r.send("GET", "/enrolments?limit=1", nil) }},
		{"get-enrolment", func(r *rig) answer { return r.send("GET", "/enrolments/drva-x", nil) }},
		{"assign-box", func(r *rig) answer {
			return r.send("PUT", "/enrolments/drva-x/domains", obj{"domains": []string{"6f9c2f2a-0000-4000-8000-000000000000"}})
		}},
		{"revoke-box", func(r *rig) answer { return r.send("POST", "/enrolments/drva-x/revoke", nil) }},
		{"remove-box", func(r *rig) answer { return r.send("DELETE", "/enrolments/drva-x", nil) }},
		{"invite-site", func(r *rig) answer { return r.send("POST", "/pairing/invitations", obj{"name": "rome"}) }},
		{"present-site", func(r *rig) answer {
			secret := ""
			r.tx(func(tx *db.Tx) (err error) {
				secret, err = auth.Mint(r.t.Context(), tx, auth.ForPair, "rome", "", "", pair.InviteFor)
				return err
			})
			return r.by("", "POST", "/pairing/present", pair.Presentation{Secret: secret, Site: "rome", Authority: other(r)})
		}},
		{"confirm-site", func(r *rig) answer {
			shown := as[pair.Pair](r.send("GET", "/pairing/rome", nil)).Presented
			return r.by(r.person(), "POST", "/pairing/rome/confirm", obj{"fingerprint": shown})
		}},
		{"list-pairings", func(r *rig) answer { return r.send("GET", "/pairing", nil) }},
		{"get-pairing", func(r *rig) answer { return r.send("GET", "/pairing/rome", nil) }},
		{"beat-site", func(r *rig) answer {
			r.people["peer"] = auth.OfPeer("rome")
			return r.by("peer", "POST", "/pairing/beat", pair.Beat{At: 1, Site: "rome"})
		}},
		{"command-site", func(r *rig) answer {
			return r.by("peer", "POST", "/pairing/commands", command.Abroad{Command: command.Command{Key: "x"}, Cancel: true})
		}},
		{"leave-site", func(r *rig) answer { return r.by("peer", "POST", "/pairing/leave", obj{}) }},
		{"unpair-site", func(r *rig) answer { return r.send("DELETE", "/pairing/rome", nil) }},
		{"accept-site", func(r *rig) answer {
			m := newManager(r.t, dbtest.SQLite(r.t), "oslo", nil)
			_, admin := m.first()
			return r.send("POST", "/pairing/accept", obj{"name": "oslo", "token": m.invite("/pairing/invitations", admin, obj{"name": "berlin"})})
		}},
	}
}

// desk is where commands lie in tests of the API: all of them are drva-x's.
func (r *rig) desk() *command.Desk {
	return &command.Desk{DB: r.db, Site: "a", Router: only("drva-x"), Allow: enrol.Counts}
}

// only has one box do everything.
type only site.Name

func (o only) Route(context.Context, *db.Tx, *command.Command) ([]site.Name, error) {
	return []site.Name{site.Name(o)}, nil
}

// by sends a request as somebody else.
func (r *rig) by(who, method, path string, body any, headers ...string) answer {
	r.t.Helper()
	before := r.who
	defer func() { r.who = before }()
	r.who = who
	return r.send(method, path, body, headers...)
}

func (r *rig) tx(f func(*db.Tx) error) {
	r.t.Helper()
	if err := r.db.Tx(r.t.Context(), f); err != nil {
		r.t.Fatal(err)
	}
}

// person is the bearer token of a session of root, whom set-up made.
func (r *rig) person() string {
	r.t.Helper()
	return as[LoginBody](r.by("", "POST", "/login", obj{"user": "root", "password": password, "bearer": true}).want(http.StatusOK)).Token
}

// token makes an API token of root's and returns its id.
func (r *rig) token() (id string) {
	r.t.Helper()
	r.tx(func(tx *db.Tx) error {
		t, _, err := auth.NewToken(r.t.Context(), tx, "root", "x", []auth.Grant{{Role: auth.Viewer}}, pair.InviteFor)
		id = t.ID
		return err
	})
	return id
}

// question asks for a second person.
func (r *rig) question() (id string) {
	r.t.Helper()
	r.tx(func(tx *db.Tx) error {
		a, err := auth.Ask(r.t.Context(), tx, auth.OfUser("alice"), "plan erp", "disaster", "digest", "erp")
		id = a.ID
		return err
	})
	return id
}

// comeBack goes to the provider and comes back.
func (r *rig) comeBack() answer {
	r.t.Helper()
	begun := r.by("", "GET", "/login/provider", nil).want(http.StatusFound)
	c := *r.idp.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Get(begun.Header.Get("Location"))
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		r.t.Fatal(err)
	}
	cookie := begun.Cookies()[0]
	return r.by("", "GET", strings.TrimPrefix(back.Path, prefix)+"?"+back.RawQuery, nil, "Cookie", cookie.Name+"="+cookie.Value)
}

func csr(r *rig) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// join enrols drva-x, and has its certificate known as "box".
func (r *rig) join() answer {
	r.t.Helper()
	r.send("POST", "/enrolments/invitations", obj{"name": "drva-x", "role": "drva"}).want(http.StatusCreated)
	secret := ""
	r.tx(func(tx *db.Tx) error {
		// The token's secret, without taking the token apart: another one of the kind.
		var content string
		if _, err := tx.Row(r.t.Context(), `SELECT content FROM single_tokens WHERE subject = 'drva-x'`, nil, &content); err != nil {
			return err
		}
		var err error
		secret, err = auth.Mint(r.t.Context(), tx, auth.ForBox, "drva-x", content, "", pair.InviteFor)
		return err
	})
	a := r.by("", "POST", "/enrolments/join", obj{"secret": secret, "csr": csr(r)})
	der, err := control.DecodePEM(as[enrol.Reply](a).Certificate)
	if err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	r.people["box"] = auth.OfBox("drva-x", hex.EncodeToString(sum[:]))
	return a
}

// other is the authority of a site that is none of ours.
func other(r *rig) string {
	a, err := control.NewAuthority("rome")
	if err != nil {
		r.t.Fatal(err)
	}
	return control.EncodePEM(a.Root().Raw)
}
