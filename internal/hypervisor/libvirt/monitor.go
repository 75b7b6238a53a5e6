package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
)

// object is a JSON object for QEMU.
type object map[string]any

// ownName is the name of our node, and of our job, for a disk.
func ownName(disk string) string { return "holdfast-" + disk }

// qmp runs one command of QEMU's own, behind libvirt's back. result may be nil.
// Kinds: Conflict (QEMU refused), Unavailable, Canceled.
func (v *liveVM) qmp(ctx context.Context, command string, args object, result any) error {
	const op = "libvirt.qmp"
	request := object{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return errs.E(op, errs.Invalid, command, err)
	}
	text, err := ask(ctx, v.p.conn, op, v.name+" "+command, func(l *golibvirt.Libvirt) (string, error) {
		return l.QEMUDomainMonitorCommand(v.ref, string(b), 0)
	})
	if err != nil {
		return err
	}
	return decodeAnswer(text, v.name+" "+command, result)
}

// decodeAnswer reads QEMU's answer to a command.
func decodeAnswer(text, object string, result any) error {
	const op = "libvirt.qmp"
	var answer struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return errs.E(op, errs.Corrupt, object, err)
	}
	switch {
	case answer.Error != nil:
		return errs.E(op, errs.Conflict, object, errors.New(answer.Error.Desc))
	case answer.Return == nil:
		return errs.New(op, errs.Corrupt, object, "neither an answer nor an error")
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(answer.Return, result); err != nil {
		return errs.E(op, errs.Corrupt, object, err)
	}
	return nil
}

// blockNode is a node of QEMU's block layer.
type blockNode struct {
	Name     string `json:"node-name"`
	Driver   string `json:"drv"`
	ReadOnly bool   `json:"ro"`
	Zeroes   string `json:"detect_zeroes"`
	Cache    struct {
		Direct  bool `json:"direct"`
		NoFlush bool `json:"no-flush"`
	} `json:"cache"`
}

// blockNodes returns all nodes by name.
func (v *liveVM) blockNodes(ctx context.Context) (map[string]blockNode, error) {
	var list []blockNode
	if err := v.qmp(ctx, "query-named-block-nodes", object{"flat": true}, &list); err != nil {
		return nil, err
	}
	nodes := map[string]blockNode{}
	for _, n := range list {
		nodes[n.Name] = n
	}
	return nodes, nil
}

// blockJobs returns the names of the jobs that run.
func (v *liveVM) blockJobs(ctx context.Context) (map[string]bool, error) {
	var list []struct {
		ID string `json:"device"`
	}
	if err := v.qmp(ctx, "query-block-jobs", nil, &list); err != nil {
		return nil, err
	}
	jobs := map[string]bool{}
	for _, j := range list {
		jobs[j.ID] = true
	}
	return jobs, nil
}

// topNode returns the name of the node the guest's device is on.
func (v *liveVM) topNode(ctx context.Context, x *diskXML) (string, error) {
	var list []struct {
		Device   string `json:"qdev"`
		Inserted *struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := v.qmp(ctx, "query-block", nil, &list); err != nil {
		return "", err
	}
	for _, d := range list {
		if x.Alias.Name != "" && slices.Contains(strings.Split(d.Device, "/"), x.Alias.Name) && d.Inserted != nil {
			return d.Inserted.Node, nil
		}
	}
	return "", errs.New("libvirt.topNode", errs.Conflict, v.name+" "+x.Target.Dev, "QEMU knows no such device")
}

// formatNode and storageNode are the names libvirt gives to a disk's nodes.
func (x *diskXML) formatNode() string  { return "libvirt-" + x.Source.Index + "-format" }
func (x *diskXML) storageNode() string { return "libvirt-" + x.Source.Index + "-storage" }

// stops reports whether an I/O error stops the VM instead of reaching the
// guest. Such a VM needs no patience with its export: it waits as long as it
// takes, and can be helped at once.
func (x *diskXML) stops() bool { return x.Driver.WError == "stop" && x.Driver.RError == "stop" }

// patience is how long QEMU holds requests while the export is away, seconds.
func (x *diskXML) patience() int {
	if x.stops() {
		return 0
	}
	return reconnectSeconds
}

// unmaps reports whether the guest's discards reach the disk.
func (x *diskXML) unmaps() bool { return x.Driver.Discard == "unmap" }

// raw describes a node of format raw, like n, over the node file.
func (n blockNode) raw(name, file string, unmap bool) object {
	o := object{
		"driver": "raw", "node-name": name, "file": file, "read-only": n.ReadOnly,
		"cache": object{"direct": n.Cache.Direct, "no-flush": n.Cache.NoFlush},
	}
	if n.Zeroes != "" && n.Zeroes != "off" {
		o["detect-zeroes"] = n.Zeroes
	}
	if unmap {
		o["discard"] = "unmap"
	}
	return o
}

// addExport adds our node for the export, which must answer.
func (v *liveVM) addExport(ctx context.Context, r record, like blockNode, unmap bool, reconnect int) error {
	o := object{
		"driver": "nbd", "node-name": ownName(r.Name), "export": r.Export,
		"server":          object{"type": "unix", "path": r.Socket},
		"reconnect-delay": reconnect,
		"cache":           object{"direct": like.Cache.Direct, "no-flush": like.Cache.NoFlush},
	}
	if unmap {
		o["discard"] = "unmap"
	}
	if err := v.drop(ctx, ownName(r.Name)); err != nil { // of a job that ended by itself while nobody looked
		return err
	}
	err := v.qmp(ctx, "blockdev-add", o, nil)
	if errs.Is(err, errs.Conflict) {
		return errs.E("libvirt.Attach", errs.Unavailable, r.Socket, err)
	}
	return err
}

// addLocal adds a node for the disk itself, beside one that has it open
// already. Locks are left out: their only other holder would be this QEMU.
func (v *liveVM) addLocal(ctx context.Context, name string, orig *diskXML, like blockNode, io string) error {
	driver := "file"
	if orig.Type == "block" {
		driver = "host_device"
	}
	o := object{
		"driver": driver, "node-name": name, "filename": orig.path(), "locking": "off", "discard": "unmap",
		"cache": object{"direct": like.Cache.Direct, "no-flush": like.Cache.NoFlush},
	}
	if io != "" {
		o["aio"] = io
	}
	return v.qmp(ctx, "blockdev-add", o, nil)
}

// reopen puts another node beneath libvirt's format node, between two requests
// of the guest.
func (v *liveVM) reopen(ctx context.Context, n blockNode, file string, unmap bool) error {
	return v.qmp(ctx, "blockdev-reopen", object{"options": []object{n.raw(n.Name, file, unmap)}}, nil)
}

// plug puts the guest's device on another node. Unlike reopen it asks nothing
// of the node that was there. A device that is served by a thread of its own
// wants the node to be in that thread, from when its driver in the guest came
// up, and not before: QEMU does not tell, so both are tried.
func (v *liveVM) plug(ctx context.Context, x *diskXML, node string) error {
	set := func() error {
		return v.qmp(ctx, "qom-set", object{"path": "/machine/peripheral/" + x.Alias.Name, "property": "drive", "value": node}, nil)
	}
	err := set()
	if x.Driver.Thread == "" || !errs.Is(err, errs.Conflict) {
		return err
	}
	for _, thread := range []any{"iothread" + x.Driver.Thread, nil} {
		if err := v.qmp(ctx, "x-blockdev-set-iothread", object{"node-name": node, "iothread": thread}, nil); err != nil {
			return err
		}
		if err = set(); err == nil {
			return nil
		}
	}
	return err
}

// drop removes a node; one that is not there is no error.
func (v *liveVM) drop(ctx context.Context, node string) error {
	err := v.qmp(ctx, "blockdev-del", object{"node-name": node}, nil)
	if errs.Is(err, errs.Conflict) {
		if nodes, e := v.blockNodes(ctx); e == nil && nodes[node].Name == "" {
			return nil
		}
	}
	return err
}
