package db

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"holdfast/internal/errs"
)

const urlRemedy = "use sqlite:///PATH/msa.db or postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full"

// target is a parsed URL.
type target struct {
	name   string // for people: without a password
	path   string // SQLite's file; empty: PostgreSQL
	schema string // PostgreSQL's
	dsn    string // PostgreSQL's, without what is ours
}

// schemaName is what a schema may be called: it goes into statements as it is.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// parse takes a URL apart. Errors never repeat it: it may hold a password.
func parse(raw string) (target, error) {
	const op = "db.Open"
	u, err := url.Parse(raw)
	if err != nil {
		return target{}, errs.New(op, errs.Invalid, "the database's URL", "it is not a URL").WithRemedy(urlRemedy)
	}
	switch u.Scheme {
	case "sqlite":
		path := u.Path
		if path == "" {
			path = u.Opaque
		}
		if u.Host != "" || u.RawQuery != "" || path == "" || strings.HasSuffix(path, "/") {
			return target{}, errs.New(op, errs.Invalid, u.Redacted(), "SQLite needs the path of a file, and nothing else").WithRemedy(urlRemedy)
		}
		path, err = filepath.Abs(path)
		if err != nil {
			return target{}, errs.E(op, errs.Invalid, path, err)
		}
		return target{name: path, path: path}, nil
	case "postgres", "postgresql":
		q := u.Query()
		schema := q.Get("schema")
		if schema == "" {
			schema = "holdfast"
		}
		if !schemaName.MatchString(schema) || schema == "public" || strings.HasPrefix(schema, "pg_") {
			return target{}, errs.New(op, errs.Invalid, schema, "no name for a schema of one's own").
				WithRemedy("choose letters, digits and _; not public, nothing that begins with pg_")
		}
		q.Del("schema")
		u.RawQuery = q.Encode()
		return target{name: u.Redacted() + " schema " + schema, schema: schema, dsn: u.String()}, nil
	}
	return target{}, errs.New(op, errs.Invalid, u.Scheme, "no such kind of database").WithRemedy(urlRemedy)
}
