package journal

import (
	"context"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// dirBoot is between a VM and the record in the key of a boot trace.
const dirBoot = "boot/"

// storedTrace is the sealed content of meta/<vm>/boot/<seq>.
type storedTrace struct {
	VM    dr.VMID `json:"vm"`
	Seq   dr.Seq  `json:"seq"`
	Trace []byte  `json:"trace"` // as package rocva/ondemand encodes it
}

func tracePrefix(vm dr.VMID) string { return metaPrefix(vm) + dirBoot }

func traceKey(vm dr.VMID, seq dr.Seq) string {
	return fmt.Sprintf("%s%016x", tracePrefix(vm), uint64(seq))
}

// PutTrace stores what vm read when it booted from a checkpoint whose Seq is
// seq: the bytes are the recovery appliance's. It is advice, and one for each
// checkpoint is enough: a trace stored before stays, and that is success.
// Durable on return. Kind Invalid when it is larger than MaxTrace, Denied where
// the store lets us only read.
func (c *Container) PutTrace(ctx context.Context, t dr.TimelineID, vm dr.VMID, seq dr.Seq, trace []byte) error {
	const op = "journal.PutTrace"
	key := traceKey(vm, seq)
	if vm.IsZero() || seq == 0 || len(trace) > MaxTrace {
		return errs.New(op, errs.Invalid, key, "the trace has no VM or seq, or is too large")
	}
	body, err := c.sealJSON(segment.Header{Timeline: t}, &storedTrace{vm, seq, trace})
	if err == nil {
		err = c.st.Create(ctx, key, body)
	}
	if errs.Is(err, errs.Exists) {
		return nil
	}
	return wrapErr(op, key, err)
}

// Trace returns the boot trace of vm that was stored under the newest record;
// nil when there is none. Kind Corrupt when it is not what was stored.
func (c *Container) Trace(ctx context.Context, vm dr.VMID) ([]byte, error) {
	var newest dr.Seq
	err := listAll(ctx, c.st, tracePrefix(vm), "", func(in store.Info) bool {
		if seq, ok := parseHex(in.Key, tracePrefix(vm), 16); ok {
			newest = dr.Seq(seq)
		}
		return true
	})
	if err != nil || newest == 0 {
		return nil, wrapErr("journal.Trace", tracePrefix(vm), err)
	}
	v, err := c.readTrace(ctx, vm, newest)
	return v.Trace, err
}

// readTrace reads one stored trace and checks that it lies under its own name.
func (c *Container) readTrace(ctx context.Context, vm dr.VMID, seq dr.Seq) (storedTrace, error) {
	var v storedTrace
	key := traceKey(vm, seq)
	if _, err := c.openJSON(ctx, key, &v); err != nil {
		return v, err
	}
	if v.VM != vm || v.Seq != seq {
		return v, errs.New("journal.readTrace", errs.Corrupt, key, "it is the boot trace of another VM or record")
	}
	return v, nil
}
