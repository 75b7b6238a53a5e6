package model

import (
	"os"
	"testing"
	"time"

	"holdfast/test/rig"
)

// lagMost is the longest way between a host and the DRVA.
const lagMost = 25 * time.Millisecond

// TestMain lets the test binary serve as the product's: the code under test is
// the same, and nothing has to be built first.
func TestMain(m *testing.M) {
	rig.Main()
	os.Exit(m.Run())
}
