package cli

import (
	"os/exec"
	"syscall"
)

// ownGroup gives a command a process group of its own, which its end by a time
// limit takes along: what a script has started must not run on.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
