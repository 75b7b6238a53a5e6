//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/demo/ledger/chain"
	"holdfast/internal/errs"
)

const (
	pgBin    = "/usr/lib/postgresql/15/bin/"
	pgDir    = "/data"
	pgData   = pgDir + "/pg"
	pgRun    = "/run"
	pgSocket = pgRun + "/.s.PGSQL.5432"
	pgUser   = 70 // its uid and gid, as /etc/passwd of the image says
	// pgStart bounds the server's start, recovery of its log included; an emulated
	// processor takes seconds.
	pgStart = 3 * time.Minute
	pgPause = 50 * time.Millisecond
)

// hasPostgres reports whether the disk's ledger is kept by PostgreSQL.
func hasPostgres() bool {
	_, err := os.Stat(pgBin + "postgres")
	return err == nil
}

// postgres is a ledger in a PostgreSQL server, which is a child of this process.
// Row n holds the hash of the row before, its own numbers, and its payload's.
type postgres struct {
	server     *exec.Cmd
	db         *pgConn
	last       [sha256.Size]byte
	max, cause uint64
}

// openPostgres makes the database if there is none, starts the server, which
// recovers what a crash left, and verifies every row.
func openPostgres() (*postgres, chain.Result, error) {
	p := new(postgres)
	var res chain.Result
	if err := p.prepare(); err != nil {
		return nil, res, err
	}
	p.server = asPostgres("postgres", "-D", pgData, "-k", pgRun, "-c", "listen_addresses=", "-c", "jit=off", "-c", "logging_collector=off",
		"-c", "shared_buffers=16MB", "-c", "max_connections=5", "-c", "autovacuum=off", "-c", "checkpoint_timeout=30s")
	if err := p.server.Start(); err != nil {
		return nil, res, fmt.Errorf("postgres: %w", err)
	}
	if err := p.connect(); err != nil {
		return nil, res, err
	}
	res, err := p.verify()
	return p, res, err
}

// asPostgres prepares a program of PostgreSQL's, as its user.
func asPostgres(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(pgBin+name, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TZ=UTC", "LC_ALL=C", "HOME=" + pgDir}
	cmd.Dir = pgDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: pgUser, Gid: pgUser}}
	return cmd
}

// prepare makes the directories, and the database: under another name until it is
// whole and on the disk, since half of one is none.
func (p *postgres) prepare() error {
	for dir, mode := range map[string]os.FileMode{"/dev/shm": 0o1777, pgRun: 0o1777, "/tmp": 0o1777} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := errors.Join(os.MkdirAll(pgDir, 0o700), os.Chown(pgDir, pgUser, pgUser)); err != nil {
		return err
	}
	if _, err := os.Stat(pgData); err == nil {
		return nil
	}
	fresh := pgData + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	out, err := asPostgres("initdb", "-D", fresh, "--locale=C", "-E", "UTF8", "-A", "trust", "-U", "postgres", "--wal-segsize=1").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out[max(0, len(out)-200):])
	}
	unix.Sync()
	err = os.Rename(fresh, pgData)
	unix.Sync()
	return err
}

// connect waits until the server answers.
func (p *postgres) connect() error {
	for begin := time.Now(); ; time.Sleep(pgPause) {
		c, err := dialPostgres(pgSocket)
		if err == nil {
			p.db = c
			return nil
		}
		if time.Since(begin) > pgStart {
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

// verify reads the whole ledger.
func (p *postgres) verify() (res chain.Result, err error) {
	if _, err := p.db.query(`CREATE TABLE IF NOT EXISTS ledger (n bigint PRIMARY KEY, cause bigint NOT NULL, data bytea NOT NULL, hash bytea NOT NULL)`); err != nil {
		return res, err
	}
	rows, err := p.db.query(`SELECT n, cause, length(data), encode(sha256(data), 'hex'), encode(hash, 'hex') FROM ledger ORDER BY n`)
	if err != nil {
		return res, err
	}
	for i, r := range rows {
		n, cause, size := number(r, 0), number(r, 1), number(r, 2)
		payload, e1 := hex.DecodeString(field(r, 3))
		hash, e2 := hex.DecodeString(field(r, 4))
		want := link(p.last, n, cause, size, payload)
		if n != uint64(i+1) || e1 != nil || e2 != nil || string(hash) != string(want[:]) {
			res.Bad++
			res.Problems = append(res.Problems, fmt.Sprintf("row %d, in place %d, does not follow from the one before", n, i+1))
		}
		copy(p.last[:], hash)
		p.max, p.cause = max(p.max, n), max(p.cause, cause)
	}
	res.Max, res.Cause = p.max, p.cause
	return res, nil
}

// link is the hash of a row behind one with hash prev.
func link(prev [sha256.Size]byte, n, cause, size uint64, payload []byte) [sha256.Size]byte {
	b := append([]byte(nil), prev[:]...)
	for _, v := range []uint64{n, cause, size} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return sha256.Sum256(append(b, payload...))
}

func field(r [][]byte, i int) string {
	if i < len(r) {
		return string(r[i])
	}
	return ""
}

func number(r [][]byte, i int) uint64 {
	n, err := strconv.ParseUint(field(r, i), 10, 64)
	if err != nil {
		return 0 // no row has this number
	}
	return n
}

// Put commits row n; when it returns the server has acknowledged it.
func (p *postgres) Put(_ context.Context, n, cause uint64, size int) error {
	if n != p.max+1 || size < 0 || size > chain.MaxPayload {
		return errs.New("postgres.Put", errs.Invalid, fmt.Sprint(n), "not the next row, or too large")
	}
	data := make([]byte, size)
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], n)
	_, _ = rand.NewChaCha8(seed).Read(data) // never fails
	sum := sha256.Sum256(data)
	hash := link(p.last, n, cause, uint64(size), sum[:])
	if _, err := p.db.query(fmt.Sprintf(`INSERT INTO ledger VALUES (%d, %d, '\x%x', '\x%x')`, n, cause, data, hash)); err != nil {
		return err
	}
	p.last, p.max, p.cause = hash, n, max(p.cause, cause)
	return nil
}

// Max and Cause are the highest row and the highest cause.
func (p *postgres) Max() uint64   { return p.max }
func (p *postgres) Cause() uint64 { return p.cause }

// Checkpoint has the server write what it caches.
func (p *postgres) Checkpoint(context.Context) error {
	_, err := p.db.query("CHECKPOINT")
	return err
}

// Close shuts the server down in order.
func (p *postgres) Close() error {
	p.db.Close()
	if err := p.server.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	return p.server.Wait()
}
