package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

const (
	// maxPassphrase bounds a passphrase, and the file it is in, in bytes.
	maxPassphrase = 4096
	// promptPoll is how soon an interrupt ends a question.
	promptPoll = 100 * time.Millisecond
	// askHere, as the name of a passphrase file, asks on the terminal, or
	// takes the next line of standard input when that is none.
	askHere = "-"
)

// asker is where passphrases that are not in a file come from: whoever runs a
// command. nil: an appliance, which nobody sits before.
type asker struct{ cmd *cobra.Command }

// askOn asks on the streams that cmd has when it runs.
func askOn(cmd *cobra.Command) *asker { return &asker{cmd: cmd} }

// passphrase reads a passphrase from a file, or asks for it when path is "-".
// One that is new is asked for twice. Secrets never come from the command line
// or the environment, where other users and child processes may read them.
func (a *asker) passphrase(path, whose string, isNew bool) (string, error) {
	const op = "cli.passphrase"
	switch {
	case path != askHere:
		return readPassphrase(path)
	case a == nil:
		return "", errs.New(op, errs.Invalid, path, "an appliance asks for no passphrase").WithRemedy("name a file of mode 0600 that holds it")
	}
	p, err := a.ask(whose + ": ")
	if err != nil || !isNew || !a.terminal() {
		return p, err
	}
	again, err := a.ask("again: ")
	if err == nil && again != p {
		return "", errs.New(op, errs.Invalid, "", "the two passphrases differ").WithRemedy("run it again")
	}
	return p, err
}

func (a *asker) terminal() bool {
	f, ok := a.cmd.InOrStdin().(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// ask reads one line; from a terminal without echo, which is restored whatever
// happens.
func (a *asker) ask(question string) (string, error) {
	const op = "cli.passphrase"
	if !a.terminal() {
		return firstLine(op, "standard input", a.cmd.InOrStdin())
	}
	f, _ := a.cmd.InOrStdin().(*os.File)
	fd := int(f.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", errs.E(op, errs.Unavailable, f.Name(), err)
	}
	silent := *was
	silent.Lflag &^= unix.ECHO
	silent.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &silent); err != nil {
		return "", errs.E(op, errs.Unavailable, f.Name(), err)
	}
	defer func() {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, was)
		fmt.Fprintln(a.cmd.ErrOrStderr())
	}()
	fmt.Fprint(a.cmd.ErrOrStderr(), question)
	for { // a line is there as a whole or not at all
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(promptPoll.Milliseconds()))
		if a.cmd.Context().Err() != nil {
			return "", errs.E(op, errs.Canceled, f.Name(), context.Cause(a.cmd.Context()))
		}
		if err != nil && err != unix.EINTR {
			return "", errs.E(op, errs.Unavailable, f.Name(), err)
		}
		if n > 0 {
			return firstLine(op, f.Name(), f)
		}
	}
}

// firstLine reads up to the end of a line and not a byte further, so that the
// next secret may follow.
func firstLine(op, name string, r io.Reader) (string, error) {
	var line strings.Builder
	b := make([]byte, 1)
	for line.Len() <= maxPassphrase {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' || n == 0 && err == io.EOF {
			if s := strings.TrimSuffix(line.String(), "\r"); s != "" {
				return s, nil
			}
			return "", errs.New(op, errs.Invalid, name, "the first line, which is the passphrase, is empty")
		}
		if n == 0 && err != nil {
			return "", errs.E(op, errs.Unavailable, name, err)
		}
		line.Write(b[:n])
	}
	return "", errs.New(op, errs.Invalid, name, "a passphrase has at most 4096 bytes")
}

// readPassphrase reads a passphrase file: its first line. Kind Denied when others may
// read it.
func readPassphrase(path string) (line string, err error) {
	err = withSecretFile(path, func(op string, f *os.File) error { line, err = firstLine(op, path, f); return err })
	return line, err
}

// readSecret reads all of a file with a secret of several lines, as those of a store's
// credential, but for what is blank at its end. Kind Denied when others may read it.
func readSecret(path string) (text string, err error) {
	err = withSecretFile(path, func(op string, f *os.File) error {
		b, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
		if err != nil {
			return errs.E(op, errs.Unavailable, path, err)
		}
		if text = strings.TrimRight(string(b), "\r\n"); text == "" || len(b) > maxPassphrase {
			return errs.New(op, errs.Invalid, path, "it is empty, or has more than 4096 bytes")
		}
		return nil
	})
	return text, err
}

// withSecretFile has read read a file that nobody else can.
func withSecretFile(path string, read func(op string, f *os.File) error) error {
	const op = "cli.readSecret"
	f, err := os.Open(path)
	if err != nil {
		kind := errs.NotFound
		if os.IsPermission(err) {
			kind = errs.Denied
		}
		return errs.E(op, kind, path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return errs.E(op, errs.Unavailable, path, err)
	case st.IsDir():
		return errs.New(op, errs.Invalid, path, "a directory, not a file with a secret")
	case st.Mode().Perm()&0o077 != 0:
		return errs.New(op, errs.Denied, path, fmt.Sprintf("others may use this secret: its mode is %04o", st.Mode().Perm())).
			WithRemedy("chmod 600 " + path)
	case st.Size() > maxPassphrase:
		return errs.New(op, errs.Invalid, path, "a file with a secret has at most 4096 bytes")
	}
	return read(op, f)
}
