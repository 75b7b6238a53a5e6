// Command vault is a real key service for tests: the core, the HTTP interface
// and the transit engine of HashiCorp Vault 1.14.0, the last release under the
// Mozilla Public License 2.0, in one process that keeps everything in memory.
//
// It listens on a free port of the loopback address and writes one line to
// standard output when it answers:
//
//	{"address":"127.0.0.1:33445","token":"hvs…","unseal":"…"}
//
// token may do everything; unseal is base64 of the one share that opens the
// service after it was sealed. It ends when its standard input does, so that no test leaves one behind.
// It is a module of its own: nothing of Holdfast depends on Vault.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
	_ "unsafe" // go:linkname

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// headerTimeout bounds how long a client may take to ask.
const headerTimeout = 10 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run() error {
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	core, first, err := unsealed(log)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Address: ln.Addr().String(), MaxRequestDuration: time.Minute, MaxRequestSize: 1 << 20},
		}),
		ReadHeaderTimeout: headerTimeout,
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = srv.Close()
	}()
	err = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"address": ln.Addr().String(), "token": first.RootToken, "unseal": first.SecretShares[0],
	})
	if err != nil {
		return err
	}
	if err := srv.Serve(ln); err != http.ErrServerClosed {
		return err
	}
	return core.Shutdown()
}

// unsealed makes a core on memory, initialises it and unseals it.
func unsealed(log hclog.Logger) (*vault.Core, *vault.InitResult, error) {
	disk, err := inmem.NewInmem(nil, log)
	if err != nil {
		return nil, nil, err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:        disk,
		DisableMlock:    true,
		Logger:          log,
		BuiltinRegistry: nothing{},
		LogicalBackends: map[string]logical.Factory{"transit": transitBackend},
	})
	if err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	first, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one, RecoveryConfig: nil})
	if err != nil {
		return nil, nil, err
	}
	if open, err := core.Unseal(first.SecretShares[0]); err != nil || !open {
		return nil, nil, fmt.Errorf("it does not unseal: %w", err)
	}
	return core, first, nil
}

// The released library that this server builds with is a month younger than
// the server, and refuses an engine with a path that can be created and has no
// check of whether it exists. Two of the server's lack it: one of the transit
// engine's, and those that answer for what only its paid edition has. They are
// given one that says no; nothing here uses them.

func transitBackend(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b, err := transit.Backend(ctx, conf)
	if err != nil {
		return nil, err
	}
	addChecks(b.Paths)
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

//go:linkname paidPaths github.com/hashicorp/vault/vault.entPaths
var paidPaths func(*vault.SystemBackend) []*framework.Path

func init() {
	paths := paidPaths
	paidPaths = func(b *vault.SystemBackend) []*framework.Path { return addChecks(paths(b)) }
}

func addChecks(paths []*framework.Path) []*framework.Path {
	for _, p := range paths {
		_, handled := p.Callbacks[logical.CreateOperation]
		if _, ok := p.Operations[logical.CreateOperation]; (ok || handled) && p.ExistenceCheck == nil {
			p.ExistenceCheck = func(context.Context, *logical.Request, *framework.FieldData) (bool, error) { return false, nil }
		}
	}
	return paths
}

// nothing is a registry of plugins that has none.
type nothing struct{}

func (nothing) Contains(string, consts.PluginType) bool { return false }

func (nothing) Get(string, consts.PluginType) (func() (any, error), bool) { return nil, false }

func (nothing) Keys(consts.PluginType) []string { return nil }

func (nothing) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Unknown, false
}
