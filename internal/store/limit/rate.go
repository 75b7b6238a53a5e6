package limit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is a bandwidth in bytes per second. Zero, [Unlimited], is no limit.
type Rate int64

// Unlimited is no limit.
const Unlimited Rate = 0

// units that a rate can be written in, the ones String uses first; bytes per
// second of each.
var units = []struct {
	name string
	size float64
}{
	{"GB/s", 1e9}, {"MB/s", 1e6}, {"kB/s", 1e3}, {"B/s", 1},
	{"GiB/s", 1 << 30}, {"MiB/s", 1 << 20}, {"KiB/s", 1 << 10},
	{"Gbit/s", 1e9 / 8}, {"Mbit/s", 1e6 / 8}, {"kbit/s", 1e3 / 8},
}

// String renders the rate in the largest unit that says it exactly.
func (r Rate) String() string {
	if r == Unlimited {
		return "unlimited"
	}
	for _, u := range units {
		if n := int64(u.size); int64(r)%n == 0 {
			return fmt.Sprintf("%d%s", int64(r)/n, u.name)
		}
	}
	return fmt.Sprintf("%dB/s", int64(r))
}

// parseRate reads a rate; fault says what is wrong with it.
func parseRate(s string) (r Rate, fault string) {
	if strings.EqualFold(s, "unlimited") {
		return Unlimited, ""
	}
	fault = fmt.Sprintf("%q is not a rate such as 20MB/s, 1.5MiB/s, 100Mbit/s or unlimited", s)
	end := strings.IndexFunc(s, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if end <= 0 {
		return 0, fault
	}
	if strings.Contains(s[end:], "b/") {
		return 0, fmt.Sprintf("%q may mean bits or bytes; write Mbit/s or MB/s", s)
	}
	for _, u := range units {
		if !strings.EqualFold(s[end:], u.name) {
			continue
		}
		f, err := strconv.ParseFloat(s[:end], 64)
		if err != nil {
			return 0, fault
		}
		if f = math.Round(f * u.size); f < float64(MinRate) || f > float64(MaxRate) {
			return 0, fmt.Sprintf("%q is not between %s and %s", s, MinRate, MaxRate)
		}
		return Rate(f), ""
	}
	return 0, fault
}
