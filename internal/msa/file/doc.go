// Package file reads and writes the files of `holdfast apply -f`: what an admin
// wants to be configured, as YAML documents that can be kept under version control,
// compared with what is configured, and applied as often as one likes.
//
//	apiVersion: holdfast/v1
//	kind: domain            # site, site-pair, store, appliance, domain, mappings,
//	name: erp               # recovery-settings, plan
//	from: site-a
//	vms: [erp-db, erp-web]
//	stores: [azure-west]
//	retention:
//	  schedule: [{for: 24h}, {every: 1h, for: 30d}]
//	---
//	apiVersion: holdfast/v1
//	kind: plan
//	…
//
// A file has any number of documents. [Parse] is strict: a field nobody knows is
// an error that names its line and the field that was probably meant, as is a field
// that is there twice. All errors are told at once. Anchors, aliases, merge keys
// and tags of one's own are refused: what is written is what is there. JSON is YAML.
//
// [Diff] compares with what is configured, field by field; [Export] writes what is
// configured so that applying it changes nothing. Ids and versions are not part of
// a file, but may be: a version that is no longer the newest is a conflict.
//
// # The YAML module
//
// go.yaml.in/yaml/v3 is what the YAML organisation maintains since gopkg.in/yaml.v3
// was archived, and was in the module graph before. Only its node tree is used, so
// that one set of json tags names fields everywhere, and each error has its line.
package file
