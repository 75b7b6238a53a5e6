package api

import (
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"holdfast/internal/msa/file"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// documentText introduces the API's document.
const documentText = `The manager of one site: what is configured, what is going on, and what to do about it.

**Who asks** is known by an API token (` + "`Authorization: Bearer …`" + `), a session, or a client certificate.

**Changes.** An object has a version, which is its ETag. Whoever changes or deletes one sends If-Match with what they read, and gets 412 when somebody
else was faster; without it, 428. Any change may carry an Idempotency-Key: the same request with the same key is done once, and gets the same answer.

**Lists** come in pages: ask again with cursor, as long as an answer has next.

**Long operations** answer 202 with a task: see /tasks.

**Errors** are problem details (RFC 9457) with kind, object and remedy; faults lists everything that is wrong with what was sent.

**Changes of all kinds** are told by /events as server-sent events: go on after an interruption with Last-Event-ID.`

// objectTypes are the types of the objects an admin configures: their schemas have
// their names alone.
var objectTypes = func() map[reflect.Type]bool {
	types := map[reflect.Type]bool{}
	for _, k := range site.Kinds() {
		types[reflect.TypeOf(file.New(k)).Elem()] = true
	}
	return types
}()

// schemaName names schemas so that two packages may have a type of one name: those
// of the manager's own packages begin with the package's name, unless they are what
// is configured or what goes over the API only.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && t.Name() == "" {
		t = t.Elem()
	}
	if t == reflect.TypeFor[problem.Problem]() {
		return strings.Replace(name, "Problem", "Fault", 1) // as holdfast/api calls it
	}
	inside, ours := strings.CutPrefix(t.PkgPath(), "holdfast/internal/msa/")
	if !ours || inside == "api" || objectTypes[t] || t.Name() == "" {
		return name
	}
	pkg := inside[strings.LastIndex(inside, "/")+1:]
	pkg = strings.ToUpper(pkg[:1]) + pkg[1:]
	if strings.HasPrefix(name, pkg) {
		return name
	}
	return pkg + name
}
