package dr

import (
	"encoding/json"
	"testing"
)

func TestUUIDText(t *testing.T) {
	u := NewUUID()
	got, err := ParseUUID(u.String())
	if err != nil || got != u {
		t.Fatalf("%v, %v", got, err)
	}
	if u[6]>>4 != 4 || u[8]>>6 != 2 {
		t.Fatalf("%s is not a version 4 UUID", u)
	}
	for _, bad := range []string{"", "x", u.String()[1:], u.String() + "0", "zzzzzzzz-0000-4000-8000-000000000000", "00000000x0000-4000-8000-000000000000"} {
		if _, err := ParseUUID(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
	type box struct{ ID DiskID }
	b, err := json.Marshal(box{DiskID{u}})
	if err != nil || string(b) != `{"ID":"`+u.String()+`"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var back box
	if err := json.Unmarshal(b, &back); err != nil || back.ID.UUID != u {
		t.Fatalf("%v, %v", back, err)
	}
}

func TestCheckpointIsNotGroupByOmission(t *testing.T) {
	var c Checkpoint
	if c.Scope == Group {
		t.Fatal("the zero checkpoint claims to be a group point")
	}
	if ok, why := c.Recoverable(); ok || why == "" {
		t.Fatal("a checkpoint without disks claims to be recoverable")
	}
	c.Disks = []CheckpointDisk{{Synced: true}, {Synced: false}}
	if ok, _ := c.Recoverable(); ok {
		t.Fatal("a checkpoint with an unsynced disk claims to be recoverable")
	}
	c.Disks[1].Synced = true
	if ok, _ := c.Recoverable(); !ok {
		t.Fatal("all disks synced and not recoverable")
	}
}

func TestAckRuleWords(t *testing.T) {
	for _, r := range []AckRule{Async, Ordered, Sync} {
		if got, ok := ParseAckRule(r.String()); !ok || got != r {
			t.Errorf("%s: %v, %v", r, got, ok)
		}
	}
	if _, ok := ParseAckRule("unknown"); ok {
		t.Error("unknown rule accepted")
	}
}
