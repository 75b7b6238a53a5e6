package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/azblob"
	"holdfast/internal/store/s3"
	"holdfast/internal/store/storetest/azurite"
	"holdfast/internal/store/storetest/versitygw"
)

var (
	azuriteFigures = []string{"publish_mb_s_azurite", "emulator_put_mb_s_azurite"}
	s3Figures      = []string{"publish_mb_s_s3", "emulator_put_mb_s_s3"}
)

const (
	// publishBucket is where it goes.
	publishBucket = "bench"
	// publishChunks are in an object: 16 MiB of guests' data, what the
	// appliance aims at.
	publishChunks = 256
	// publishObjects make a round: 640 MiB.
	publishObjects = 40
)

// publishAzurite measures publishing to Azurite, which keeps all in memory.
func (b *bench) publishAzurite(ctx context.Context, dir string) (_ []figure, err error) {
	srv, err := azurite.Run(ctx, azurite.Options{})
	if err != nil {
		return nil, withRemedy(err)
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	if err := srv.MakeContainer(ctx, publishBucket); err != nil {
		return nil, err
	}
	open := func(prefix string) (store.Store, error) {
		return azblob.Open(ctx, srv.URL(publishBucket, prefix), azblob.Options{Getenv: func(name string) string {
			return map[string]string{"AZURE_STORAGE_KEY": azurite.Key}[name]
		}})
	}
	return b.publish(ctx, dir, azuriteFigures, "Azurite in memory", open)
}

// publishS3 measures publishing to the Versity gateway, which writes files.
func (b *bench) publishS3(ctx context.Context, dir string) ([]figure, error) {
	root := filepath.Join(dir, "gateway")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	srv, err := versitygw.Run(ctx, versitygw.Options{Dir: root, KeepAlive: true})
	if err != nil {
		return nil, withRemedy(err)
	}
	defer srv.Stop()
	if err := srv.MakeBucket(ctx, publishBucket, false); err != nil {
		return nil, err
	}
	open := func(prefix string) (store.Store, error) {
		u := store.URL{Scheme: store.SchemeS3, Bucket: publishBucket, Prefix: prefix, Endpoint: srv.Endpoint, Region: versitygw.Region, PathStyle: true}
		return s3.Open(ctx, u, s3.Options{Getenv: func(name string) string {
			return map[string]string{"AWS_ACCESS_KEY_ID": srv.AccessKey, "AWS_SECRET_ACCESS_KEY": srv.SecretKey}[name]
		}})
	}
	return b.publish(ctx, dir, s3Figures, "versitygw over a directory", open)
}

// withRemedy shows what helps: of a missing emulator the make target.
func withRemedy(err error) error {
	if remedy := errs.RemedyOf(err); remedy != "" {
		return fmt.Errorf("%w (%s)", err, remedy)
	}
	return err
}

// publish measures the whole path, from blocks in memory to a recovery point in
// the store, and beside it what the store takes of objects of the same size.
func (b *bench) publish(ctx context.Context, dir string, names []string, what string, open func(prefix string) (store.Store, error)) ([]figure, error) {
	objects := b.sized(publishObjects, 3)
	var whole, puts []float64
	var share float64
	for round := range b.rounds {
		st, err := open(fmt.Sprintf("round%d", round))
		if err != nil {
			return nil, err
		}
		g, err := newGuests(ctx, st, guestsOptions{disks: 1, chunks: objects * publishChunks, slots: journal.Window + 1, seed: uint64(round)})
		if err != nil {
			return nil, err
		}
		rate, err := timePublish(ctx, g)
		if err == nil && round == 0 {
			err = g.verify(ctx, "latest", filepath.Join(dir, "rebuilt"), g.head)
		}
		g.close()
		if err != nil {
			return nil, err
		}
		share = float64(g.stored) / float64(g.raw)
		put, err := timePuts(ctx, st, objects, int(g.stored)/objects)
		if err != nil {
			return nil, err
		}
		whole, puts = append(whole, rate), append(puts, put)
		fmt.Fprintf(os.Stderr, "round %d  publish %.1f MB/s of guests' data, the emulator itself %.1f MB/s\n", round+1, rate, put)
	}
	b.remark("publish to %s: %d objects of 16 MiB of guests' data a round, stored as %.2f of that; one goroutine packs, %d objects under way; the first round was rebuilt and compared",
		what, objects, share, journal.Window)
	return []figure{
		spread(names[0], "MB/s", "guests' data, compressed, sealed and published; "+what, bound{">=", 60}, whole),
		spread(names[1], "MB/s", fmt.Sprintf("the driver's Create of noise, %d at once; %s", journal.Window, what), bound{}, puts),
	}, nil
}

// timePublish writes the disk once and returns MB of guests' data a second.
func timePublish(ctx context.Context, g *guests) (float64, error) {
	start := time.Now()
	if err := g.baseline(ctx, publishChunks); err != nil {
		return 0, err
	}
	if err := g.drain(ctx); err != nil {
		return 0, err
	}
	rate := float64(g.raw) / 1e6 / time.Since(start).Seconds()
	if g.raw != g.disks[0].Size {
		return 0, fmt.Errorf("%d bytes of %d were written", g.raw, g.disks[0].Size)
	}
	return rate, nil
}

// timePuts creates n objects of a size, as many at once as a publisher does,
// and returns MB a second.
func timePuts(ctx context.Context, st store.Store, n, size int) (float64, error) {
	body := make([]byte, size)
	rand.Read(body)
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(journal.Window)
	for i := range n {
		group.Go(func() error { return st.Create(ctx, fmt.Sprintf("put/%d/%s", i, dr.NewUUID()), body) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(n) * float64(size) / 1e6 / time.Since(start).Seconds(), nil
}
