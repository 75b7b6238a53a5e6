package rocva

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
	"holdfast/internal/msa/site"
)

// TestTurns draws starts that ask, end and give up, and demands that no more are under way
// than there may be, that who asked first is first, and that no room is left unused while
// somebody asks.
func TestTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(0, 3).Draw(t, "most")
		b := &boots{up: map[boot]bool{}}
		b.bound(most)
		if most == 0 {
			most = site.DefaultBoots
		}
		now := time.Unix(0, 0)
		var queue []boot // as it is to be
		up := map[boot]bool{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			k := boot{vm: dr.VMID{UUID: dr.UUID{byte(rapid.IntRange(1, 15).Draw(t, "vm"))}}}
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0:
				b.done(k)
				delete(up, k)
			case 1: // all but one who keeps asking give up
				now = now.Add(2 * askAgain)
				queue = nil
				if len(b.queue) == 0 {
					continue
				}
				k = b.queue[len(b.queue)-1].boot
				queue = append(queue, k)
				fallthrough
			default:
				at := -1
				for i, q := range queue {
					if q == k {
						at = i
					}
				}
				if at < 0 && !up[k] {
					at = len(queue)
					queue = append(queue, k)
				}
				want := up[k] || at < most-len(up)
				if got := b.take(k, now); got != want {
					t.Fatalf("a start that is number %d with %d of %d under way got its turn: %v", at, len(up), most, got)
				}
				if want && !up[k] {
					up[k] = true
					queue = append(queue[:at:at], queue[at+1:]...)
				}
			}
			if len(b.up) > most {
				t.Fatalf("%d start at once", len(b.up))
			}
		}
	})
}
