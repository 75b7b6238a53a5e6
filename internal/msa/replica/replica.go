package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/api"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/fleet"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
)

// Options configure a replica. Data and Site are needed.
type Options struct {
	Data   string    // directory of its own: the key, and the database if it is SQLite
	DB     string    // URL of the database; empty: SQLite in Data
	Listen string    // address; empty: ":8443"
	Site   site.Name // the manager's own site
	// Names are the host names and addresses by which it is reached; empty: the
	// host's name, and the local address.
	Names []string
	// Authority is a directory made by `holdfast cert init`, whose authority becomes
	// the site's; empty: a new one is made.
	Authority  string
	Passphrase []byte // of the key that seals; empty: none
	Release    string
	Logger     *slog.Logger // nil: none
	// Kinds are the steps of runs it can do, besides the API's own and those of plans.
	Kinds runs.Kinds
	// Platform opens a site's platform, to look at what it has. Nil: nobody looks.
	Platform func(*site.Site) (inventory.Provider, error)
	// OpenStore opens the store at an address with credentials of its own, making the
	// place where the store has places to make. Nil: containers are neither made nor
	// looked at, and nothing is stored in them.
	OpenStore func(ctx context.Context, url string, a access.Access, create bool) (store.Store, error)
	// ContainerKey is the text of a further key that opens containers, as a recovery
	// key's file has it; empty: the site's own has to do.
	ContainerKey string
	// Openers open containers that no such key does: the site's own is added to what they
	// open.
	Openers []journal.Identity
	// Effects is how plans act on the world; nil: by commands to the sites' boxes.
	Effects operate.Effects
	// Parts returns what runs beside the API, until the context ends: watchers,
	// tickers. Nil: nothing.
	Parts func(*Replica) []Part
}

// Part is something that runs as long as the process does. It ends when its context
// does; an error before that ends the process.
type Part struct {
	Name string
	Run  func(context.Context) error
}

// Replica is an open replica. Its fields are for the parts.
type Replica struct {
	DB      *db.DB
	Box     *seal.Box
	PKI     *pki.PKI
	Auth    *auth.Auth
	Catalog *catalog.Catalog
	Worker  *runs.Worker
	Plans   *operate.Operator
	Log     *slog.Logger
	Stats   *stats.Recorder     // takes samples of what reports to this replica
	Store   *inventory.Store    // what sites have
	Sites   *inventory.Overseer // keeps those inventories
	Fleet   *fleet.Fleet        // what appliances are to be
	Desk    *command.Desk       // commands of this site's boxes

	opts    Options
	ln      net.Listener
	handler http.Handler
	pairs   *pair.Monitor
	acts    *command.Effects
	token   string
	key     string    // public half of the site's key
	id      string    // of this replica, as long as its directory is there
	lock    io.Closer // of the directory
}

// Open opens the database, the key and the authority, making what is missing, and
// listens. The caller calls Run, or Close. Kinds: Invalid, Conflict (a newer schema,
// another site's database), Denied (the key), Unavailable.
func Open(ctx context.Context, o Options) (*Replica, error) {
	if o.Data == "" || !o.Site.Valid() {
		return nil, errs.New("replica.Open", errs.Invalid, "options", "a manager needs a directory of its own and the name of its site").
			WithRemedy("give --data DIR and --site NAME")
	}
	if o.Listen == "" {
		o.Listen = ":8443"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Replica{opts: o, Log: o.Logger, Catalog: &catalog.Catalog{}, Stats: stats.NewRecorder(nil), Store: &inventory.Store{}}
	r.Catalog.Views = r.Store.Views
	if err := r.open(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Replica) open(ctx context.Context) (err error) {
	o := &r.opts
	if err := durable.MkdirAll(durable.OS{}, o.Data); err != nil {
		return err
	}
	if r.lock, err = (durable.OS{}).Lock(filepath.Join(o.Data, "msa.lock")); err != nil {
		return err
	}
	if r.id, err = replicaID(o.Data); err != nil {
		return err
	}
	address := o.DB
	if address == "" {
		path, err := filepath.Abs(filepath.Join(o.Data, "msa.db"))
		if err != nil {
			return errs.E("replica.Open", errs.Invalid, o.Data, err)
		}
		address = (&url.URL{Scheme: "sqlite", Path: path}).String()
	}
	if r.DB, err = db.Open(ctx, address); err != nil {
		return err
	}
	if err := r.openKey(ctx); err != nil {
		return err
	}
	if r.PKI, err = pki.Open(ctx, pki.Options{DB: r.DB, Box: r.Box, Site: string(o.Site), Names: o.names(), Import: o.Authority}); err != nil {
		return err
	}
	r.Auth = auth.New(auth.Options{DB: r.DB, Box: r.Box, Certificates: []auth.CertificateFunc{enrol.Holder(r.DB, r.PKI), pair.Holder(r.DB)}})
	r.pairs = &pair.Monitor{DB: r.DB, PKI: r.PKI, Release: o.Release, Logger: o.Logger}
	if r.Fleet, err = fleet.New(fleet.Options{
		DB: r.DB, Box: r.Box, Site: o.Site, Inventory: r.Store, Stats: r.Stats, Release: o.Release, OpenStore: o.OpenStore, Given: o.ContainerKey, Openers: o.Openers, Ask: r.pairs.Get, Logger: o.Logger,
		Vacate: func(ctx context.Context, at site.Name, vm dr.VMID) error { return r.Sites.Vacate(ctx, at, vm) },
		Tell: func(ctx context.Context, tx *db.Tx, name site.Name, e plan.Event, by string) error {
			return r.Plans.Tell(ctx, tx, name, e, by)
		},
	}); err != nil {
		return err
	}
	r.Desk = &command.Desk{DB: r.DB, Site: o.Site, Router: &command.Boxes{Site: o.Site}, Fleet: r.Fleet, Before: r.Fleet.Vacate, Allow: enrol.Counts}
	r.acts = &command.Effects{Desk: r.Desk, Site: o.Site, Origin: r.PKI.Fingerprint(), Peers: r.pairs, Logger: o.Logger}
	if err := r.openPlans(); err != nil {
		return err
	}
	if err := r.DB.Tx(ctx, func(tx *db.Tx) (err error) {
		if r.token, err = auth.NeedsSetup(ctx, tx); err != nil {
			return err
		}
		if err := r.Fleet.MakeKey(ctx, tx); err != nil {
			return err
		}
		r.key, err = r.Fleet.Recipient(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	if r.ln, err = net.Listen("tcp", o.Listen); err != nil {
		return errs.E("replica.Open", errs.Unavailable, o.Listen, err).WithRemedy("choose another address by --listen, or end what listens there")
	}
	r.handler, err = api.New(api.Options{
		DB: r.DB, Stats: r.Stats, Auth: r.Auth, Catalog: r.Catalog, Wake: r.Worker.Wake, Plans: r.Plans, Desk: r.Desk, Fleet: r.Fleet, Release: o.Release, Logger: o.Logger,
		Access: api.Access{Accounts: r.Auth, Box: r.Box, PKI: r.PKI, Pairs: r.pairs, Address: r.Address()},
	})
	return err
}

// openPlans makes who carries plans out, and the worker that does.
func (r *Replica) openPlans() (err error) {
	o := &r.opts
	if r.Plans, err = operate.New(operate.Options{World: operate.InCatalog(r.Catalog), Note: operate.Feed, Remind: operate.FeedReminder, Facts: r.Fleet.Facts, Logger: o.Logger}); err != nil {
		return err
	}
	r.Catalog.Guards = append(r.Catalog.Guards, r.Plans.Guard, pair.Guard)
	kinds := runs.Kinds{}
	maps.Copy(kinds, o.Kinds)
	effects := o.Effects
	if effects == nil {
		effects = r.acts
	}
	maps.Copy(kinds, operate.Kinds(effects, 0))
	r.Worker, err = runs.NewWorker(r.DB, runs.Options{Kinds: kinds, Logger: o.Logger, Joined: r.Plans.Joined})
	return err
}

// watchPlans does what is due by the clock.
func (r *Replica) watchPlans(ctx context.Context) error {
	r.Plans.Watch(ctx, r.DB, plansEvery, r.Worker.Wake)
	return nil
}

// openKey opens the key that seals secrets. It is made only together with the
// database: a replica that joins others brings theirs.
func (r *Replica) openKey(ctx context.Context) error {
	path := filepath.Join(r.opts.Data, "seal.key")
	box, err := seal.Open(ctx, r.DB, durable.OS{}, path, r.opts.Passphrase)
	if errs.Is(err, errs.NotFound) {
		if used, uerr := r.sealed(ctx); used || uerr != nil {
			if uerr != nil {
				return uerr
			}
			return errs.E("replica.Open", errs.NotFound, path, err).WithRemedy("copy seal.key from the replica that made the database, with mode 0600: without it no secret of the database can be opened")
		}
		if err := seal.Create(durable.OS{}, path, r.opts.Passphrase); err != nil && !errs.Is(err, errs.Exists) {
			return err
		}
		box, err = seal.Open(ctx, r.DB, durable.OS{}, path, r.opts.Passphrase)
	}
	r.Box = box
	return err
}

// sealed reports whether the database holds secrets that a key has sealed.
func (r *Replica) sealed(ctx context.Context) (used bool, err error) {
	err = r.DB.View(ctx, func(tx *db.Tx) error {
		var n int64
		_, err := tx.Row(ctx, `SELECT count(*) FROM secrets`, nil, &n)
		used = n > 0
		return err
	})
	return used, err
}

func (o *Options) names() []string {
	if len(o.Names) > 0 {
		return o.Names
	}
	names := []string{"localhost", "127.0.0.1", "::1"}
	if h, err := os.Hostname(); err == nil && pki.ValidHost(h) && h != "localhost" {
		names = append([]string{h}, names...)
	}
	return names
}

// Address is where it listens, as https://HOST:PORT.
func (r *Replica) Address() string {
	host := pki.HostOf(r.opts.Listen)
	_, port, err := net.SplitHostPort(r.ln.Addr().String())
	if err != nil || host == "" || strings.HasPrefix(host, ":") || net.ParseIP(host) != nil && net.ParseIP(host).IsUnspecified() {
		host = r.PKI.Names()[0]
	}
	return "https://" + net.JoinHostPort(host, port)
}

// Fingerprint is that of the site's authority, by which clients know the manager.
func (r *Replica) Fingerprint() string { return r.PKI.Fingerprint() }

// SiteKey is the public half of the key that opens the containers of the site's domains,
// as age1…
func (r *Replica) SiteKey() string { return r.key }

// SetupToken makes one admin; "": somebody can administer already.
func (r *Replica) SetupToken() string { return r.token }

// Close gives up a replica that is not run.
func (r *Replica) Close() error {
	if r.ln != nil {
		r.ln.Close()
	}
	var err error
	if r.DB != nil {
		err = r.DB.Close()
	}
	if r.lock != nil {
		err = errors.Join(err, r.lock.Close())
		r.lock = nil
	}
	return err
}

// replicaID is what the replica of a directory is called among those of its site, made
// when it is missing. One that was killed has at once what it kept, by its name. The
// machine is part of it: somebody may have copied the whole directory for a second one.
func replicaID(dir string) (string, error) {
	path := filepath.Join(dir, "replica")
	b, err := durable.ReadFile(durable.OS{}, path, 64)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return "", err
	}
	id, perr := dr.ParseUUID(strings.TrimSpace(string(b)))
	if err != nil || perr != nil {
		id = dr.NewUUID()
		if err := durable.WriteFile(durable.OS{}, path, []byte(id.String()+"\n")); err != nil {
			return "", err
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return "", errs.E("replica.Open", errs.Internal, "this machine's name", err)
	}
	return id.String() + " at " + host, nil
}

// Run serves until ctx ends, and closes the replica. It returns the first error of a
// part, which ends the others.
func (r *Replica) Run(ctx context.Context) error {
	defer r.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	parts := []Part{{"api", r.serve}, {"worker", r.Worker.Run}, {"prune", r.prune}, {"plans", r.watchPlans}, {"self", r.watchSelf}, {"pairs", r.pairs.Run}, {"commands", r.acts.Run}}
	parts = append(parts, r.watchers()...)
	if r.opts.Parts != nil {
		parts = append(parts, r.opts.Parts(r)...)
	}
	var wg sync.WaitGroup
	errors := make(chan error, len(parts))
	for _, p := range parts {
		wg.Go(func() {
			err := p.Run(ctx)
			if ctx.Err() == nil && err == nil {
				err = errs.New("replica.Run", errs.Internal, p.Name, "it has ended by itself")
			}
			if err != nil && !errs.Is(err, errs.Canceled) {
				r.Log.Error("a part of the manager has ended", "part", p.Name, "err", err)
				errors <- errs.E("replica.Run", errs.Internal, p.Name, err)
				end(err)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errors:
		return err
	default:
		return nil
	}
}

// serve answers requests until ctx ends.
func (r *Replica) serve(ctx context.Context) error {
	streams, cut := context.WithCancel(ctx)
	defer cut()
	srv := &http.Server{
		Handler: r.handler, ReadHeaderTimeout: headerFor, IdleTimeout: idleFor, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return streams },
		ErrorLog:    slog.NewLogLogger(r.Log.Handler(), slog.LevelDebug), // handshakes that fail, of whoever looks by
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(tls.NewListener(newBounded(r.ln, maxConnections), r.PKI.Server())) }()
	select {
	case err := <-ended:
		return errs.E("replica.serve", errs.Unavailable, r.opts.Listen, err)
	case <-ctx.Done():
	}
	// Streams have ended by ctx; requests under way have been told by it too.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopFor)
	defer cancel()
	if err := srv.Shutdown(late); err != nil {
		srv.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return errs.E("replica.serve", errs.Unavailable, r.opts.Listen, err)
	}
	return nil
}

// bounded is a listener with a bound on connections that are open.
type bounded struct {
	net.Listener
	places chan struct{}
}

func newBounded(ln net.Listener, most int) *bounded { return &bounded{ln, make(chan struct{}, most)} }

// Accept waits for a free place, then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	b.places <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-b.places })}, nil
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	leave func()
}

// Close gives the place back.
func (p *placed) Close() error {
	p.leave()
	return p.Conn.Close()
}
