// Package api is the manager's interface for programs: the types that go over its
// REST API, version 1, and a client.
//
//	c, err := api.Dial(api.Options{Address: "https://msa-a:8443", Token: token, Fingerprint: fp})
//	page, err := c.Domains().List(ctx, api.ListOptions{Folder: "erp"})
//	d, err := c.Domains().Get(ctx, "erp")
//	d.RPOTarget = …
//	d, err = c.Domains().Put(ctx, d)    // refused, if somebody changed it since
//
// Objects are those of the manager's files: a field of a YAML document of `holdfast
// apply -f` has the name of the JSON field. All times are UTC, all durations text as
// "1h30m", all ids text. Errors are *[Problem], with what to do about them.
//
// The document of the API, with every operation, is served by the manager at
// /api/v1/openapi.json and is in docs/api of the sources.
package api
