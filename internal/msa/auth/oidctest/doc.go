// Package oidctest is a small OpenID Connect provider for tests: discovery, a log-in
// page that says yes, the code flow with PKCE, and word signed with a real key. It can
// be told to lie in the ways a bad or wrong provider does.
package oidctest
