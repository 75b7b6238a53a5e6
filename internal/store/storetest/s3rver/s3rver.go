// Package s3rver runs s3rver over a directory: a store that speaks S3 and
// ignores conditions on writes, so that create-once does not hold on it. It is
// here to be refused: what claims to tell good stores from bad must tell this
// one.
//
// It starts no goroutine but those of package emulator.
package s3rver

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store/storetest/emulator"
)

// What every s3rver takes.
const (
	AccessKey = "S3RVER"
	SecretKey = "S3RVER"
	Region    = "us-east-1"
	// portTries bounds the starts when somebody else takes the free port.
	portTries = 3
)

// Options say how it is run.
type Options struct {
	Dir    string // where it keeps everything; Start makes one; Run needs one
	Bucket string // made at the start; empty: "bucket"
}

// Server is a running s3rver. Its fields do not change.
type Server struct {
	Endpoint string // http://127.0.0.1:port
	Bucket   string

	process *emulator.Process
}

// Start runs it until the test ends. The test fails, with the make target
// that installs it, when there is none.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
	t.Cleanup(s.Stop)
	return s
}

// Run starts it and returns when it answers; it runs until Stop.
func Run(ctx context.Context, opts Options) (*Server, error) {
	root, err := emulator.Root()
	if err != nil {
		return nil, err
	}
	if opts.Bucket == "" {
		opts.Bucket = "bucket"
	}
	for try := 1; ; try++ {
		port, err := emulator.FreePort()
		if err != nil {
			return nil, err
		}
		s := &Server{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), Bucket: opts.Bucket}
		s.process, err = emulator.Start(ctx, emulator.Spec{
			Program: filepath.Join(root, "test", "emulators", "node_modules", ".bin", "s3rver"),
			Target:  "emulators",
			Args: []string{"--directory", opts.Dir, "--address", "127.0.0.1", "--port", fmt.Sprint(port),
				"--silent", "--configure-bucket", opts.Bucket},
			Ready: s.Endpoint,
		})
		if err == nil {
			return s, nil
		}
		if try == portTries || !errs.Is(err, errs.Unavailable) {
			return nil, err
		}
	}
}

// Stop ends it.
func (s *Server) Stop() { s.process.Stop() }
