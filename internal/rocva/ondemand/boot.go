package ondemand

import (
	"crypto/rand"
	"os"
	"strings"
)

// kernelBoot names the run of the kernel.
func kernelBoot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(b) == 0 {
		return rand.Text() // then every start counts as another boot: safe, and slower
	}
	return strings.TrimSpace(string(b))
}
