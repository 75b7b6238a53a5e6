package hypervisor

import (
	"testing"
	"time"
)

func TestChangeQueueCountsWhatItDrops(t *testing.T) {
	q := NewChangeQueue(time.Now)
	const over = 5
	for range changeQueue + over {
		q.Put(Change{Kind: ChangedState})
	}
	q.Close()
	q.Close()
	q.Put(Change{}) // after the end: no effect
	read, lost := 0, 0
	for c := range q.Changes() {
		if c.Time.IsZero() {
			t.Fatal("a change without a time")
		}
		read++
		lost += c.Lost
	}
	if read != changeQueue || lost != over {
		t.Errorf("read %d and heard of %d lost, want %d and %d", read, lost, changeQueue, over)
	}
}
