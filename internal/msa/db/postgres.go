package db

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"holdfast/internal/errs"
)

// oldestPostgres is the oldest server that is tried, as it numbers versions.
const oldestPostgres = 130000

// openPostgres opens the pools. Every connection sees our schema alone.
func openPostgres(ctx context.Context, t target) (*DB, error) {
	cfg, err := pgx.ParseConfig(t.dsn)
	if err != nil { // it may repeat the URL
		return nil, errs.New("db.Open", errs.Invalid, t.name, "PostgreSQL's driver does not take this URL").WithRemedy(urlRemedy)
	}
	for name, value := range map[string]string{
		"search_path":                         strconv.Quote(t.schema),
		"timezone":                            "UTC",
		"application_name":                    "holdfast",
		"lock_timeout":                        strconv.FormatInt(busyFor.Milliseconds(), 10),
		"idle_in_transaction_session_timeout": strconv.FormatInt(stuckFor.Milliseconds(), 10),
	} {
		cfg.RuntimeParams[name] = value
	}
	db := &DB{name: t.name, engine: engine{
		schema: t.schema,
		clock:  `SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)`,
		tables: `SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema()) AND relkind IN ('r', 'p', 'v', 'm', 'f')`,
		reads:  &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
	}}
	db.write, db.read = stdlib.OpenDB(*cfg), stdlib.OpenDB(*cfg)
	pool(db.write, maxWriters)
	pool(db.read, maxReaders)
	if err := db.checkPostgres(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// checkPostgres refuses a server that is too old, or that acknowledges commits it
// may lose.
func (db *DB) checkPostgres(ctx context.Context) error {
	const op = "db.Open"
	var version int
	var fsync, commit string
	err := db.write.QueryRowContext(ctx, `SELECT CAST(current_setting('server_version_num') AS INTEGER), current_setting('fsync'), current_setting('synchronous_commit')`).
		Scan(&version, &fsync, &commit)
	switch {
	case err != nil:
		return wrap(op, db.name, err)
	case version < oldestPostgres:
		return errs.New(op, errs.Invalid, db.name, fmt.Sprintf("the server has version %d.%d", version/10000, version%10000)).
			WithRemedy(fmt.Sprintf("use PostgreSQL %d or newer", oldestPostgres/10000))
	case fsync == "off" || commit == "off":
		return errs.New(op, errs.Invalid, db.name, "the server acknowledges commits that a loss of power undoes: fsync "+fsync+", synchronous_commit "+commit).
			WithRemedy("set fsync and synchronous_commit to on")
	}
	return nil
}

// lockSchema makes other replicas that start wait for the end of this
// transaction, and makes the schema if need be. Only who may make one needs the
// right to.
func (db *DB) lockSchema(ctx context.Context, tx *sql.Tx) error {
	// Waiting for a turn is no sign of trouble here.
	for _, set := range []string{`SET LOCAL lock_timeout = 0`, `SET LOCAL idle_in_transaction_session_timeout = 0`} {
		if _, err := tx.ExecContext(ctx, set); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('holdfast schema ' || $1::text, 0))`, db.schema); err != nil {
		return err
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1`, db.schema).Scan(&n); err != nil || n == 1 {
		return err
	}
	_, err := tx.ExecContext(ctx, `CREATE SCHEMA `+strconv.Quote(db.schema))
	return err
}
