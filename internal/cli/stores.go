package cli

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/fair"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
	"holdfast/internal/store/azblob"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/limit"
	"holdfast/internal/store/meter"
	"holdfast/internal/store/retry"
	"holdfast/internal/store/s3"
)

// stack is a store as commands use it: a driver, its requests counted, its
// traffic limited when asked for, passing failures repeated.
type stack struct {
	store store.Store
	meter *meter.Store
	// check asks whether the store is there and usable, past all wrappers. It
	// must have been asked once before store is used.
	check func(context.Context) error
}

// stackOptions say how to open a store. The zero value opens what is there.
type stackOptions struct {
	create  bool           // make the place first, where the store has places to make
	limiter *limit.Limiter // nil: no limit
	first   int            // weight among the stores of the limiter; 0: 1
	logger  *slog.Logger   // told of repeats; nil: nobody
	later   bool           // do not ask whether the store is there: the caller does, with check
	elapsed time.Duration  // how long a failing call is repeated; zero: package retry's default
	access  access.Access  // credentials of this store; zero: those of the process

	// What several stores of a process share; nil: nothing.
	shared   *limit.Limiter
	weight   int
	requests *fair.Member
}

// openStore opens the store a URL names. create makes the place first, where
// the store has places to make.
func openStore(ctx context.Context, rawURL string, create bool) (store.Store, error) {
	s, err := openStack(ctx, rawURL, stackOptions{create: create})
	if err != nil {
		return nil, err
	}
	return s.store, nil
}

// openStack opens the store a URL names, with its wrappers in their order: the
// meter counts each repeat, and the limiter makes each wait.
func openStack(ctx context.Context, rawURL string, opts stackOptions) (*stack, error) {
	u, err := store.ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	driver, check, err := newDriver(u, opts.create, opts.access)
	if err != nil {
		return nil, err
	}
	if !opts.later {
		if err := check(ctx); err != nil {
			return nil, err
		}
	}
	m := meter.New(driver)
	s := &stack{meter: m, check: check}
	var inner store.Store = m
	if opts.shared != nil {
		inner = limit.NewShare(inner, opts.shared, opts.weight, opts.requests)
	}
	if opts.limiter != nil {
		inner = limit.NewShare(inner, opts.limiter, opts.first, nil)
	}
	s.store = retry.New(inner, retry.Options{Logger: opts.logger, Elapsed: opts.elapsed})
	return s, nil
}

// openDriver opens the store at an address, with nothing between it and the
// caller.
func openDriver(ctx context.Context, u store.URL, create bool) (store.Store, error) {
	driver, check, err := newDriver(u, create, access.Access{})
	if err != nil {
		return nil, err
	}
	return driver, check(ctx)
}

// newDriver is the one table of drivers. Nothing is asked over a network: check
// does that.
func newDriver(u store.URL, create bool, a access.Access) (driver store.Store, check func(context.Context) error, err error) {
	switch u.Scheme {
	case store.SchemeFile:
		if create {
			if err := durable.MkdirAll(durable.OS{}, u.Path); err != nil {
				return nil, nil, err
			}
		}
		d, err := dir.Open(u.Path)
		return d, func(context.Context) error { return nil }, err
	case store.SchemeAzure:
		d, err := azblob.New(u, azblob.Options{Getenv: a.Getenv})
		if err != nil {
			return nil, nil, err
		}
		return d, d.Check, nil
	case store.SchemeS3:
		d, err := s3.New(u, s3.Options{Getenv: a.Getenv})
		if err != nil {
			return nil, nil, err
		}
		return d, d.Check, nil
	}
	return nil, nil, errs.New("cli.openStore", errs.Invalid, u.String(), "no driver for this kind of store")
}
