package journal

import (
	"fmt"
	"strconv"
	"strings"

	"holdfast/internal/dr"
)

// Names of a container's objects. They are part of the format.
const (
	keyDomain  = "domain"  // what the container is; written last
	headName   = "head"    // t/<timeline>/head: where a timeline begins
	prefixKeys = "keys/"   // keys/<data key>/<recipient>: the data key, wrapped for one recipient
	prefixTime = "t/"      // t/<timeline>/…: one branch of history
	prefixMeta = "meta/"   // meta/<vm>/<seq:016x>: VM configurations
	dirEpoch   = "/epoch/" // t/<timeline>/epoch/<epoch:08x>: claims
	dirJournal = "/j/"     // t/<timeline>/j/<number:016x>: journal objects

	// completeName ends a rotation: keys/<data key>/complete.
	completeName = "complete"

	droppedName = "dropped" // t/<timeline>/dropped: a branch given up
	dirManifest = "/m/"     // t/<timeline>/m/<generation:016x>: manifests
	prefixIndex = "x/"      // x/<uuid>: parts of index runs
	prefixData  = "d/"      // d/<uuid>: data objects
	prefixPin   = "pin/"    // pin/<uuid>: holds, tags and readers; pin/<uuid>.off releases one
	prefixProbe = "probe/"  // probe/<uuid>/…: the trial of a store before a container is made
)

func timelineDir(t dr.TimelineID) string  { return prefixTime + t.String() }
func headKey(t dr.TimelineID) string      { return timelineDir(t) + "/" + headName }
func epochPrefix(t dr.TimelineID) string  { return timelineDir(t) + dirEpoch }
func objectPrefix(t dr.TimelineID) string { return timelineDir(t) + dirJournal }
func metaPrefix(vm dr.VMID) string        { return prefixMeta + vm.String() + "/" }

func epochKey(t dr.TimelineID, e dr.Epoch) string {
	return fmt.Sprintf("%s%08x", epochPrefix(t), uint32(e))
}

func objectKey(t dr.TimelineID, n dr.ObjectNumber) string {
	return fmt.Sprintf("%s%016x", objectPrefix(t), uint64(n))
}

func metaKey(vm dr.VMID, seq dr.Seq) string {
	return fmt.Sprintf("%s%016x", metaPrefix(vm), uint64(seq))
}

func keyPrefix(dek dr.UUID) string          { return prefixKeys + dek.String() + "/" }
func wrapKey(dek, recipient dr.UUID) string { return keyPrefix(dek) + recipient.String() }
func completeKey(dek dr.UUID) string        { return keyPrefix(dek) + completeName }

// parseHex reads the fixed-width lower-case hexadecimal number that is left of
// key after prefix; ok is false for any other form.
func parseHex(key, prefix string, width int) (n uint64, ok bool) {
	s, found := strings.CutPrefix(key, prefix)
	if !found || len(s) != width || strings.ToLower(s) != s {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil && s[0] != '+'
}

func parseObjectKey(t dr.TimelineID, key string) (dr.ObjectNumber, bool) {
	n, ok := parseHex(key, objectPrefix(t), 16)
	return dr.ObjectNumber(n), ok && n >= FirstNumber
}

func parseEpochKey(t dr.TimelineID, key string) (dr.Epoch, bool) {
	n, ok := parseHex(key, epochPrefix(t), 8)
	return dr.Epoch(n), ok && n > 0
}

// knownKey reports whether key has a form this format defines or reserves.
func knownKey(key string) bool {
	if key == keyDomain {
		return true
	}
	for _, p := range []string{prefixKeys, prefixTime, prefixMeta, prefixIndex, prefixData, prefixPin, prefixProbe} {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}
