package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/internal/errs"
)

// engineError marks what an engine, not a caller, reported.
type engineError struct{ error }

// Unwrap returns what the engine said.
func (e engineError) Unwrap() error { return e.error }

// wrap gives an engine's error its kind; nil stays nil, and an error that has a
// kind stays what it is.
func wrap(op, object string, err error) error {
	var known *errs.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return errs.E(op, kindOf(err), object, engineError{err})
}

// lost reports whether err says that the engine undid the transaction and wants it
// repeated; a caller's own Transient error is not for us to repeat.
func lost(err error) bool {
	var e engineError
	return errors.As(err, &e)
}

// kindOf classes what the engines report.
func kindOf(err error) errs.Kind {
	var pg *pgconn.PgError
	var lite *sqlite.Error
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errs.Canceled
	case errors.As(err, &pg):
		return kindOfPostgres(pg.Code)
	case errors.As(err, &lite):
		return kindOfSQLite(lite.Code())
	case errors.As(err, &connect), errors.As(err, &network),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone), errors.Is(err, sql.ErrTxDone),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return errs.Unavailable
	}
	if strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "database is closed") {
		return errs.Unavailable // neither driver gives this one a type
	}
	return errs.Internal
}

// kindOfPostgres classes SQLSTATE codes.
func kindOfPostgres(code string) errs.Kind {
	switch code {
	case "23505":
		return errs.Exists
	case "23503", "23001":
		return errs.Conflict
	case "40001", "40P01", "55P03": // lost, deadlock, lock not available
		return errs.Transient
	case "53100", "53200":
		return errs.Full
	case "42501", "3D000", "3F000":
		return errs.Denied
	case "53300", "25P03", "25P04": // too many connections; we were silent for too long
		return errs.Unavailable
	case "57014":
		return errs.Canceled
	case "XX001", "XX002":
		return errs.Corrupt
	}
	switch code[:min(2, len(code))] {
	case "08", "57", "58":
		return errs.Unavailable
	case "28":
		return errs.Denied
	case "22", "23":
		return errs.Invalid
	}
	return errs.Internal
}

// kindOfSQLite classes extended result codes.
func kindOfSQLite(code int) errs.Kind {
	switch code {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return errs.Exists
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return errs.Conflict
	}
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errs.Transient
	case sqlite3.SQLITE_FULL:
		return errs.Full
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return errs.Corrupt
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR:
		return errs.Unavailable
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return errs.Denied
	case sqlite3.SQLITE_INTERRUPT:
		return errs.Canceled
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return errs.Invalid
	}
	return errs.Internal
}
