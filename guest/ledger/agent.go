//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/guest/drivers"
)

const (
	agentPath = "/bin/qemu-ga"
	agentPort = "/dev/vport*p1" // where the host reaches it
	agentRun  = "/run/agent"
	consoleID = "0x0003" // of a virtio device with ports
	// portLimit bounds the wait for the port, portPause is how often it is looked for.
	portLimit = 30 * time.Second
	portPause = 20 * time.Millisecond
	// restPause is the time before an agent is started again that has ended.
	restPause = time.Second
)

// runAgent runs QEMU's guest agent, if the disk has one and the host a port for it. It is
// called when the ledger serves: nothing of it may cost boot time. What goes wrong is
// nobody's to hear but the host's, which finds no agent.
func runAgent() {
	if _, err := os.Stat(agentPath); err != nil || !hasPorts() {
		return
	}
	// Its files are in memory, so that none of the root's is open when that is made
	// read-only.
	if unix.Mount("tmpfs", agentRun, "tmpfs", 0, "") != nil || drivers.Load() != nil {
		return
	}
	for start := time.Now(); time.Since(start) < portLimit; time.Sleep(portPause) {
		ports, _ := filepath.Glob(agentPort)
		if len(ports) == 0 {
			continue
		}
		for {
			_ = exec.Command(agentPath, "-m", "virtio-serial", "-p", ports[0], "-t", agentRun, "-f", agentRun+"/pid").Run()
			time.Sleep(restPause)
		}
	}
}

// hasPorts reports whether the machine has a device with ports, without its driver.
func hasPorts() bool {
	all, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == consoleID {
			return true
		}
	}
	return false
}
