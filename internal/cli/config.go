package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// maxConfig bounds a configuration file in bytes.
const maxConfig = 4 << 20

// readConfig reads a JSON configuration file strictly: an unknown word is an
// error, because it is a setting that would not take effect.
func readConfig(path string, into any) error {
	const op = "cli.readConfig"
	if path == "" {
		return usageError{fmt.Errorf("--config is missing: the appliance's configuration file")}
	}
	b, err := durable.ReadFile(durable.OS{}, path, maxConfig)
	if err != nil {
		return errs.E(op, errs.Internal, path, err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return errs.E(op, errs.Invalid, path, err).WithRemedy("see the example in the command's --help")
	}
	return nil
}

// serve runs an appliance and, when socket is not empty, its local calls
// beside it, until either fails or ctx ends.
func serve(ctx context.Context, log *slog.Logger, socket string, calls map[string]control.Handler, run func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	done, cancel := context.WithCancel(ctx)
	g.Go(func() error {
		defer cancel() // the status socket has nothing to tell any more
		return run(ctx)
	})
	if socket != "" {
		g.Go(func() error { return control.ServeLocal(done, socket, calls) })
	}
	err := g.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped")
	return nil
}
