package db

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"path"
	"strconv"
	"strings"

	"holdfast/internal/errs"
)

//go:embed migrations/*.sql
var files embed.FS

// migration is one step of the schema.
type migration struct {
	version    int // 1, 2, …
	name       string
	statements []string
}

// embedded returns the migrations of this release, in order.
func embedded() ([]migration, error) {
	const dir = "migrations"
	entries, err := files.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, errs.E("db.embedded", errs.Internal, dir, err)
	}
	var ms []migration
	for i, e := range entries {
		b, err := files.ReadFile(path.Join(dir, e.Name()))
		if err != nil {
			return nil, errs.E("db.embedded", errs.Internal, e.Name(), err)
		}
		number, name, _ := strings.Cut(strings.TrimSuffix(e.Name(), ".sql"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 || name == "" {
			return nil, errs.New("db.embedded", errs.Internal, e.Name(), fmt.Sprintf("the migrations are numbered 0001, 0002, …; this one is the %dth", i+1))
		}
		ms = append(ms, migration{i + 1, name, split(string(b))})
	}
	return ms, nil
}

// split takes a file apart at semicolons that end a line, and leaves lines of
// comment out.
func split(text string) (statements []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "--") || line == "" {
			continue
		}
		whole, end := strings.CutSuffix(line, ";")
		b.WriteString(whole)
		b.WriteByte('\n')
		if end {
			statements = append(statements, b.String())
			b.Reset()
		}
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		statements = append(statements, rest)
	}
	return statements
}

// migrate applies what is missing of ms, in one transaction, one replica at a time.
func (db *DB) migrate(ctx context.Context, ms []migration) error {
	return patient(ctx, func() error {
		tx, err := db.write.BeginTx(ctx, nil) // SQLite: at once the writer
		if err != nil {
			return wrap("db.migrate", db.name, err)
		}
		err = db.migrateIn(ctx, tx, ms)
		if err != nil {
			tx.Rollback() //nolint:errcheck // nothing was done; the error above says why
			return wrap("db.migrate", db.name, err)
		}
		return wrap("db.migrate", db.name, tx.Commit())
	})
}

func (db *DB) migrateIn(ctx context.Context, tx *sql.Tx, ms []migration) error {
	if db.schema != "" {
		if err := db.lockSchema(ctx, tx); err != nil {
			return err
		}
	}
	var tables int
	if err := tx.QueryRowContext(ctx, db.tables).Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)`); err != nil {
			return err
		}
	}
	have, err := db.applied(ctx, tx)
	if err != nil {
		return err
	}
	if err := db.checkApplied(have, ms); err != nil {
		return err
	}
	for _, m := range ms[len(have):] {
		for _, s := range m.statements {
			if _, err := tx.ExecContext(ctx, s); err != nil {
				return fmt.Errorf("migration %04d_%s: %w", m.version, m.name, err)
			}
		}
		var now int64
		if err := tx.QueryRowContext(ctx, db.clock).Scan(&now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version, name, applied_at) VALUES ($1, $2, $3)`, m.version, m.name, now); err != nil {
			return err
		}
	}
	return nil
}

// applied returns the names of the migrations a database has, in order.
func (db *DB) applied(ctx context.Context, tx *sql.Tx) (names []string, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT version, name FROM schema_version ORDER BY version`)
	if err != nil {
		if kindOf(err) == errs.Internal { // there are tables, and not this one
			err = errs.E("db.migrate", errs.Conflict, db.name, fmt.Errorf("it holds tables that are not ours: %w", err)).
				WithRemedy("choose a file, or a schema, that nothing else uses")
		}
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var version int
		var name string
		if err := rows.Scan(&version, &name); err != nil {
			return nil, err
		}
		if version != len(names)+1 {
			return nil, errs.New("db.migrate", errs.Corrupt, db.name, fmt.Sprintf("migration %d is missing before %d", len(names)+1, version)).
				WithRemedy("restore the database from its newest backup")
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// checkApplied refuses a database whose schema this release does not know.
func (db *DB) checkApplied(have []string, ms []migration) error {
	if len(have) > len(ms) {
		return errs.New("db.migrate", errs.Conflict, db.name, fmt.Sprintf("its schema has version %d, this release knows %d", len(have), len(ms))).
			WithRemedy("use the release of Holdfast that wrote it last, or a newer one; or restore the backup made before the upgrade")
	}
	for i, name := range have {
		if ms[i].name != name {
			return errs.New("db.migrate", errs.Conflict, db.name, fmt.Sprintf("its schema's version %d is %q, this release's %q", i+1, name, ms[i].name)).
				WithRemedy("use the release of Holdfast that wrote it")
		}
	}
	return nil
}
