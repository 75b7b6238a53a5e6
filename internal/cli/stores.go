package cli

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store"
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
}

// stackOptions say how to open a store. The zero value opens what is there.
type stackOptions struct {
	create  bool           // make the place first, where the store has places to make
	limiter *limit.Limiter // nil: no limit
	logger  *slog.Logger   // told of repeats; nil: nobody
	elapsed time.Duration  // how long a failing call is repeated; zero: package retry's default
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
	driver, err := openDriver(ctx, u, opts.create)
	if err != nil {
		return nil, err
	}
	m := meter.New(driver)
	s := &stack{meter: m}
	var inner store.Store = m
	if opts.limiter != nil {
		inner = limit.New(m, opts.limiter)
	}
	s.store = retry.New(inner, retry.Options{Logger: opts.logger, Elapsed: opts.elapsed})
	return s, nil
}

// openDriver is the one table of drivers.
func openDriver(ctx context.Context, u store.URL, create bool) (store.Store, error) {
	switch u.Scheme {
	case store.SchemeFile:
		if create {
			if err := durable.MkdirAll(durable.OS{}, u.Path); err != nil {
				return nil, err
			}
		}
		return opened(dir.Open(u.Path))
	case store.SchemeAzure:
		return opened(azblob.Open(ctx, u, azblob.Options{}))
	case store.SchemeS3:
		return opened(s3.Open(ctx, u, s3.Options{}))
	}
	return nil, errs.New("cli.openStore", errs.Invalid, u.String(), "no driver for this kind of store")
}

// opened keeps a driver that is nil from becoming a store that is not.
func opened[S store.Store](st S, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	return st, nil
}
