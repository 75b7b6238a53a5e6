// Package fair shares a few slots, of whatever is scarce, among members by
// weight: processors that pack, requests under way, memory for objects.
//
// It is work conserving: a slot nobody else wants is had by whoever asks,
// however much it has had. When several wait, the next slot goes to the one
// that has had least for its weight (start-time fair queueing): over time each
// gets its weight's part, counted in what a turn cost, not in turns. A member
// that was idle saves nothing up.
//
// A member that never gives its slots back, because what it waits for is stuck,
// cannot starve the others: each has Least slots of its own besides those all
// share.
//
// The package starts no goroutine and reads no clock.
package fair
