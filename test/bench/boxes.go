package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"holdfast/internal/control"
	"holdfast/internal/iofilter"
)

// checkpointEvery is the pause between two checkpoints, the product's default.
const checkpointEvery = "5s"

// drvaFile is the DRVA's configuration file.
type drvaFile struct {
	Container string `json:"container"`
	Key       string `json:"key"`
	Log       string `json:"log"`
	Quota     int64  `json:"quota"`
	Listen    string `json:"listen"`
	TLS       string `json:"tls"`
	Interval  string `json:"interval"`
	Status    string `json:"status"`
}

// startDRVA starts the DRVA, at the address it had before if any, and returns
// when it listens.
func (s *system) startDRVA(ctx context.Context, b *bench) error {
	path := filepath.Join(s.dir, "drva.json")
	listen := s.drvaAddr
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	file := drvaFile{Container: s.url, Key: s.key, Log: filepath.Join(s.dir, "log"), Quota: s.quota, Listen: listen,
		TLS: filepath.Join(s.dir, "drva-tls"), Interval: checkpointEvery, Status: s.drvaStatus}
	if err := writeConfig(path, file); err != nil {
		return err
	}
	var err error
	if s.drva, err = b.sp.start(s.name+"-drva", s.binary, "drva", "--config", path); err != nil {
		return err
	}
	return await(ctx, readyWithin, "the address of "+s.drva.name, func() (bool, error) {
		if err := s.drva.alive(); err != nil {
			return false, err
		}
		var st struct {
			Address string `json:"address"`
		}
		if control.CallLocal(ctx, s.drvaStatus, "/status", nil, &st) != nil {
			return false, nil // does not answer yet
		}
		s.drvaAddr = st.Address
		return st.Address != "", nil
	})
}

// filterFile is the host component's configuration file.
type filterFile struct {
	iofilter.Config
	DRVA   string `json:"drva"`
	TLS    string `json:"tls"`
	Status string `json:"status"`
}

// startFilter starts the host component and returns when it serves the disk.
func (s *system) startFilter(ctx context.Context, b *bench) error {
	path := filepath.Join(s.dir, "host.json")
	file := filterFile{Config: s.filterConfig(), DRVA: s.drvaAddr, TLS: filepath.Join(s.dir, "host-tls"), Status: s.filterStatus}
	if err := writeConfig(path, file); err != nil {
		return err
	}
	var err error
	if s.filter, err = b.sp.start(s.name+"-iofilter", s.binary, "iofilter", "--config", path); err != nil {
		return err
	}
	if err := awaitNBD(ctx, s.socket, s.filter); err != nil {
		return err
	}
	return s.awaitAnswer(ctx, s.filter, s.filterStatus)
}

// awaitAnswer waits until a box answers on its status socket.
func (s *system) awaitAnswer(ctx context.Context, p *proc, socket string) error {
	return await(ctx, readyWithin, "an answer of "+p.name, func() (bool, error) {
		if err := p.alive(); err != nil {
			return false, err
		}
		var any map[string]any
		return control.CallLocal(ctx, socket, "/status", nil, &any) == nil, nil
	})
}

// allocRing is the host component's ring while allocations are counted: room
// for all writes, so that no run falls back to tracking, which is another path.
const allocRing = 512 * mib

// allocsProtected counts the allocations of a host component in this process
// whose DRVA runs in another.
func (b *bench) allocsProtected(ctx context.Context) (n float64, err error) {
	s := b.planSystem(systemSpec{name: "allocs", ack: "async", size: allocDiskSize, quota: 4 * gib})
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.build(ctx, b); err != nil {
		return 0, err
	}
	creds, err := control.LoadCredentials(filepath.Join(s.dir, "host-tls"))
	if err != nil {
		return 0, err
	}
	cfg := s.filterConfig()
	cfg.RingBytes = allocRing
	f, err := iofilter.New(cfg, iofilter.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		return creds.Dial(ctx, s.drvaAddr, control.RoleDRVA)
	}})
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- f.Run(running) }()
	n, err = s.countFilter(ctx, f)
	stop()
	return n, errors.Join(err, <-over)
}

// countFilter counts once the filter's disk is synced.
func (s *system) countFilter(ctx context.Context, f *iofilter.Filter) (float64, error) {
	err := await(ctx, syncedWithin, "the sync of "+s.name, func() (bool, error) {
		st := f.Status()
		return st.State == iofilter.Streaming && st.Stream.Durable+1 >= st.Stream.Next, s.drva.alive()
	})
	if err != nil {
		return 0, err
	}
	before := f.Status().Stream.Trackings
	n, err := countAllocs(ctx, s.socket)
	if err == nil && f.Status().Stream.Trackings != before {
		err = fmt.Errorf("the host component fell back to tracking while allocations were counted")
	}
	return n, err
}
