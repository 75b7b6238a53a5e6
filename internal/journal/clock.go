package journal

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells a publisher how old its last look at the epoch claims is. Two
// clocks, because each has a way to hide time: the boot-time clock is set back
// by restoring a snapshot of the machine, the wall clock by whoever sets it.
type Clock interface {
	Wall() time.Time
	Boot() time.Duration // since boot, suspend included
}

type systemClock struct{}

func (systemClock) Wall() time.Time { return time.Now() }

func (systemClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return -1 // never fresh: see instant.fresh
	}
	return time.Duration(ts.Nano())
}

// instant is one reading of both clocks.
type instant struct {
	wall time.Time
	boot time.Duration
}

func readClock(c Clock) instant { return instant{wall: c.Wall().Round(0), boot: c.Boot()} }

// fresh reports whether, at now, less than EpochCheckAge has passed since a by
// both clocks. A clock that ran backwards or failed is not trusted.
func (a instant) fresh(now instant) bool {
	wall, boot := now.wall.Sub(a.wall), now.boot-a.boot
	return now.boot >= 0 && a.boot >= 0 && wall >= 0 && boot >= 0 && wall < EpochCheckAge && boot < EpochCheckAge
}
