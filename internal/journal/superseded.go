package journal

import (
	"context"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/store"
)

// keepOlder is how many objects behind the newest one are not superseded yet: a reader
// that has just found the newest reads it, though two newer ones come meanwhile.
const keepOlder = 2

// Superseded lists what is below meta/ and is read no more, because newer ones of its
// kind followed: boot traces of a VM, settings of managers. Who deletes them leaves
// the young ones alone. Configurations of VMs are never superseded: each belongs to
// checkpoints. Kinds: the store's.
func (c *Container) Superseded(ctx context.Context) ([]store.Info, error) {
	var gone, kin []store.Info // kin: of the group that is being listed, the newest last
	group := ""
	err := listAll(ctx, c.st, prefixMeta, "", func(in store.Info) bool {
		of := follows(in.Key)
		if of != group {
			kin, group = kin[:0], of
		}
		if of == "" {
			return true
		}
		if kin = append(kin, in); len(kin) > keepOlder+1 {
			gone, kin = append(gone, kin[0]), kin[1:]
		}
		return len(gone) < maxHold
	})
	return gone, wrapErr("journal.Superseded", prefixMeta, err)
}

// follows is what objects have in common of which the last one by name counts; empty
// for an object that always counts, or that is unknown here.
func follows(key string) string {
	if _, ok := settingsTime(key); ok {
		return prefixSettings
	}
	dir, _, _ := strings.Cut(strings.TrimPrefix(key, prefixMeta), "/")
	id, err := dr.ParseUUID(dir)
	if err != nil {
		return ""
	}
	if prefix := tracePrefix(dr.VMID{UUID: id}); strings.HasPrefix(key, prefix) {
		if _, ok := parseHex(key, prefix, 16); ok {
			return prefix
		}
	}
	return ""
}
