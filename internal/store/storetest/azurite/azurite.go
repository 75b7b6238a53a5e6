package azurite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// The emulator's only account.
const (
	Account = "devstoreaccount1"
	Key     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

const (
	// startTimeout bounds the wait for the first answer: 1 s when nothing else
	// runs, many times that on a loaded machine.
	startTimeout = 60 * time.Second
	// stopTimeout is how long the emulator may take to end by itself before it
	// is killed: what it holds in files is then written.
	stopTimeout = 10 * time.Second
	// maxOutput bounds what is kept of its output for an error.
	maxOutput = 4 << 10
	// script is where npm puts the emulator, from the module's root.
	script = "test/emulators/node_modules/azurite/dist/src/blob/main.js"
	// certLife is longer than any test.
	certLife = 24 * time.Hour
)

// Options of a Server. The zero value is a server in memory, without TLS.
type Options struct {
	Dir string // keeps objects in this directory; empty: in memory, gone with the process
	TLS bool   // answers https with a certificate made for it; see Server.CA
}

// Server is a running emulator.
type Server struct {
	opts   Options
	work   string // certificate and the emulator's own files; removed by Stop
	port   int    // set by the first start, kept by Restart
	client *http.Client

	process *process
}

// Start starts the emulator for the length of a test, which fails when it is
// not installed or does not come up.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	s, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Run starts the emulator on a free loopback port and returns when it answers.
// Kinds: NotFound with a remedy when it is not installed, Unavailable when it
// does not come up, Canceled.
func Run(ctx context.Context, opts Options) (*Server, error) {
	const op = "azurite.Run"
	work, err := os.MkdirTemp("", "azurite-")
	if err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	s := &Server{opts: opts, work: work}
	err = s.prepare()
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		if cleanup := s.Stop(); cleanup != nil {
			err = errors.Join(err, cleanup)
		}
		return nil, err
	}
	return s, nil
}

func (s *Server) prepare() error {
	s.client = &http.Client{Timeout: stopTimeout}
	if !s.opts.TLS {
		return nil
	}
	transport, err := makeCert(s.work)
	if err != nil {
		return err
	}
	s.client.Transport = transport
	return nil
}

// find looks for the emulator in the module this program is run in.
func find() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not run inside the source tree")
		}
		dir = up
	}
	path := filepath.Join(dir, filepath.FromSlash(script))
	_, err = os.Stat(path)
	return path, err
}

func (s *Server) start(ctx context.Context) error {
	const op = "azurite.Run"
	path, err := find()
	if err == nil {
		_, err = exec.LookPath("node")
	}
	if err != nil {
		return errs.E(op, errs.NotFound, "azurite", err).WithRemedy("make emulators")
	}
	args := []string{path, "--silent", "--disableTelemetry", "--skipApiVersionCheck",
		"--blobHost", "127.0.0.1", "--blobPort", strconv.Itoa(s.port)}
	if s.opts.Dir == "" {
		args = append(args, "--inMemoryPersistence")
	} else {
		args = append(args, "--location", s.opts.Dir)
	}
	if s.opts.TLS {
		args = append(args, "--cert", s.CA(), "--key", filepath.Join(s.work, keyFile))
	}
	p, err := launch("node", args, s.work)
	if err != nil {
		return errs.E(op, errs.Unavailable, "azurite", err)
	}
	s.process = p
	if err := s.await(ctx); err != nil {
		p.end()
		return errs.E(op, errs.Unavailable, "azurite", fmt.Errorf("%w; it said: %s", err, p.output()))
	}
	return nil
}

// await returns when the server says its port and answers there.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case port, ok := <-s.process.port:
		if !ok {
			return errors.New("it ended")
		}
		s.port = port
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint()+"?comp=list", nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req) // it listens: no need to ask twice
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Endpoint is the address of the account's service.
func (s *Server) Endpoint() string {
	scheme := "http"
	if s.opts.TLS {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d/%s", scheme, s.port, Account)
}

// CA is the file of the server's certificate; meaningless without TLS.
func (s *Server) CA() string { return filepath.Join(s.work, certFile) }

// URL is the address of a blob container, or of a prefix in it, for
// store/azblob. The key is not in it: set AZURE_STORAGE_KEY to Key.
func (s *Server) URL(blobContainer, prefix string) store.URL {
	u := store.URL{Scheme: store.SchemeAzure, Account: Account, Bucket: blobContainer, Prefix: prefix, Endpoint: s.Endpoint()}
	if s.opts.TLS {
		u.CA = s.CA()
	}
	return u
}

// Container is the SDK's own client of a blob container, for what the driver
// under test does not do.
func (s *Server) Container(name string) (*container.Client, error) {
	cred, err := container.NewSharedKeyCredential(Account, Key)
	if err != nil {
		return nil, err
	}
	return container.NewClientWithSharedKeyCredential(s.Endpoint()+"/"+name, cred, &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: s.client, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
}

// MakeContainer makes a blob container; one that is there already is fine.
func (s *Server) MakeContainer(ctx context.Context, name string) error {
	c, err := s.Container(name)
	if err != nil {
		return err
	}
	if _, err = c.Create(ctx, nil); bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
		return nil
	}
	return err
}

// Kill ends the process at once, as a crash would. The emulator writes its
// index every few seconds only: what was created shortly before is lost, even
// the blob container, which no real service does.
func (s *Server) Kill() { s.process.kill() }

// Quit ends the process and lets it write what it holds; Restart finds that
// again if there is an Options.Dir.
func (s *Server) Quit() { s.process.end() }

// Restart starts the emulator again on the port it had, after Kill or Quit.
func (s *Server) Restart(ctx context.Context) error {
	s.process.kill()
	return s.start(ctx)
}

// Stop ends the process and removes what it left, but not Options.Dir. It may
// be called again.
func (s *Server) Stop() error {
	if s.process != nil {
		s.process.end()
	}
	s.client.CloseIdleConnections()
	return os.RemoveAll(s.work)
}

// process is one run of the emulator.
type process struct {
	cmd  *exec.Cmd
	port chan int      // given once when it listens; closed when it ends
	done chan struct{} // closed when it has ended and was waited for

	mu   sync.Mutex
	said []byte // guarded by mu; the end of its output
}

// launch starts a program in a process group of its own. The goroutine that
// starts it keeps its thread: the kernel kills the program when that thread
// ends, so that no emulator outlives the tests.
func launch(name string, args []string, dir string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), port: make(chan int, 1), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(p.done)
		err := p.cmd.Start()
		started <- errors.Join(err, w.Close())
		if err == nil {
			p.read(r)
			_ = p.cmd.Wait() // how it ended is told by its output
		}
		r.Close()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// read takes the process's output until it ends.
func (p *process) read(r io.Reader) {
	defer close(p.port)
	const listens = "listens on "
	told := false
	in := bufio.NewReaderSize(r, maxOutput)
	for {
		line, err := in.ReadSlice('\n')
		p.mu.Lock()
		p.said = append(p.said, line...)
		p.said = p.said[max(0, len(p.said)-maxOutput):]
		p.mu.Unlock()
		if _, address, ok := strings.Cut(string(line), listens); ok && !told {
			at := strings.LastIndexByte(address, ':')
			if port, err := strconv.Atoi(strings.TrimSpace(address[at+1:])); err == nil {
				told = true
				p.port <- port
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.TrimSpace(string(p.said))
}

// kill ends the process group and waits for it.
func (p *process) kill() {
	select {
	case <-p.done:
		return // its number may be another's by now
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // gone already is fine
	<-p.done
}

// end asks the process to end, and kills it when it does not.
func (p *process) end() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.kill()
	}
}
