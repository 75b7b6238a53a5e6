package iofilter

import (
	"context"
	"net"
)

// FakeDRVA is the scripted DRVA, for tests that need what lies above this
// package.
type FakeDRVA struct{ d *fakeDRVA }

// NewFakeDRVA returns one that takes everything.
func NewFakeDRVA() *FakeDRVA { return &FakeDRVA{newFakeDRVA()} }

// Dial connects to it.
func (f *FakeDRVA) Dial(ctx context.Context) (net.Conn, error) { return f.d.dial(ctx) }

// Image rebuilds a disk from the log.
func (f *FakeDRVA) Image(index uint16, size int64) []byte { return f.d.image(index, size) }

// Problems is what the host did wrong.
func (f *FakeDRVA) Problems() error { return f.d.problems() }
