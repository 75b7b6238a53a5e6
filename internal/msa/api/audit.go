package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/site"
)

func (s *server) registerAudit() {
	const tag = "audit"
	add(s, operation{ID: "list-audit", Method: http.MethodGet, Path: "/audit", Tag: tag, May: auth.AuditRead, Summary: "Who did what, the newest first"}, s.listAudit)
	add(s, operation{ID: "verify-audit", Method: http.MethodPost, Path: "/audit/verify", Tag: tag, May: auth.AuditRead, Stream: true,
		Summary: "Follow the whole log", Detail: "Send heads that you kept: a log that was written anew has not got them."}, s.verifyAudit)
	add(s, operation{ID: "export-audit", Method: http.MethodGet, Path: "/audit/export", Tag: tag, May: auth.AuditRead, Stream: true, Type: "application/x-ndjson",
		Summary: "The whole log, as lines of JSON", Detail: "The last line is the head. A log that does not fit ends before it."}, s.exportAudit)
}

type auditIn struct {
	Paging
	By        string    `query:"by" maxLength:"255"`
	Operation string    `query:"operation" maxLength:"255" doc:"As put-plan"`
	Object    string    `query:"object" maxLength:"255" doc:"As plan erp"`
	From      time.Time `query:"from"`
	To        time.Time `query:"to"`
}

type auditOut struct {
	Body struct {
		Items []audit.Entry `json:"items"`
		Next  string        `json:"next,omitempty" doc:"Cursor of the next page; missing: this is the last"`
	}
}

func (s *server) listAudit(ctx context.Context, in *auditIn) (*auditOut, error) {
	place, err := in.after()
	if err != nil {
		return nil, err
	}
	var before int64
	if place != "" {
		if before, err = strconv.ParseInt(place, 10, 64); err != nil || before < 1 {
			return nil, errs.New("api", errs.Invalid, "cursor", "it is none of this list").WithRemedy("send next of the page before, as it is")
		}
	}
	f := audit.Filter{By: in.By, Operation: in.Operation, Object: in.Object}
	if !in.From.IsZero() {
		f.From = in.From.UnixMilli()
	}
	if !in.To.IsZero() {
		f.To = in.To.UnixMilli()
	}
	out := &auditOut{}
	out.Body.Items = []audit.Entry{}
	return out, s.view(ctx, func(tx *db.Tx) error {
		list, err := audit.List(ctx, tx, f, before, in.Limit)
		if len(list) == in.Limit {
			out.Body.Next = cursor(strconv.FormatInt(list[len(list)-1].Seq, 10))
		}
		out.Body.Items = append(out.Body.Items, list...)
		return err
	})
}

type verifyIn struct {
	Body struct {
		Heads []audit.Head `json:"heads,omitempty" maxItems:"1000" doc:"That were kept elsewhere"`
	}
}

// Verdict is what following the audit log has shown.
type Verdict struct {
	Fits   bool       `json:"fits" doc:"Every entry follows from the one before, to the end, and what you sent is in it"`
	Head   audit.Head `json:"head" doc:"Of a log that fits: keep it elsewhere"`
	Where  string     `json:"where,omitempty" doc:"Of one that does not: the first entry that does not fit"`
	Words  string     `json:"words,omitempty"`
	Remedy string     `json:"remedy,omitempty"`
}

func (s *server) verifyAudit(ctx context.Context, in *verifyIn) (*item[Verdict], error) {
	h, err := audit.Verify(ctx, s.DB, in.Body.Heads...)
	if !errs.Is(err, errs.Corrupt) {
		return &item[Verdict]{Verdict{Fits: true, Head: h}}, err
	}
	// That was asked for; and it is for the log too, whoever reads that.
	s.Logger.Info("the audit log does not fit", "err", err)
	v := Verdict{Words: err.Error(), Remedy: errs.RemedyOf(err)}
	var e *errs.Error
	if errors.As(err, &e) {
		v.Where, v.Words = e.Object, e.Err.Error()
	}
	return &item[Verdict]{v}, nil
}

func (s *server) exportAudit(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
	c := callOf(ctx)
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "application/x-ndjson")
		hc.SetHeader("Content-Disposition", `attachment; filename="audit.ndjson"`)
		if _, err := audit.Export(ctx, s.DB, hc.BodyWriter()); err != nil {
			// The head is missing at the end: nobody takes it for whole.
			s.Logger.Warn("an export of the audit log broke off", "request", c.id, "err", err)
		}
	}}, nil
}

func (s *server) registerSecrets() {
	const tag = "secrets"
	add(s, operation{ID: "list-secrets", Method: http.MethodGet, Path: "/secrets", Tag: tag, May: auth.SecretRead,
		Summary: "Which credentials are stored", Detail: "Never what they are: nothing tells that."}, s.listSecrets)
	add(s, operation{ID: "put-secret", Method: http.MethodPut, Path: "/secrets/{name}", Tag: tag, May: auth.SecretWrite, Change: true, Secret: true, Status: http.StatusNoContent,
		Summary: "Store a credential under a name", Detail: "A store refers to it by that name. It is sealed, and nothing returns it."}, s.putSecret)
	add(s, operation{ID: "delete-secret", Method: http.MethodDelete, Path: "/secrets/{name}", Tag: tag, May: auth.SecretWrite, Change: true, Status: http.StatusNoContent,
		Summary: "Delete a credential"}, s.deleteSecret)
	add(s, operation{ID: "rotate-secret-keys", Method: http.MethodPost, Path: "/secret-keys/rotate", Tag: tag, May: auth.SystemAdmin, Change: true, Status: http.StatusNoContent,
		Summary: "Seal all secrets under a new key", Detail: "The key file is written anew: back it up, and copy it to the other replicas."}, s.rotateKeys)
}

// credential is the name under which package seal has what admins store: what the
// manager itself keeps there has other names, and is not for them to replace.
func credential(name site.Name) (string, error) {
	if !name.Valid() {
		return "", errs.New("api", errs.Invalid, "secret "+db.Text(string(name), site.MaxName), "not a name").WithRemedy("use a-z, 0-9, '-', '.' and '_'")
	}
	return CredentialPrefix + string(name), nil
}

// CredentialPrefix is what the sealed secret's name of a site.Store's Credential
// begins with: seal.Box.Use(ctx, tx, CredentialPrefix+name, …).
const CredentialPrefix = fleet.CredentialPrefix

func (s *server) listSecrets(ctx context.Context, _ *none) (*every[seal.Secret], error) {
	var found []seal.Secret
	err := s.view(ctx, func(tx *db.Tx) error {
		found = nil
		for after := CredentialPrefix; ; {
			page, err := seal.List(ctx, tx, after, maxPage)
			if err != nil {
				return err
			}
			for _, x := range page {
				if len(x.Name) <= len(CredentialPrefix) || x.Name[:len(CredentialPrefix)] != CredentialPrefix {
					return nil
				}
				after = x.Name
				x.Name = x.Name[len(CredentialPrefix):]
				found = append(found, x)
			}
			if len(page) < maxPage {
				return nil
			}
		}
	})
	return everyOf(found), err
}

type putSecretIn struct {
	NameIn
	Body struct {
		Value string `json:"value" minLength:"1" maxLength:"65536"`
	}
}

func (s *server) putSecret(ctx context.Context, in *putSecretIn) (*nothingOut, error) {
	box, err := s.box()
	if err != nil {
		return nil, err
	}
	name, err := credential(site.Name(in.Name))
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "secret "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, box.Put(ctx, tx, name, []byte(in.Body.Value), by(ctx))
	})
}

func (s *server) deleteSecret(ctx context.Context, in *NameIn) (*nothingOut, error) {
	name, err := credential(site.Name(in.Name))
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "secret "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		err := seal.Delete(ctx, tx, name)
		if errs.Is(err, errs.NotFound) {
			err = nil // it is so
		}
		return &nothingOut{}, err
	})
}

func (s *server) rotateKeys(ctx context.Context, _ *none) (*nothingOut, error) {
	box, err := s.box()
	if err != nil {
		return nil, err
	}
	// In many transactions: it is noted when it is done.
	if err := box.Rotate(ctx, s.DB); err != nil {
		return nil, err
	}
	return change(ctx, s, "secret keys", func(*db.Tx) (*nothingOut, error) { return &nothingOut{}, nil })
}
