package journal

import "holdfast/internal/dr"

// KeepNumbers is how many numbers must lie between a deleted journal object and
// the newest accepted one: twice the window. A reader that meets a missing
// number looks W numbers beyond it. A publisher that slept may have put W
// objects of its own under freed names, so that the first number missing lies W
// higher: something must still lie W beyond that. So whoever walks from an older
// manifest, or fences after a long sleep, can tell a deleted object from the end
// of the history, and what a fenced publisher still has under way cannot land on
// names that are free again. It is necessary and not enough: the object must also be
// contained in every manifest younger than the grace, older than the grace
// itself, and needed by nobody.
const KeepNumbers = 2 * Window

// sleptOn is the rule by which a taker whose FENCE was created at n tells that
// the name had been freed: somebody has objects W or more numbers beyond it.
// highest is the highest number in the store. It is checked after the FENCE is
// there, and before anything is published behind it.
func sleptOn(n, highest dr.ObjectNumber) bool { return highest >= n+Window }
