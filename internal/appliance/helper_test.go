package appliance

import (
	"holdfast/internal/dr"
	"holdfast/internal/drva"
)

func drvaDisk(state, host string) drva.Disk {
	return drva.Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, State: state, Host: host}
}

func drvaHost(id dr.HostID, name, state string) drva.Host {
	return drva.Host{ID: id, Name: name, State: state}
}
