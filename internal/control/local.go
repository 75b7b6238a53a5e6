package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/errs"
)

// Bounds of the local status interface.
const (
	maxSocketPath = 107      // bytes of a unix socket's address, from the kernel
	maxReply      = 16 << 20 // bytes of a status reply
	maxRequest    = 64 << 10 // bytes of a request body
	localLimit    = 30 * time.Second
	answerLimit   = 2 * time.Second // that calls under way are given when serving ends
)

// Handler answers one local call: the body it is given is JSON (or empty), and
// so is what it returns.
type Handler func(ctx context.Context, body []byte) (any, error)

// ServeLocal answers local calls over HTTP on a unix socket of mode 0600 until
// ctx ends, then removes the socket. calls maps paths such as "/status" to
// handlers. A stale socket of a dead process is replaced; a live one is an
// error of kind Exists.
func ServeLocal(ctx context.Context, socket string, calls map[string]Handler) error {
	const op = "control.ServeLocal"
	ln, err := listenUnix(op, socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for path, h := range calls {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { serveCall(w, r, h) })
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: localLimit, BaseContext: func(net.Listener) context.Context { return ctx }}
	answered := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(answered)
		// Who asked for what a process then ends with is told how it went.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerLimit)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	defer func() {
		if !stop() {
			<-answered
		}
	}()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return errs.E(op, errs.Unavailable, socket, err)
	}
	return nil
}

func listenUnix(op, socket string) (net.Listener, error) {
	if len(socket) > maxSocketPath {
		return nil, errs.E(op, errs.Invalid, socket, fmt.Errorf("socket path is %d bytes; the system allows %d", len(socket), maxSocketPath)).
			WithRemedy("choose a shorter directory")
	}
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		return nil, errs.New(op, errs.Exists, socket, "another process answers on this socket").
			WithRemedy("stop it, or choose another socket")
	}
	if st, err := os.Lstat(socket); err == nil && st.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(socket) // nobody answers: left by a process that died
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, socket, err).
			WithRemedy("create " + filepath.Dir(socket) + " or make it writable for this user")
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		ln.Close()
		return nil, errs.E(op, errs.Internal, socket, err)
	}
	return ln, nil
}

// localError carries an error over the socket.
type localError struct {
	Kind    errs.Kind `json:"kind"`
	Object  string    `json:"object"`
	Message string    `json:"message"`
	Remedy  string    `json:"remedy"`
}

func serveCall(w http.ResponseWriter, r *http.Request, h Handler) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var v any
	if err == nil {
		v, err = h(r.Context(), body)
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		v = localError{Kind: errs.KindOf(err), Message: err.Error(), Remedy: errs.RemedyOf(err)}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // a caller that left needs no answer
}

// CallLocal makes a local call on a box's socket. in may be nil; out receives
// the reply. Errors of the box arrive with their kind and remedy.
func CallLocal(ctx context.Context, socket, path string, in, out any) error {
	const op = "control.CallLocal"
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return errs.E(op, errs.Invalid, path, err)
		}
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://box"+path, &body)
	if err != nil {
		return errs.E(op, errs.Invalid, path, err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return errs.E(op, errs.Unavailable, socket, err).
			WithRemedy("is the box running, and is this its status socket?")
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return errs.E(op, errs.Unavailable, socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		var le localError
		if json.Unmarshal(reply, &le) != nil || le.Message == "" {
			return errs.E(op, errs.Invalid, path, fmt.Errorf("%s", resp.Status))
		}
		return errs.New(op, le.Kind, le.Object, le.Message).WithRemedy(le.Remedy)
	}
	if err := json.Unmarshal(reply, out); err != nil {
		return errs.E(op, errs.Invalid, path, err)
	}
	return nil
}
