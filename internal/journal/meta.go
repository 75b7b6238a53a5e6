package journal

import (
	"context"
	"reflect"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// PutMeta stores vm's configuration as of record seq; a checkpoint offers the
// newest one below its Seq. Durable on return. The same configuration stored
// before is success; another one under the same seq is kind Conflict.
func (p *Publisher) PutMeta(ctx context.Context, vm dr.VMID, seq dr.Seq, cfg dr.VMConfig) error {
	const op = "journal.PutMeta"
	if err := p.failure(); err != nil {
		return err
	}
	key := metaKey(vm, seq)
	if vm.IsZero() || cfg.ID != vm || seq == 0 {
		return errs.New(op, errs.Invalid, key, "the configuration is of another VM, or has no VM or seq")
	}
	v := storedVM{VM: vm, Seq: seq, Config: cfg}
	body, err := p.c.sealJSON(segment.Header{Timeline: p.timeline, Epoch: p.epoch, Created: p.clock.Wall()}, &v)
	if err != nil {
		return err
	}
	err = createOnce(ctx, p.c.st, key, body)
	if err == nil || !errs.Is(err, errs.Exists) {
		return wrapErr(op, key, err)
	}
	there, err := p.c.readMeta(ctx, vm, seq)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(there.Config, normal(cfg)) {
		return errs.New(op, errs.Conflict, key, "another configuration is stored under this record").
			WithRemedy("store the configuration again under a later record")
	}
	return nil
}

// wrapErr names the object of a store's error; nil stays nil.
func wrapErr(op, key string, err error) error {
	if err == nil {
		return nil
	}
	return errs.E(op, errs.Internal, key, err)
}

// readMeta reads one stored configuration and checks that it lies under its
// own name.
func (c *Container) readMeta(ctx context.Context, vm dr.VMID, seq dr.Seq) (storedVM, error) {
	var v storedVM
	key := metaKey(vm, seq)
	if _, err := c.openJSON(ctx, key, &v); err != nil {
		return v, err
	}
	if v.VM != vm || v.Seq != seq || v.Config.ID != vm {
		return v, errs.New("journal.readMeta", errs.Corrupt, key, "it is the configuration of another VM or record")
	}
	return v, nil
}

// vmConfig returns vm's newest configuration stored below limit; ok is false
// when there is none.
func (c *Container) vmConfig(ctx context.Context, vm dr.VMID, limit dr.Seq) (cfg dr.VMConfig, ok bool, err error) {
	var newest dr.Seq
	prefix := metaPrefix(vm)
	err = listAll(ctx, c.st, prefix, "", func(in store.Info) bool {
		seq, good := parseHex(in.Key, prefix, 16)
		if good && dr.Seq(seq) <= limit {
			newest = dr.Seq(seq)
		}
		return !good || dr.Seq(seq) <= limit
	})
	if err != nil || newest == 0 {
		return cfg, false, err
	}
	v, err := c.readMeta(ctx, vm, newest)
	return v.Config, err == nil, err
}
