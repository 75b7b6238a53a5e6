package azblob

import (
	"fmt"
	"sync/atomic"
	"testing"

	"holdfast/internal/store"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/storetest/azurite"
)

var containers atomic.Int64

// env gives credentials by name.
func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// fresh returns an empty container of the server.
func fresh(t *testing.T, s *azurite.Server, prefix string) *Store {
	t.Helper()
	name := fmt.Sprintf("c%03d", containers.Add(1))
	if err := s.MakeContainer(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), s.URL(name, prefix), Options{Getenv: env(envKey, azurite.Key)})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestContract(t *testing.T) {
	s := azurite.Start(t, azurite.Options{})
	storetest.Run(t, func(t *testing.T) store.Store { return fresh(t, s, "") })
}

func TestContractOverTLS(t *testing.T) {
	s := azurite.Start(t, azurite.Options{TLS: true})
	storetest.Run(t, func(t *testing.T) store.Store { return fresh(t, s, "Holdfast/x-1") })
}

