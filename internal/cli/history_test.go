package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/segment"
)

// firstTime is when checkpoint 0 of a box would have been.
var firstTime = time.Unix(1700000000, 0).UTC()

// more publishes checkpoints with the numbers from first to last, a second
// apart; each changes a block. tags name some.
func (b *box) more(t *testing.T, first, last int, tags map[int]string) {
	t.Helper()
	ctx := t.Context()
	c := b.open(t)
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{Host: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for n := first; n <= last; n++ {
		s := c.NewBuilder(segment.BuilderOptions{})
		seq := dr.Seq(10 * n)
		if err := s.AddFrame(b.disk.ID, 5, 1, seq-1, content(n)[:dr.BlockSize]); err != nil {
			t.Fatal(err)
		}
		s.SetSeqs(seq-5, seq)
		cp := dr.Checkpoint{ID: dr.CheckpointID(n), Seq: seq, Time: firstTime.Add(time.Duration(n) * time.Second), Scope: dr.Group, Disks: []dr.CheckpointDisk{b.disk}}
		if tags[n] != "" {
			cp.Tag, cp.Kind = tags[n], dr.UserTagged
		}
		s.SetCheckpoint(cp)
		q, err := p.Publish(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// jsonOf runs a command with -o json and decodes what it prints.
func jsonOf[T any](t *testing.T, args ...string) T {
	t.Helper()
	var v T
	out := must(t, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// ids are the numbers of the checkpoints listed, as checkpoints prints them.
func (b *box) ids(t *testing.T, args ...string) (out []dr.CheckpointID) {
	t.Helper()
	for _, p := range jsonOf[[]listedPoint](t, append([]string{"checkpoints", b.url, "--key", b.key}, args...)...) {
		out = append(out, p.ID)
	}
	return out
}

func has(t *testing.T, what, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%s should say %q:\n%s", what, w, out)
		}
	}
}

func TestCheckpointsAreChosen(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 60, map[int]string{40: "before-upgrade"})
	for name, c := range map[string]struct {
		args []string
		want []dr.CheckpointID
	}{
		"limit":         {[]string{"--limit", "3"}, []dr.CheckpointID{60, 59, 58}},
		"since":         {[]string{"--since", "2023-11-14T22:14:18Z"}, []dr.CheckpointID{60, 59, 58}},
		"until":         {[]string{"--until", "2023-11-14T22:13:22Z"}, []dr.CheckpointID{2, 1}},
		"both":          {[]string{"--since", "2023-11-14 22:13:25", "--until", "2023-11-14T22:13:27Z"}, []dr.CheckpointID{7, 6, 5}},
		"nothing":       {[]string{"--since", "2h"}, nil},
		"all timelines": {[]string{"--all-timelines", "--limit", "1"}, []dr.CheckpointID{60}},
	} {
		if got := b.ids(t, c.args...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if n := len(b.ids(t)); n != shortList {
		t.Errorf("%d checkpoints are listed by default", n)
	}
	if n := len(b.ids(t, "-a")); n != 60 {
		t.Errorf("%d checkpoints are listed with -a", n)
	}
	if _, _, said := call(t, "checkpoints", b.url, "--key", b.key); !strings.Contains(said, "10 older") {
		t.Errorf("what is left out is not said: %s", said)
	}
	has(t, "checkpoints", must(t, "checkpoints", b.url, "--key", b.key), "before-upgrade", "user", "not thinned yet")
}

// TestVerdicts: what cannot be had from a small container.
func TestVerdicts(t *testing.T) {
	vm := dr.VMID{UUID: dr.NewUUID()}
	points := []listedPoint{
		{CheckpointInfo: journal.CheckpointInfo{Checkpoint: dr.Checkpoint{ID: 7, Scope: dr.Partial, Missing: []dr.VMID{vm}, Tag: "own"},
			Recoverable: true, Suspect: "it looks encrypted", Tags: []string{"later"},
			Retained: []journal.Reason{{Kind: journal.ByHold, Name: "court"}, {Kind: journal.BySchedule, Name: "1m"}}}},
		{CheckpointInfo: journal.CheckpointInfo{Why: "no disk was protected yet"}},
	}
	var w strings.Builder
	printCheckpoints(&w, points, true)
	has(t, "the list", w.String(), "TIMELINE", "partial, without 1 VM(s)", "own, later", "hold court, schedule 1m", "yes; SUSPECT: it looks encrypted", "no: no disk was protected yet")
}

func TestPointsAreInspected(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 10, nil)
	code, out, said := call(t, "inspect", b.url, "--key", b.key, "--at", "nearest:2023-11-14T22:13:28.300Z")
	if code != 0 {
		t.Fatal(said)
	}
	has(t, "inspect --at", out, "checkpoint   8", "../erp 1", b.disk.ID.String(), "1.0 MiB", "not thinned yet")
	has(t, "the choice", said, "#8", "22:13:28")
	s := jsonOf[pointSummary](t, "inspect", b.url, "--key", b.key, "--at", "3")
	if s.Checkpoint.ID != 3 || len(s.Disks) != 1 || s.Disks[0].Written == 0 || len(s.VMs) != 1 || s.Bytes == 0 || s.Objects == 0 {
		t.Errorf("inspect --at as JSON: %+v", s)
	}
}

func TestPinsAndTags(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 60, nil)
	k := []string{"--key", b.key}
	has(t, "pin", must(t, append([]string{"pin", b.url, "7", "--label", "court", "--for", "365d"}, k...)...), "hold", "checkpoint 7", "until 20")
	tag := jsonOf[journal.PinInfo](t, append([]string{"tag", b.url, "nearest:2023-11-14T22:13:33Z", "last-good"}, k...)...)
	if tag.Kind != journal.PinTag || tag.Checkpoint != 13 || tag.Label != "last-good" || !tag.Expires.IsZero() {
		t.Errorf("tag: %+v", tag)
	}
	read := jsonOf[journal.PinInfo](t, append([]string{"pin", b.url, "8", "--kind", "read", "--for", "1h", "--by", "tester"}, k...)...)
	has(t, "pin list", must(t, append([]string{"pin", "list", b.url}, k...)...), "court", "last-good", "tester", "hold", "read", "holds")

	must(t, append([]string{"gc", "run", b.url}, k...)...)
	must(t, append([]string{"gc", "run", b.url, "--full"}, k...)...)
	left := b.ids(t, "--all")
	for _, id := range []dr.CheckpointID{7, 8, 13, 60} {
		if !slices.Contains(left, id) {
			t.Errorf("checkpoint %d is gone: %v", id, left)
		}
	}
	if len(left) > 20 {
		t.Errorf("nothing was thinned: %v", left)
	}
	has(t, "checkpoints", must(t, append([]string{"checkpoints", b.url}, k...)...), "hold court", "tag last-good", "schedule 1m")
	has(t, "gc status", must(t, append([]string{"gc", "status", b.url}, k...)...), "by hold court: checkpoint 7", "last-good", "court")
	out := filepath.Join(t.TempDir(), "out")
	r := jsonOf[recovery](t, append([]string{"restore", b.url, "--at", "tag:last-good", "--out", out}, k...)...)
	if r.Checkpoint.ID != 13 {
		t.Errorf("tag:last-good is checkpoint %d", r.Checkpoint.ID)
	}

	must(t, append([]string{"pin", "release", b.url, "court"}, k...)...)
	must(t, append([]string{"pin", "release", b.url, tag.ID.String()[:8]}, k...)...)
	must(t, append([]string{"pin", "release", b.url, read.ID.String()}, k...)...)
	must(t, append([]string{"pin", "release", b.url, read.ID.String()}, k...)...) // again
	if pins := jsonOf[[]journal.PinInfo](t, append([]string{"pin", "list", b.url}, k...)...); len(pins) != 0 {
		t.Errorf("pins after their release: %+v", pins)
	}
	// Those three, and what restore held while it read.
	if pins := jsonOf[[]journal.PinInfo](t, append([]string{"pin", "list", b.url, "--all"}, k...)...); len(pins) != 4 || !pins[3].Released || pins[3].Kind != journal.PinRead {
		t.Errorf("released pins: %+v", pins)
	}
	must(t, append([]string{"gc", "run", b.url}, k...)...)
	if left := b.ids(t, "--all"); slices.Contains(left, 7) || slices.Contains(left, 13) {
		t.Errorf("released checkpoints stay: %v", left)
	}
}

func TestTimelines(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 20, nil)
	k := []string{"--key", b.key}
	first := jsonOf[[]journal.TimelineInfo](t, append([]string{"timeline", "list", b.url}, k...)...)[0]
	drill := jsonOf[journal.TimelineInfo](t, append([]string{"timeline", "fork", b.url, "12", "--label", "drill", "--test", "--by", "tester"}, k...)...)
	if drill.Fork == nil || drill.Fork.ID != 12 || !drill.Test || drill.Parent != first.ID {
		t.Errorf("fork: %+v", drill)
	}
	id := must(t, append([]string{"timeline", "fork", b.url, "10"}, k...)...)
	has(t, "timeline list", must(t, append([]string{"timeline", "list", b.url}, k...)...), id, "drill", "tester", "test", "current", "kept", "checkpoint 12 of "+first.ID.String())
	if got := b.ids(t, "--timeline", "drill"); !slices.Equal(got, []dr.CheckpointID{12}) {
		t.Errorf("the branch has %v", got)
	}
	if got := b.ids(t, "--all-timelines", "--limit", "2"); !slices.Equal(got, []dr.CheckpointID{10, 12, 20, 19}) {
		t.Errorf("all timelines: %v", got)
	}
	out := filepath.Join(t.TempDir(), "out")
	if r := jsonOf[recovery](t, append([]string{"restore", b.url, "--timeline", "drill", "--out", out}, k...)...); r.Checkpoint.ID != 12 {
		t.Errorf("restore --timeline: checkpoint %d", r.Checkpoint.ID)
	}
	has(t, "gc status", must(t, append([]string{"gc", "status", b.url, "--timeline", first.ID.String()}, k...)...), "drill")

	code, said, errw := call(t, append([]string{"timeline", "drop", b.url, "drill"}, k...)...)
	if code != exitUsage || !strings.Contains(errw, "--yes drill") || !strings.Contains(said, "would be dropped") {
		t.Errorf("drop without --yes: exit %d, %s%s", code, said, errw)
	}
	if code, _, errw := call(t, append([]string{"timeline", "drop", b.url, "drill", "--yes", "drilll"}, k...)...); code != exitUsage || !strings.Contains(errw, "drilll") {
		t.Errorf("drop with a wrong --yes: exit %d, %s", code, errw)
	}
	if got := b.ids(t, "--timeline", "drill"); len(got) != 1 {
		t.Errorf("an unconfirmed drop did something: %v", got)
	}
	r := jsonOf[dropReport](t, append([]string{"timeline", "drop", b.url, "drill", "--yes", "drill"}, k...)...)
	if !r.Dropped || time.Until(r.From) < 23*time.Hour || r.Current.String() != id {
		t.Errorf("drop: %+v", r)
	}
	// A branch that another one needs.
	must(t, append([]string{"timeline", "drop", b.url, id[:8], "--yes", id}, k...)...)
	inner := must(t, append([]string{"timeline", "fork", b.url, "15", "--timeline", first.ID.String()}, k...)...)
	said = must(t, append([]string{"timeline", "drop", b.url, first.ID.String(), "--yes", first.ID.String()}, k...)...)
	has(t, "drop of a parent", said, "nothing as long as", inner)
	if code, _, errw := call(t, append([]string{"timeline", "drop", b.url, inner, "--yes", inner}, k...)...); code != exitUsage || !strings.Contains(errw, "last timeline") {
		t.Errorf("drop of the last: exit %d, %s", code, errw)
	}
}

func TestRetention(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 60, map[int]string{31: "mine"})
	k := []string{"--key", b.key}
	has(t, "retention show", must(t, append([]string{"retention", "show", b.url}, k...)...), "5s for 1h, 1m for 24h, 1h for 30d", "the default")
	set := func(args ...string) []string {
		return append(append([]string{"retention", "set", b.url}, k...), args...)
	}

	ch := jsonOf[retentionChange](t, set("--schedule", "1s for 2h, 1h for 40d")...)
	if !ch.Applied || len(ch.Shortens) != 0 || ch.Keep != 60 {
		t.Errorf("a longer history: %+v", ch)
	}
	v := jsonOf[retentionView](t, append([]string{"retention", "show", b.url}, k...)...)
	if v.Policy.Schedule != "1s for 2h, 1h for 40d" || v.Default || v.Checkpoints != 60 {
		t.Errorf("retention show: %+v", v)
	}

	code, out, said := call(t, set("--schedule", "10s for 1h")...)
	if code != exitUsage || !strings.Contains(said, "--yes") || !strings.Contains(out, "1h instead of 40d") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("an unconfirmed change: exit %d\n%s%s", code, out, said)
	}
	if dry := jsonOf[retentionChange](t, set("--schedule", "10s for 1h", "--dry-run")...); dry.Applied || len(dry.Lost) < 40 {
		t.Errorf("a dry run: %+v", dry)
	}
	if n := len(b.ids(t, "--all")); n != 60 {
		t.Errorf("%d checkpoints after a change that was not made", n)
	}
	ch = jsonOf[retentionChange](t, set("--schedule", "10s for 1h", "--yes")...)
	left := b.ids(t, "--all")
	if !ch.Applied || len(left) != ch.Keep || !slices.Contains(left, 31) {
		t.Errorf("%d of %d checkpoints kept: %v\n%+v", len(left), ch.Keep, left, ch)
	}
	has(t, "size limit", must(t, set("--size-limit", "2TB alarm", "--grace", "48h")...), "1.8 TiB, then an alarm", "2d")
	// A shorter schedule takes no tags along; naming their time does.
	v = jsonOf[retentionView](t, append([]string{"retention", "show", b.url}, k...)...)
	if v.Policy.TagTime != (40*24*time.Hour).Seconds() || v.Policy.Follows || v.Policy.Lock != wordNone {
		t.Errorf("tags: %+v", v.Policy)
	}
	must(t, set("--tag-time", "400d")...)
	has(t, "retention show", must(t, append([]string{"retention", "show", b.url}, k...)...), "tag time", "400d", "lock", "none")
	if code, out, _ := call(t, set("--tag-time", "schedule")...); code != exitUsage || !strings.Contains(out, "stay 1h instead of 400d") {
		t.Errorf("a shorter time of tags: exit %d, %s", code, out)
	}
	if code, _, said := call(t, set("--lock", "governance for 30d")...); code != exitUsage || !strings.Contains(said, "cannot hold") {
		t.Errorf("a lock on a directory: exit %d, %s", code, said)
	}

	f := jsonOf[retentionForecast](t, append([]string{"retention", "forecast", b.url, "--size", "1B", "--size", "1TB"}, k...)...)
	if f.Live == 0 || len(f.Forecasts) != 2 || f.Forecasts[0].Keeps != 0 || !f.Forecasts[0].Measured || f.Forecasts[1].Keeps < 50 {
		t.Errorf("forecast: %+v", f)
	}
	has(t, "forecast", must(t, append([]string{"retention", "forecast", b.url}, k...)...), "you keep", "reaches back", "counted")
	before := b.generation(t)
	f = jsonOf[retentionForecast](t, append([]string{"retention", "forecast", b.url, "--fresh"}, k...)...)
	if f.Live == 0 || f.Counted.IsZero() || b.generation(t) == before {
		t.Errorf("counted anew: %+v", f)
	}
	before = b.generation(t)
	must(t, append([]string{"retention", "forecast", b.url}, k...)...)
	if b.generation(t) != before {
		t.Error("a forecast from what is remembered wrote a manifest")
	}
}

// generation is that of the newest manifest.
func (b *box) generation(t *testing.T) uint64 {
	t.Helper()
	return jsonOf[retentionView](t, "retention", "show", b.url, "--key", b.key).Generation
}

func TestGCPlanRunStatus(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 60, nil)
	k := []string{"--key", b.key}
	has(t, "gc status", must(t, append([]string{"gc", "status", b.url}, k...)...), "never ran")
	must(t, append([]string{"gc", "run", b.url}, k...)...)
	plan := jsonOf[maintain.Plan](t, append([]string{"gc", "plan", b.url, "--full"}, k...)...)
	has(t, "gc plan", must(t, append([]string{"gc", "plan", b.url}, k...)...), "drop", "keep", "pack", "delete")
	has(t, "gc run", must(t, append([]string{"gc", "run", b.url, "--full"}, k...)...), "all of the index", "dropped", "stored")
	left := b.ids(t, "--all")
	if len(plan.Keep) != len(left) {
		t.Errorf("planned to keep %d, kept %v", len(plan.Keep), left)
	}
	for _, p := range plan.Drop {
		if slices.Contains(left, p.ID) {
			t.Errorf("planned to drop %d, which is there", p.ID)
		}
	}
	s := jsonOf[gcStatus](t, append([]string{"gc", "status", b.url}, k...)...)
	if s.Generation == 0 || s.Stats.Stored == 0 || s.Stats.Live == 0 || s.Kept != len(left) || !strings.HasPrefix(s.By, "gc run on ") {
		t.Errorf("gc status: %+v", s)
	}
	has(t, "gc status", must(t, append([]string{"gc", "status", b.url}, k...)...), "live", "reclaimable", "last run", "generation")
	must(t, append([]string{"restore", b.url, "--out", filepath.Join(t.TempDir(), "o")}, k...)...)
	must(t, append([]string{"fsck", b.url, "--mode", "deep"}, k...)...)
}

func TestFsckModes(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 30, nil)
	k := []string{"--key", b.key}
	must(t, append([]string{"gc", "run", b.url, "--full"}, k...)...)
	for _, mode := range []string{"quick", "index", "deep"} {
		has(t, "fsck "+mode, must(t, append([]string{"fsck", b.url, "--mode", mode}, k...)...), mode+" check", "clean", "manifest")
		if r := jsonOf[journal.Report](t, append([]string{"fsck", b.url, "--mode", mode}, k...)...); !r.Clean || string(r.Mode) != mode {
			t.Errorf("fsck %s: %+v", mode, r)
		}
	}
	state := filepath.Join(t.TempDir(), "state")
	portion := append([]string{"fsck", b.url, "--mode", "deep", "--resume", state, "--percent", "40", "--rate", "1000"}, k...)
	frames, calls := 0, 0
	for {
		r := jsonOf[journal.Report](t, portion...)
		frames += r.Frames
		if calls++; r.Cursor == nil {
			break
		}
		if calls > 10 {
			t.Fatal("the round does not end")
		}
	}
	if whole := jsonOf[journal.Report](t, append([]string{"fsck", b.url, "--deep"}, k...)...); frames != whole.Frames || calls < 2 {
		t.Errorf("%d frames in %d portions, %d at once", frames, calls, whole.Frames)
	}
	if body, err := os.ReadFile(state); err != nil || strings.TrimSpace(string(body)) != "null" {
		t.Errorf("state after a round: %q, %v", body, err)
	}

	parts, err := filepath.Glob(filepath.Join(b.dir, "x", "*"))
	if err != nil || len(parts) == 0 {
		t.Fatalf("index parts: %v, %v", parts, err)
	}
	for _, part := range parts {
		flip(t, part)
	}
	if code, out, _ := call(t, append([]string{"fsck", b.url}, k...)...); code != 0 {
		t.Errorf("a quick check reads the index: exit %d, %s", code, out)
	}
	code, out, said := call(t, append([]string{"fsck", b.url, "--mode", "index"}, k...)...)
	if code != exitCorrupt || !strings.Contains(out, "checkpoints 1-30") || !strings.Contains(said, "problem(s) found") {
		t.Errorf("a damaged index: exit %d, %s%s", code, out, said)
	}
}

// flip changes a byte in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHistoryBadInput(t *testing.T) {
	b := newBox(t)
	k := []string{"--key", b.key}
	state := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(state, []byte(`{"foo":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(foreign, []byte(`{"domain":"`+dr.NewUUID().String()+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"since":               {[]string{"checkpoints", b.url, "--since", "then"}, exitUsage, "then"},
		"until before since":  {[]string{"checkpoints", b.url, "--since", "1h", "--until", "2h"}, exitUsage, "before --since"},
		"limit":               {[]string{"checkpoints", b.url, "--limit", "0"}, exitUsage, "--all"},
		"timeline":            {[]string{"checkpoints", b.url, "--timeline", "nobody"}, exitNotFound, "timeline list"},
		"both timelines":      {[]string{"checkpoints", b.url, "--timeline", "x", "--all-timelines"}, exitUsage, "not both"},
		"pin kind":            {[]string{"pin", b.url, "1", "--kind", "tag"}, exitUsage, "holdfast tag"},
		"endless read":        {[]string{"pin", b.url, "1", "--kind", "read"}, exitUsage, "--for"},
		"pin of nothing":      {[]string{"pin", b.url, "99"}, exitNotFound, "99"},
		"pin for a while":     {[]string{"pin", b.url, "1", "--for", "long"}, exitUsage, "30d"},
		"pin for less":        {[]string{"pin", b.url, "1", "--for", "-3h"}, exitUsage, "-3h"},
		"pin until yesterday": {[]string{"pin", b.url, "1", "--until", "2020-01-01"}, exitUsage, "over"},
		"pin twice":           {[]string{"pin", b.url, "1", "--for", "1h", "--until", "2099-01-01"}, exitUsage, "not both"},
		"release of nothing":  {[]string{"pin", "release", b.url, "nothing"}, exitNotFound, "pin list"},
		"tag without name":    {[]string{"tag", b.url, "1", " "}, exitUsage, "no name"},
		"fork of nothing":     {[]string{"timeline", "fork", b.url, "99"}, exitNotFound, "99"},
		"drop of nothing":     {[]string{"timeline", "drop", b.url, "nobody"}, exitNotFound, "nobody"},
		"set nothing":         {[]string{"retention", "set", b.url}, exitUsage, "--help"},
		"bad schedule":        {[]string{"retention", "set", b.url, "--schedule", "1h for 1m"}, exitUsage, "5s for 1h"},
		"bad limit":           {[]string{"retention", "set", b.url, "--size-limit", "much"}, exitUsage, "500GB"},
		"bad mode":            {[]string{"retention", "set", b.url, "--size-limit", "5GB maybe"}, exitUsage, "shorten or alarm"},
		"short grace":         {[]string{"retention", "set", b.url, "--grace", "1m"}, exitUsage, "1h"},
		"bad size":            {[]string{"retention", "forecast", b.url, "--size", "-1GB"}, exitUsage, "1.5TiB"},
		"status of one run":   {[]string{"gc", "run", b.url, "--status", "/x"}, exitUsage, "--watch"},
		"interval":            {[]string{"gc", "run", b.url, "--interval", "1s"}, exitUsage, "1m"},
		"lock":                {[]string{"gc", "run", b.url, "--lock", "iron for 3d"}, exitUsage, "compliance"},
		"lock of a directory": {[]string{"gc", "run", b.url, "--lock", "compliance for 3d"}, exitUsage, "cannot hold"},
		"gc of nobody":        {[]string{"gc", "now", "/nowhere.sock"}, exitUnavailable, "/nowhere.sock"},
		"fsck mode":           {[]string{"fsck", b.url, "--mode", "shallow"}, exitUsage, "quick, index or deep"},
		"fsck two modes":      {[]string{"fsck", b.url, "--mode", "index", "--deep"}, exitUsage, "give one"},
		"quick portion":       {[]string{"fsck", b.url, "--resume", state}, exitUsage, "--mode deep"},
		"forgetful portion":   {[]string{"fsck", b.url, "--deep", "--percent", "4"}, exitUsage, "--resume"},
		"percent":             {[]string{"fsck", b.url, "--deep", "--percent", "400"}, exitUsage, "0 to 100"},
		"rate":                {[]string{"fsck", b.url, "--deep", "--rate", "-1"}, exitUsage, "MB/s"},
		"no state":            {[]string{"fsck", b.url, "--deep", "--resume", state}, exitUsage, "no state of a check"},
		"foreign state":       {[]string{"fsck", b.url, "--deep", "--resume", foreign}, exitUsage, "another container"},
		"inspect a timeline":  {[]string{"inspect", b.url, "--timeline", "x"}, exitUsage, "--at"},
	} {
		args := c.args
		if args[1] != "now" {
			args = append(slices.Clone(args), k...)
		}
		code, out, said := call(t, args...)
		if code != c.code || !strings.Contains(said, c.says) || out != "" {
			t.Errorf("%s: exit %d (want %d), should say %q\nstdout: %s\nstderr: %s", name, code, c.code, c.says, out, said)
		}
	}
}

// waitFor polls until ok, for at most two minutes.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	return d
}

// background runs a command until the test stops it, and returns its exit
// code.
func background(t *testing.T, args ...string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	var errw strings.Builder
	go func() { done <- run(ctx, args, &strings.Builder{}, &errw) }()
	stopped := false
	stop = func() int {
		stopped = true
		cancel()
		select {
		case code := <-done:
			if code != 0 {
				t.Logf("holdfast %s: %s", strings.Join(args, " "), errw.String())
			}
			return code
		case <-time.After(2 * time.Minute):
			t.Fatalf("holdfast %s does not stop", strings.Join(args, " "))
		}
		return -1
	}
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
	})
	return stop
}

func TestGCWatch(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 30, nil)
	sock := filepath.Join(shortDir(t), "gc.sock")
	stop := background(t, "gc", "run", b.url, "--key", b.key, "--watch", "--status", sock)
	state := func() (s struct{ Maintenance upkeepStatus }) {
		err := control.CallLocal(t.Context(), sock, "/status", nil, &s)
		if err != nil && !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		return s
	}
	waitFor(t, "the first pass", func() bool { return state().Maintenance.Generation == 1 })
	must(t, "gc", "now", sock, "--full")
	waitFor(t, "the pass that was asked for", func() bool { return state().Maintenance.Generation == 2 })
	has(t, "status", must(t, "status", sock), "generation 2", "next run", "you keep")
	if code := stop(); code != 0 {
		t.Errorf("exit %d when stopped", code)
	}
}

// TestDRVAMaintains: by default a DRVA maintains what it writes, says so, takes
// the policy of its configuration, and ends cleanly.
func TestDRVAMaintains(t *testing.T) {
	b := newBox(t)
	b.more(t, 3, 30, nil)
	d := shortDir(t)
	domain := b.open(t).Domain().ID.String()
	must(t, "cert", "init", filepath.Join(d, "ca"))
	must(t, "cert", "issue", filepath.Join(d, "tls"), "--ca", filepath.Join(d, "ca"), "--role", "drva", "--name", domain, "--addr", "127.0.0.1")
	sock, cfg := filepath.Join(d, "drva.sock"), filepath.Join(d, "drva.json")
	configure := func(change func(map[string]any)) {
		c := map[string]any{"container": b.url, "key": b.key, "log": filepath.Join(d, "log"), "quota": 256 << 20,
			"listen": "127.0.0.1:0", "tls": filepath.Join(d, "tls"), "status": sock}
		change(c)
		body, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(change func(map[string]any)) (stop func() int) {
		configure(change)
		return background(t, "drva", "--config", cfg)
	}
	state := func() (s drvaStatus) {
		err := control.CallLocal(t.Context(), sock, "/status", nil, &s)
		if err != nil && !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		return s
	}

	stop := start(func(c map[string]any) { c["retention"], c["history-limit"] = "10s for 2h", "1TB alarm" })
	waitFor(t, "the first pass", func() bool { m := state().Maintenance; return m != nil && m.Generation > 0 && !m.NextRun.IsZero() })
	has(t, "status", must(t, "status", sock), "room", "live", "the schedule reaches back 2h")
	must(t, "gc", "now", sock)
	if code := stop(); code != 0 {
		t.Errorf("exit %d when stopped", code)
	}
	v := jsonOf[retentionView](t, "retention", "show", b.url, "--key", b.key)
	if v.Policy.Schedule != "10s for 2h" || v.Policy.SizeLimit != 1e12 || v.Policy.Beyond != limitAlarm || !strings.HasPrefix(v.By, "drva on ") {
		t.Errorf("the container remembers %+v", v)
	}

	stop = start(func(c map[string]any) { c["maintain"] = false })
	waitFor(t, "the DRVA", func() bool { return state().Address != "" })
	has(t, "status", must(t, "status", sock), "maintenance  ", "elsewhere")
	if code, _, said := call(t, "gc", "now", sock); code != exitUnavailable || !strings.Contains(said, "does not maintain") {
		t.Errorf("gc now: exit %d, %s", code, said)
	}
	if code := stop(); code != 0 {
		t.Errorf("exit %d when stopped", code)
	}

	for word, change := range map[string]func(map[string]any){
		"10s":               func(c map[string]any) { c["retention"] = "10s" },
		"cannot hold":       func(c map[string]any) { c["lock"] = "governance for 2d" },
		`"maintain": false`: func(c map[string]any) { c["maintain"], c["history-limit"] = false, "1TB" },
	} {
		configure(change)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that is not refused goes on
		var said strings.Builder
		code := run(ctx, []string{"drva", "--config", cfg}, &strings.Builder{}, &said)
		cancel()
		if code != exitUsage || !strings.Contains(said.String(), word) {
			t.Errorf("exit %d, should say %q: %s", code, word, said.String())
		}
	}
}
