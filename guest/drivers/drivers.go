//go:build linux

package drivers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// dir has the drivers, which are loaded in the order of their names.
const dir = "/modules"

// Load inserts every driver. Drivers of hardware that is not there load too and
// do nothing; one that fails to load is an error, and so is none at all.
func Load() error {
	names, err := filepath.Glob(dir + "/*.ko")
	if err != nil || len(names) == 0 {
		return fmt.Errorf("no drivers in %s", dir)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := load(name); err != nil {
			return fmt.Errorf("load %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
