package order

import (
	"cmp"
	"slices"

	"holdfast/internal/dr"
)

// HostStatus is a host session as the core sees it.
type HostStatus struct {
	Host     dr.HostID
	Name     string
	Session  dr.Session
	Ack      dr.AckRule
	Conn     ConnID // 0: not connected
	Replayed bool   // connected and live
	Received dr.HostSeq
	Durable  dr.HostSeq
	Queued   int // frames that wait for their place
}

// DiskStatus is a disk of the domain.
type DiskStatus struct {
	dr.Disk
	Synced   bool
	Syncing  bool      // its host is sending the content anew
	Host     dr.HostID // that owns it; zero: none
	HostName string
}

// Status is a snapshot of the order, for people.
type Status struct {
	Last           dr.Seq
	LastCheckpoint dr.CheckpointID
	Merging        bool // hosts are still replaying after a restart
	Paused         bool
	Hosts          []HostStatus
	Disks          []DiskStatus
}

// Status describes the core.
func (c *Core) Status() Status {
	s := Status{Last: c.state.Last, LastCheckpoint: c.state.LastCheckpoint, Merging: c.merge != nil, Paused: c.paused}
	for _, x := range c.order {
		s.Hosts = append(s.Hosts, HostStatus{Host: x.host, Name: x.name, Session: x.session, Ack: x.ack, Conn: x.conn,
			Replayed: x.replayed, Received: x.received, Durable: x.durable, Queued: len(x.queue)})
	}
	for _, d := range c.state.disks {
		ds := DiskStatus{Disk: d.Disk, Synced: d.synced, Syncing: !d.synced && d.syncing != 0}
		if se := c.state.sessions[d.owner]; se != nil {
			ds.Host, ds.HostName = se.host, se.name
		}
		s.Disks = append(s.Disks, ds)
	}
	slices.SortFunc(s.Disks, func(a, b DiskStatus) int {
		return cmp.Or(slices.Compare(a.VM.UUID[:], b.VM.UUID[:]), slices.Compare(a.ID.UUID[:], b.ID.UUID[:]))
	})
	return s
}
