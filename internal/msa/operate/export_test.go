package operate

import "strings"

// BreakClaims has plans take domains so that nobody sees it, until restore is called.
func BreakClaims() (restore func()) {
	right := claimSQL
	claimSQL = strings.Replace(right, "VALUES ($1,", "VALUES ($1 || $2,", 1) // nobody finds it
	return func() { claimSQL = right }
}
