package journal

import (
	"context"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// Summary is what a container holds, for people and for JSON.
type Summary struct {
	Domain     Domain            `json:"domain"`
	Recipients []RecipientInfo   `json:"recipients"`
	Timelines  []TimelineSummary `json:"timelines"`
	VMs        []VMSummary       `json:"vms"`
	Objects    int               `json:"objects"` // everything in the container
	Bytes      int64             `json:"bytes"`
}

// TimelineSummary is one branch of history.
type TimelineSummary struct {
	ID          dr.TimelineID       `json:"timeline"`
	Created     time.Time           `json:"created"`
	By          string              `json:"by"`
	Current     bool                `json:"current"`
	Epochs      int                 `json:"epochs"`
	Objects     int                 `json:"objects"`
	Fences      int                 `json:"fences"`
	Bytes       int64               `json:"bytes"` // of its journal and data objects that are not deleted
	LastSeq     dr.Seq              `json:"last_seq"`
	Checkpoints int                 `json:"checkpoints"`
	Recoverable int                 `json:"recoverable"`
	First       *CheckpointInfo     `json:"first,omitempty"`
	Last        *CheckpointInfo     `json:"last,omitempty"`
	Disks       []dr.CheckpointDisk `json:"disks"` // as of the last checkpoint
	Problems    int                 `json:"problems"`
	Label       string              `json:"label,omitempty"`
	Test        bool                `json:"test,omitempty"` // never current by itself
	Dropped     *time.Time          `json:"dropped,omitempty"`
	Parent      *dr.TimelineID      `json:"parent,omitempty"` // of a branch: what it left
	Fork        dr.CheckpointID     `json:"fork,omitempty"`   // and where
	Manifest    uint64              `json:"manifest"`         // generation of the newest; 0: never maintained
	Stats       *Stats              `json:"stats,omitempty"`  // of the newest manifest
	Policy      *Policy             `json:"policy,omitempty"`
}

// VMSummary is a VM whose configuration is stored.
type VMSummary struct {
	ID      dr.VMID `json:"id"`
	Name    string  `json:"name"`    // as of the newest configuration
	Configs int     `json:"configs"` // stored
	Damaged string  `json:"damaged,omitempty"`
}

// Inspect describes the container: one list of its keys, its histories' ends
// and footers, no content.
func (c *Container) Inspect(ctx context.Context) (*Summary, error) {
	const op = "journal.Inspect"
	s := &Summary{Domain: c.domain, Recipients: []RecipientInfo{}, Timelines: []TimelineSummary{}, VMs: []VMSummary{}}
	keys, err := readKeys(ctx, c.st, c.domain.ID)
	if err != nil {
		return nil, errs.E(op, errs.Internal, prefixKeys, err)
	}
	for _, id := range keys.order {
		s.Recipients = append(s.Recipients, recipientInfos(keys.wraps[id], id)...)
	}
	epochs := make(map[string]int)
	newest := make(map[dr.VMID]dr.Seq)
	err = listAll(ctx, c.st, "", "", func(in store.Info) bool {
		s.Objects++
		s.Bytes += in.Size
		if dir, _, ok := strings.Cut(in.Key, dirEpoch); ok {
			epochs[dir]++
		}
		c.countVM(s, newest, in.Key)
		return true
	})
	if err != nil {
		return nil, errs.E(op, errs.Internal, "", err)
	}
	if err := c.nameVMs(ctx, s, newest); err != nil {
		return nil, errs.E(op, errs.Internal, prefixMeta, err)
	}
	current, err := c.pickTimeline(ctx, dr.TimelineID{})
	if err != nil {
		return nil, err
	}
	ts, err := c.timelines(ctx)
	if err != nil {
		return nil, errs.E(op, errs.Internal, prefixTime, err)
	}
	for _, t := range ts {
		v, err := c.inspectTimeline(ctx, t)
		if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Denied) {
			continue // never finished, or left by an interrupted Create
		} else if err != nil {
			return nil, errs.E(op, errs.Internal, t.String(), err)
		}
		v.Epochs, v.Current = epochs[timelineDir(t)], t == current
		s.Timelines = append(s.Timelines, *v)
	}
	return s, nil
}

// countVM notes a stored configuration. Keys come in order, so that those of
// one VM are neighbours.
func (c *Container) countVM(s *Summary, newest map[dr.VMID]dr.Seq, key string) {
	rest, ok := strings.CutPrefix(key, prefixMeta)
	dir, _, _ := strings.Cut(rest, "/")
	id, err := dr.ParseUUID(dir)
	if !ok || err != nil {
		return
	}
	vm := dr.VMID{UUID: id}
	seq, ok := parseHex(key, metaPrefix(vm), 16)
	if !ok {
		return
	}
	if n := len(s.VMs); n == 0 || s.VMs[n-1].ID != vm {
		s.VMs = append(s.VMs, VMSummary{ID: vm})
	}
	s.VMs[len(s.VMs)-1].Configs++
	newest[vm] = dr.Seq(seq)
}

func (c *Container) nameVMs(ctx context.Context, s *Summary, newest map[dr.VMID]dr.Seq) error {
	for i := range s.VMs {
		v := &s.VMs[i]
		m, err := c.readMeta(ctx, v.ID, newest[v.ID])
		switch errs.KindOf(err) {
		case errs.Transient, errs.Unavailable, errs.Canceled:
			return err
		}
		if err != nil {
			v.Damaged = err.Error()
		} else {
			v.Name = m.Config.Name
		}
	}
	return nil
}

func (c *Container) inspectTimeline(ctx context.Context, t dr.TimelineID) (*TimelineSummary, error) {
	v, err := c.readHead(ctx, t)
	if err != nil {
		return nil, err
	}
	d, err := c.readDropped(ctx, t)
	if err != nil {
		return nil, err
	}
	h, err := c.openHistory(ctx, t, nil)
	if err != nil {
		return nil, err
	}
	if err := h.readTags(ctx); err != nil {
		return nil, err
	}
	i := infoOf(&v, d)
	s := &TimelineSummary{ID: t, Created: v.Created, By: v.By, Objects: h.Objects(), Fences: int(h.anchor.Fences), LastSeq: h.last,
		Problems: len(h.stale) + len(h.problems) + h.dropped, Disks: []dr.CheckpointDisk{},
		Label: i.Label, Test: i.Test, Dropped: i.Dropped}
	if i.Fork != nil {
		s.Parent, s.Fork = &i.Parent, i.Fork.ID
	}
	if m := h.manifest; m != nil {
		s.Manifest, s.Stats, s.Policy = m.Generation, &m.Stats, &m.Policy
		for j := range m.Objects {
			s.Bytes += m.Objects[j].Size
		}
	}
	for _, o := range h.objects {
		s.Bytes += o.size
		if o.kind == segment.Fence {
			s.Fences++
		}
	}
	for _, p := range h.points {
		if p.Inherited {
			continue
		}
		s.Checkpoints++
		if p.Recoverable {
			s.Recoverable++
		}
	}
	if n := len(h.points); n > 0 {
		s.First, s.Last = &h.points[0], &h.points[n-1]
		s.Disks = h.points[n-1].Disks
	}
	return s, nil
}
