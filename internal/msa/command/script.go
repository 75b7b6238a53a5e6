package command

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
)

// Run runs a script on this machine to its end, a manager's or a box's, with nothing of
// its environment but PATH, in a process group of its own, which ends with it. What it
// prints goes to the act's output. Kinds: Invalid (it failed), Canceled.
func Run(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) error {
	const op = "command.Script"
	if len(in.Command) == 0 {
		return errs.New(op, errs.Invalid, in.Name, "it has no command")
	}
	cmd := exec.CommandContext(ctx, in.Command[0], in.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOLDFAST_KEY=" + a.Key, "HOLDFAST_RUN=" + a.Run, "HOLDFAST_PLAN=" + string(a.Plan),
		"HOLDFAST_FROM=" + string(a.From), "HOLDFAST_TO=" + string(a.To), fmt.Sprintf("HOLDFAST_ATTEMPT=%d", a.Attempt)}
	if in.VM != nil {
		cmd.Env = append(cmd.Env, "HOLDFAST_VM="+string(in.VM.Name), "HOLDFAST_VM_ID="+in.VM.VM.String())
	}
	for k, v := range in.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdout, cmd.Stderr = a.Output(), a.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	runtime.LockOSThread() // the signal of its end is of the thread that began it
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return errs.E(op, errs.Canceled, in.Name, context.Cause(ctx))
		}
		return errs.E(op, errs.Invalid, in.Name, err).WithRemedy("see its output")
	}
	return nil
}
