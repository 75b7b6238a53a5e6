// Package api is the manager's REST API: /api/v1, with its document in OpenAPI 3.1.
// The types that go over it, and a client, are in holdfast/api, which is called v1
// here.
//
// # One way in
//
// A request passes, in this order:
//
//	http.go    an id, security headers, deadlines; bounds on requests at once and of
//	           one address; a panic becomes a problem and a line in the log
//	op.go      who asks (401); whether they may (403)
//	huma       parameters and body, against the document (422, 413, 415)
//	an area    objects.go, drafts.go, apply.go, … one file each
//	answer.go  the transaction, in which what is done, its line in the audit log and
//	           the answer to be repeated for the same Idempotency-Key are stored together
//
// # Adding operations
//
// A file of an area has one func (s *server) register<Area>(), listed in server.go,
// which calls [add] for each operation. An operation says its permission:
//
//	add(s, operation{ID: "delete-site", Method: "DELETE", Path: "/sites/{name}", Tag: "sites",
//		Summary: "Delete a site", May: auth.SiteWrite, Scoped: true, Change: true}, handler)
//
// Without Scoped, the principal must have it everywhere (in the root folder). With
// Scoped, in any folder: then the handler says of which object, by s.allow, and a
// change that was not allowed that way fails. Reads go through s.view, changes
// through [change]: what a handler does before or after the transaction is not
// repeated and not audited.
//
// A handler returns errors of kinds; problem.go makes them RFC 9457's problems. An
// error of kind Internal is logged, with the request's id, and not shown.
package api
