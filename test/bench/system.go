package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/store/dir"
)

const (
	// syncedWithin bounds the first copy of a disk.
	syncedWithin = 10 * time.Minute
	// drainedWithin bounds the wait for everything written to be published.
	drainedWithin = 10 * time.Minute
)

// systemSpec says what protected system to make.
type systemSpec struct {
	name   string
	ack    string // "async", "ordered" or "sync"
	direct bool   // primary past the page cache
	size   int64
	quota  int64 // of the DRVA's log, in bytes: room for a whole run
	blank  bool  // the disk is zero at first, not random
}

// system is a protected disk with everything around it, in the processes
// people run: a host component, a DRVA, certificates, a container in a
// directory.
type system struct {
	systemSpec
	dir    string
	binary string // holdfast
	disk   string // the primary
	diskID dr.DiskID
	url    string // of the container
	key    string // file of the recovery key
	socket string // the protected disk's export

	drvaStatus, filterStatus string // sockets
	drvaAddr                 string
	domain                   dr.DomainID
	host                     dr.HostID

	drva, filter *proc
	replay       *replay
}

// planSystem decides names and identities.
func (b *bench) planSystem(spec systemSpec) *system {
	s := &system{systemSpec: spec, dir: filepath.Join(b.dir, spec.name)}
	s.disk, s.key = filepath.Join(s.dir, "disk.raw"), filepath.Join(s.dir, "recovery.key")
	s.url = "file://" + filepath.Join(s.dir, "container")
	s.socket = filepath.Join(b.sockets, spec.name)
	s.drvaStatus, s.filterStatus = s.socket+"-drva", s.socket+"-host"
	s.diskID, s.host = dr.DiskID{UUID: dr.NewUUID()}, dr.HostID{UUID: dr.NewUUID()}
	return s
}

// buildProduct compiles holdfast, once a run: what is measured is this tree,
// whatever bin/ holds.
func (b *bench) buildProduct(ctx context.Context) error {
	if b.binary != "" {
		return nil
	}
	path := filepath.Join(b.dir, "holdfast")
	_, err := b.sp.run(ctx, "go build", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "holdfast/cmd/holdfast")
	if err == nil {
		b.binary = path
	}
	return err
}

// build makes everything but the host component.
func (s *system) build(ctx context.Context, b *bench) error {
	if err := b.buildProduct(ctx); err != nil {
		return err
	}
	s.binary = b.binary
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return err
	}
	if err := s.makeDisk(ctx); err != nil {
		return err
	}
	if err := s.prepare(ctx, b.sp); err != nil {
		return err
	}
	return s.startDRVA(ctx, b)
}

// makeDisk makes the primary.
func (s *system) makeDisk(ctx context.Context) error {
	if !s.blank {
		return makeDisk(ctx, s.disk, s.size, !s.direct)
	}
	return errors.Join(os.WriteFile(s.disk, nil, 0o600), os.Truncate(s.disk, s.size))
}

// newSystem makes a system and returns when its disk is synced, published and
// equal to its replay.
func (b *bench) newSystem(ctx context.Context, spec systemSpec) (_ *system, err error) {
	s := b.planSystem(spec)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("protected system %s: %w", spec.name, err), s.close())
		}
	}()
	if err := s.build(ctx, b); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := s.startFilter(ctx, b); err != nil {
		return nil, err
	}
	if err := s.awaitSynced(ctx); err != nil {
		return nil, err
	}
	synced := time.Since(start)
	if err := s.openReplay(ctx); err != nil {
		return nil, err
	}
	if _, err := s.drain(ctx); err != nil {
		return nil, err
	}
	b.notes = append(b.notes, fmt.Sprintf("%s: log quota %d MiB; first copy of %d MiB sent in %.1f s, published after %.1f s",
		s.name, s.quota/mib, s.size/mib, synced.Seconds(), time.Since(start).Seconds()))
	return s, s.verify(ctx)
}

// prepare makes keys, container and certificates with the product's commands.
func (s *system) prepare(ctx context.Context, sp *spawner) error {
	run := func(args ...string) (string, error) {
		out, err := sp.run(ctx, "holdfast "+args[0], append([]string{s.binary}, args...)...)
		return strings.TrimSpace(string(out)), err
	}
	recipient, err := run("key", "new", s.key)
	if err != nil {
		return err
	}
	id, err := run("domain", "create", s.url, "--name", s.name, "--recipient", recipient)
	if err != nil {
		return err
	}
	u, err := dr.ParseUUID(id)
	if err != nil {
		return fmt.Errorf("domain create printed %q: %w", id, err)
	}
	s.domain = dr.DomainID{UUID: u}
	ca := filepath.Join(s.dir, "ca")
	if _, err := run("cert", "init", ca, "--site", "bench"); err != nil {
		return err
	}
	if _, err := run("cert", "issue", filepath.Join(s.dir, "drva-tls"), "--ca", ca, "--role", "drva", "--name", id, "--addr", "127.0.0.1"); err != nil {
		return err
	}
	_, err = run("cert", "issue", filepath.Join(s.dir, "host-tls"), "--ca", ca, "--role", "host", "--name", s.host.String())
	return err
}

// filterConfig is what the host component is to do; also used in process.
func (s *system) filterConfig() iofilter.Config {
	vm := dr.VMID{UUID: dr.NewUUID()}
	const name = "disk0"
	return iofilter.Config{
		Domain: s.domain, Host: s.host, Name: "bench", Ack: s.ack,
		VMs: []iofilter.VM{{
			Config: dr.VMConfig{ID: vm, Name: "bench", CPUs: 1, MemoryMiB: 256, Machine: "pc", Firmware: "bios",
				Disks: []dr.VMDisk{{ID: s.diskID, Name: name, Size: s.size}}},
			Disks: []iofilter.Disk{{ID: s.diskID, Name: name, Path: s.disk, Socket: s.socket, Direct: s.direct}},
		}},
	}
}

func writeConfig(path string, v any) error {
	j, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, j, 0o600)
}

// filterState asks the host component how it is.
func (s *system) filterState(ctx context.Context) (iofilter.Status, error) {
	var st iofilter.Status
	err := control.CallLocal(ctx, s.filterStatus, "/status", nil, &st)
	return st, err
}

// awaitSynced waits until the disk's copy at the DRVA is complete.
func (s *system) awaitSynced(ctx context.Context) error {
	return await(ctx, syncedWithin, "the sync of "+s.name, func() (bool, error) {
		if err := aliveAll([]*proc{s.drva, s.filter}); err != nil {
			return false, err
		}
		st, err := s.filterState(ctx)
		if err != nil {
			return false, err
		}
		return st.State == iofilter.Streaming && st.Stream.Durable+1 >= st.Stream.Next, nil
	})
}

// awaitStreaming waits until the disk's writes are streamed, with its client
// writing on.
func (s *system) awaitStreaming(ctx context.Context) error {
	return await(ctx, syncedWithin, s.name+" to stream", func() (bool, error) {
		if err := aliveAll([]*proc{s.drva, s.filter}); err != nil {
			return false, err
		}
		st, err := s.filterState(ctx)
		return err == nil && st.State == iofilter.Streaming, err
	})
}

// drain waits until everything the disk holds is published in a checkpoint of
// its own, and returns its id.
func (s *system) drain(ctx context.Context) (dr.CheckpointID, error) {
	if err := s.awaitSynced(ctx); err != nil {
		return 0, err
	}
	var cp dr.Checkpoint
	if err := control.CallLocal(ctx, s.drvaStatus, "/checkpoint", map[string]string{"tag": "bench"}, &cp); err != nil {
		return 0, fmt.Errorf("checkpoint: %w", err)
	}
	err := await(ctx, drainedWithin, fmt.Sprintf("checkpoint %d of %s to be published", cp.ID, s.name), func() (bool, error) {
		if err := aliveAll([]*proc{s.drva, s.filter}); err != nil {
			return false, err
		}
		if err := s.replay.h.Extend(ctx); err != nil {
			return false, err
		}
		for _, p := range s.replay.h.Checkpoints() {
			if p.ID == cp.ID {
				return true, nil
			}
		}
		return false, nil
	})
	return cp.ID, err
}

// openReplay opens the container as a recovery would.
func (s *system) openReplay(ctx context.Context) error {
	st, err := dir.Open(strings.TrimPrefix(s.url, "file://"))
	if err != nil {
		return err
	}
	id, err := journal.ParseIdentityFile(s.key)
	if err != nil {
		return err
	}
	c, err := journal.Open(ctx, st, id)
	if err != nil {
		return err
	}
	s.replay, err = openReplay(ctx, c, s.diskID, s.size, filepath.Join(s.dir, "replay.raw"))
	return err
}

// verify proves that the container rebuilds the primary as it is now.
func (s *system) verify(ctx context.Context) error {
	id, err := s.drain(ctx)
	if err != nil {
		return err
	}
	if err := s.replay.advance(ctx, id); err != nil {
		return err
	}
	return s.replay.compare(ctx, s.disk)
}

// close stops the processes and removes the files.
func (s *system) close() error {
	var all []error
	if s.filter != nil {
		all = append(all, s.filter.stop())
	}
	if s.drva != nil {
		all = append(all, s.drva.stop())
	}
	if s.replay != nil {
		all = append(all, s.replay.close())
	}
	return errors.Join(append(all, os.RemoveAll(s.dir))...)
}
