// Package e2e holds the tests that run the real binary with real guests: a
// site is protected, lost, and recovered from its container alone.
package e2e
