// Package wan runs a protected site whose store is far away: the site and the
// store are in networks of their own, joined by a guest whose kernel delays,
// loses and holds back what passes (guest/wan). It reports the RPO on links of
// several kinds, cuts the link for a while, and reports how long the way back to
// the usual RPO takes; then the newest checkpoint must hold all that was
// acknowledged before it.
//
//	HOLDFAST_WAN=long go test -count=1 -v ./test/wan     all links, 20 s each
package wan
