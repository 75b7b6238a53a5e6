package nbd

import (
	"slices"
	"sync"

	"holdfast/internal/errs"
)

// Disk is what an export without a [File] serves: a device that is its own
// primary, such as a disk rebuilt on demand from a store.
type Disk interface {
	Device
	Primary
}

// Export is one disk under a name.
type Export struct {
	// Name is what clients ask for; "" is the default export. At most 4096
	// bytes.
	Name string
	// Description is shown by tools that list exports; may be empty.
	Description string
	// File is the disk. The server does not close it.
	File *File
	// Disk is served instead when File is nil.
	Disk Disk
	// ReadOnly refuses writes even if the disk would take them.
	ReadOnly bool
	// Layer, if not nil, is called once per connection with the primary as
	// that connection reaches it and returns the device that requests are
	// submitted to.
	Layer func(primary Device) Device
	// Enter, if not nil, is called when a client begins to use the export, and
	// what it returns when that client is gone and its operations are over.
	Enter func() (leave func())
}

// disk returns what is served.
func (e *Export) disk() Disk {
	if e.File != nil {
		return e.File
	}
	return e.Disk
}

func (e *Export) readOnly() bool { return e.ReadOnly || e.File != nil && e.File.ReadOnly() }

// flags are the export's transmission flags on a connection.
func (e *Export) flags(structured bool) uint16 {
	f := uint16(transHasFlags | transSendFlush | transSendFUA | transCanMultiConn | transSendCache)
	if structured {
		f |= transSendDF
	}
	if e.readOnly() {
		return f | transReadOnly
	}
	return f | transSendTrim | transSendWriteZeroes | transSendFastZero
}

// blockSizes are the minimum, preferred and maximum request sizes advertised.
// A direct disk asks for whole blocks, but serves any request.
func (e *Export) blockSizes() (minimum, preferred, maximum uint32) {
	minimum = 1
	if e.File != nil {
		minimum = uint32(e.File.align)
	}
	return minimum, pageAlign, maxPayload
}

// exports is the set of exports of a server, by name.
type exports struct {
	mu   sync.Mutex
	list []*Export // in the order they were added
}

func (x *exports) add(e *Export) error {
	const op = "nbd.Server.AddExport"
	switch {
	case len(e.Name) > maxName || len(e.Description) > maxName:
		return errs.New(op, errs.Invalid, e.Name, "name or description longer than 4096 bytes")
	case e.File == nil && e.Disk == nil:
		return errs.New(op, errs.Invalid, e.Name, "export without a disk")
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if slices.ContainsFunc(x.list, func(o *Export) bool { return o.Name == e.Name }) {
		return errs.New(op, errs.Exists, e.Name, "an export of this name is being served")
	}
	x.list = append(x.list, e)
	return nil
}

func (x *exports) remove(name string) *Export {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := slices.IndexFunc(x.list, func(o *Export) bool { return o.Name == name })
	if i < 0 {
		return nil
	}
	e := x.list[i]
	x.list = slices.Delete(x.list, i, i+1)
	return e
}

// find returns the export of a name. A client that names nothing gets the
// only export, if there is only one.
func (x *exports) find(name string) *Export {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.list {
		if e.Name == name {
			return e
		}
	}
	if name == "" && len(x.list) == 1 {
		return x.list[0]
	}
	return nil
}

// has reports whether e is still served.
func (x *exports) has(e *Export) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Contains(x.list, e)
}

func (x *exports) all() []*Export {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.list)
}
