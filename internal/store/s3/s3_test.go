package s3

import (
	"testing"

	"holdfast/internal/store"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/storetest/versitygw"
)

func TestContract(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	storetest.Run(t, func(t *testing.T) store.Store { return r.open(t, false) })
}

// TestContractVersions is the contract in a bucket that keeps versions.
func TestContractVersions(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	storetest.Run(t, func(t *testing.T) store.Store { return r.open(t, true) })
}

func TestLocks(t *testing.T) {
	r := newRig(t, versitygw.Options{})
	storetest.RunLocker(t, func(t *testing.T) store.Store { return r.open(t, true) })
}
