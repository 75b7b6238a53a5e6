package writerguest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"holdfast/internal/hypervisor/hypervisortest/pattern"
)

// maxProblems bounds how many wrong blocks of a worker are named: one says
// what is wrong, and a disk that is all wrong has a thousand.
const maxProblems = 5

// CheckImage reads a disk image from outside, once nobody has it open any more,
// and returns in words what a disk's workers wrote that is not there, or not
// whole. counts are the disk's final ones. An image of another format than raw
// is checked by qemu-img too, and unpacked into the directory scratch. An error
// means that the image could not be looked at.
func CheckImage(path, format, scratch string, counts []uint64) (problems []string, err error) {
	if format != "raw" {
		if out, err := exec.Command("qemu-img", "check", "-f", format, path).CombinedOutput(); err != nil {
			problems = append(problems, fmt.Sprintf("qemu-img check: %v: %s", err, out))
		}
		raw := filepath.Join(scratch, filepath.Base(path)+".unpacked")
		if out, err := exec.Command("qemu-img", "convert", "-f", format, "-O", "raw", path, raw).CombinedOutput(); err != nil {
			return problems, fmt.Errorf("qemu-img convert: %w: %s", err, out)
		}
		defer func() { _ = os.Remove(raw) }() // scratch
		path = raw
	}
	f, err := os.Open(path)
	if err != nil {
		return problems, err
	}
	defer f.Close()
	for w, n := range counts {
		found := pattern.Check(f, w, n)
		if len(found) > maxProblems {
			found = append(found[:maxProblems], fmt.Sprintf("and %d more", len(found)-maxProblems))
		}
		for _, p := range found {
			problems = append(problems, fmt.Sprintf("%s, worker %d after %d writes: %s", filepath.Base(path), w, n, p))
		}
	}
	return problems, nil
}
