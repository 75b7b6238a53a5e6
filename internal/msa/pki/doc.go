// Package pki is the certificates of one site's manager: the site's authority, the
// manager's own certificate, and what boxes are given.
//
// There is one authority for the product, that of package control: who began with
// `holdfast cert init` has the manager take that one ([Options.Import]). Its
// certificate is in the database, its key there too, sealed; the files of the manager
// are its key file alone. Every replica makes itself a certificate of its own when it
// starts, holdfast://manager/<site>, in memory, and another one before that expires.
//
// What people compare is the authority's fingerprint, because it stays: a site is
// paired again when its authority changes, and not each time a certificate does.
//
// A PKI is for concurrent use and owns no goroutine.
package pki
