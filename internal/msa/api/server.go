package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/stats"
)

// Authenticator says who makes a request.
type Authenticator interface {
	// Authenticate returns who asks. Kind Denied: nobody who is known, which becomes
	// 401; others are told as they are.
	Authenticate(ctx context.Context, r *http.Request) (*auth.Principal, error)
}

// Options is what the API stands on. DB and Auth are needed.
type Options struct {
	DB      *db.DB
	Auth    Authenticator
	Catalog *catalog.Catalog // nil: one without inventories
	// Audit appends to the audit log, in the transaction of what is done. Nil:
	// audit.Append.
	Audit func(context.Context, *db.Tx, audit.Entry) error
	// Wake has whoever carries out tasks look at once: one was started. Nil: nobody
	// is woken, they look by themselves.
	Wake   func()
	Plans  *operate.Operator // nil: one over Catalog
	Desk   *command.Desk     // of what boxes are to do; nil: none
	Fleet  *fleet.Fleet      // what boxes are to be; nil: none
	Access Access
	// Stats takes samples, which /metrics shows. Nil: one that gets none.
	Stats   *stats.Recorder
	Release string       // of Holdfast, for people
	Logger  *slog.Logger // nil: none
}

// prefix is where the API is.
const prefix = "/api/v1"

// server is the API.
type server struct {
	Options
	mux   *http.ServeMux
	api   huma.API
	ops   []Operation
	gates *gates
	hub   *hub
	polls chan struct{} // a place for each box's exchange that waits

	exposition *stats.Exposition
}

// New returns the API. Kind Invalid: the options.
func New(o Options) (http.Handler, error) {
	s, err := build(o)
	if err != nil {
		return nil, err
	}
	return s.outer(s.mux), nil
}

func build(o Options) (*server, error) {
	if o.DB == nil || o.Auth == nil {
		return nil, errs.New("api.New", errs.Invalid, "options", "the API needs a database, and somebody who says who asks")
	}
	if o.Catalog == nil {
		o.Catalog = &catalog.Catalog{}
	}
	if o.Audit == nil {
		o.Audit = audit.Append
	}
	if o.Stats == nil {
		o.Stats = stats.NewRecorder(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Plans == nil {
		var err error
		if o.Plans, err = operate.New(operate.Options{World: operate.InCatalog(o.Catalog), Note: operate.Feed, Logger: o.Logger}); err != nil {
			return nil, err
		}
	}
	s := &server{Options: o, mux: http.NewServeMux(), gates: newGates(), hub: newHub(o.DB), polls: make(chan struct{}, command.MaxPolls)}
	s.exposition = stats.NewExposition(o.Stats, o.DB, o.Logger)
	s.api = humago.New(s.mux, config(o.Release))
	for _, register := range []func(){
		s.registerSystem,
		s.registerObjects,
		s.registerDrafts,
		s.registerApply,
		s.registerTasks,
		s.registerStores,
		s.registerEvents,
		s.registerLogin,
		s.registerUsers,
		s.registerApprovals,
		s.registerPlans,
		s.registerRuns,
		s.registerProvider,
		s.registerAudit,
		s.registerSecrets,
		s.registerTrust,
		s.registerCommands,
		s.registerFleet,
		s.registerInventory,
		s.registerAlarms,
		s.registerStats,
	} {
		register()
	}
	s.mux.HandleFunc("/", s.nothing)
	return s, s.registerDocument()
}

// config is what the library is told.
func config(release string) huma.Config {
	formats := map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Holdfast manager", Version: release, Description: documentText,
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token":   {Type: "http", Scheme: "bearer", Description: "An API token, or the token of a session"},
					"session": {Type: "apiKey", In: "cookie", Name: auth.SessionCookie, Description: "A session of the console; changes need its CSRF token in " + auth.CSRFHeader + " besides"},
				},
			},
		},
		Formats: formats, DefaultFormat: "application/json",
		// A parameter that nobody knows was meant for something.
		RejectUnknownQueryParameters: true,
	}
}

// registerDocument serves the API's document, which is no secret. It comes last:
// the document is complete then.
func (s *server) registerDocument() error {
	text, err := document(s.api.OpenAPI())
	if err != nil {
		return err
	}
	s.mux.HandleFunc("GET "+prefix+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(text) //nolint:errcheck // whoever asked is gone
	})
	return nil
}

// document renders the API's document: stable, indented.
func document(o *huma.OpenAPI) ([]byte, error) {
	b, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		return nil, errs.E("api.document", errs.Internal, "openapi.json", err)
	}
	return append(b, '\n'), nil
}

// Operation is one of the API, for whoever documents or tests all of them.
type Operation struct {
	ID, Method, Path string
	Permission       auth.Permission // empty: anybody who is known, or anybody at all
	Open             bool            // anybody at all
	Scoped           bool            // the permission is needed where the object is, not everywhere
	Change           bool            // it changes something, and is audited
}

// Operations lists the operations of the API, in the order of its document.
func Operations() ([]Operation, error) {
	s, err := build(Options{DB: &db.DB{}, Auth: nobody{}})
	if err != nil {
		return nil, err
	}
	return s.ops, nil
}

// Document returns the API's document, as a manager of a release serves it.
func Document(release string) ([]byte, error) {
	s, err := build(Options{DB: &db.DB{}, Auth: nobody{}, Release: release})
	if err != nil {
		return nil, err
	}
	return document(s.api.OpenAPI())
}

// nobody knows nobody.
type nobody struct{}

// Authenticate refuses.
func (nobody) Authenticate(context.Context, *http.Request) (*auth.Principal, error) {
	return nil, errs.New("api.Authenticate", errs.Denied, "", "nobody is known here")
}
