package operate

import "strings"

// BreakClaims has plans take domains that others have, until restore is called.
func BreakClaims() (restore func()) {
	right := claimSQL
	claimSQL = strings.Replace(right, "DO NOTHING", "DO UPDATE SET plan = excluded.plan", 1)
	return func() { claimSQL = right }
}
