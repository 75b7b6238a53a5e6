package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
)

// Version is the release this tree builds.
const Version = "0.1.0"

// Exit codes, one per thing a script can do about a failure.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // the command line, a file or a value is wrong
	exitNotFound    = 3
	exitConflict    = 4 // taken, lost a race, or fenced
	exitUnavailable = 5
	exitCorrupt     = 6
	exitDenied      = 7
	exitFull        = 8
	exitCanceled    = 130
)

// Main runs the command line args (without the program's name) and returns the
// process's exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errs.Is(err, errs.Canceled)) {
		fmt.Fprintln(stderr, "holdfast: interrupted")
		if remedy := errs.RemedyOf(err); remedy != "" {
			fmt.Fprintln(stderr, "  "+remedy)
		}
		return exitCanceled
	}
	fmt.Fprintln(stderr, "holdfast: "+err.Error())
	if remedy := errs.RemedyOf(err); remedy != "" {
		fmt.Fprintln(stderr, "  "+remedy)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	switch errs.KindOf(err) {
	case errs.Invalid:
		return exitUsage
	case errs.NotFound:
		return exitNotFound
	case errs.Exists, errs.Conflict, errs.Fenced:
		return exitConflict
	case errs.Unavailable, errs.Transient:
		return exitUnavailable
	case errs.Corrupt:
		return exitCorrupt
	case errs.Denied:
		return exitDenied
	case errs.Full:
		return exitFull
	case errs.Canceled:
		return exitCanceled
	case errs.Internal:
	}
	return exitFailed
}

// usageError marks a wrong command line.
type usageError struct{ error }

// Unwrap returns the cause.
func (u usageError) Unwrap() error { return u.error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Disaster recovery with continuous data protection for virtual machines",
		Long: `Holdfast captures every write of protected VMs in their disk path, puts the
writes of a protected domain in one order, and publishes a group-consistent
checkpoint every few seconds into an object store. From that container and a
recovery key alone, any site boots the VMs again.

See it work:        holdfast demo
At the source:      key new, store verify, domain create, cert, drva, iofilter, status
While it runs:      protect, unprotect, events, pause, resume, sync, bandwidth, checkpoint
From the store:     checkpoints, inspect, fsck, restore, mount, rocva
A whole recovery:   recover test, planned, disaster, failback, clone
The history:        retention, gc, copy, pin, tag, timeline
A site's manager:   msa, login, get, describe, apply, diff, export, draft, delete, task, watch, plan, run
Who may what there: user, token, approval, secret, audit
Its boxes, peers:   appliance, enrol, pair, site-key, domain list, domain status

The exit code tells the kind of failure: 1 it failed, 2 the command line, a file or
a value is wrong, 3 not found, 4 taken, or somebody was faster, 5 something does
not answer, 6 damage, 7 denied, 8 no room, 130 interrupted.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       Version,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("log-level", "info", "how much the appliances log: debug, info, warn or error")
	root.AddCommand(
		newKeyCommand(), newStoreCommand(), newDomainCommand(), newCertCommand(),
		newDRVACommand(), newIOFilterCommand(), newSeedCommand(), newStatusCommand(), newEventsCommand(),
		newPauseCommand(), newResumeCommand(), newSyncCommand(), newProtectCommand(), newUnprotectCommand(), newResizeCommand(), newWatchdogCommand(), newBandwidthCommand(), newCheckpointCommand(),
		newCheckpointsCommand(), newInspectCommand(), newFsckCommand(), newRestoreCommand(), newMountCommand(), newRocVACommand(), newRecoverCommand(),
		newRetentionCommand(), newGCCommand(), newCopyCommand(), newPinCommand(), newTagCommand(), newTimelineCommand(),
		newMSACommand(), newLoginCommand(), newLogoutCommand(), newLoginsCommand(),
		newGetCommand(), newDescribeCommand(), newDeleteCommand(), newApplyCommand(), newDiffCommand(), newExportCommand(), newDraftCommand(),
		newTaskCommand(), newWatchCommand(), newManCommand(), newPlanCommand(), newRunCommand(),
		newUserCommand(), newTokenCommand(), newApprovalCommand(), newSecretCommand(), newAuditCommand(), newPairCommand(), newApplianceCommand(), newEnrolCommand(), newSiteKeyCommand(),
		newInventoryCommand(), newScanCommand(), newAlarmCommand(), newOutletCommand(), newStatsCommand(), newSupportBundleCommand(),
		newDemoCommand(),
	)
	addExamples(root)
	return root
}

// logger builds the process's logger on stderr at the level asked for.
func logger(cmd *cobra.Command) (*slog.Logger, error) {
	word, err := cmd.Flags().GetString("log-level")
	if err != nil {
		return nil, usageError{err}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(word)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q: choose debug, info, warn or error", word)}
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})), nil
}

// exactArgs is cobra.ExactArgs with words a person can use.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s takes %d argument(s) %v, not %d; see %s --help", cmd.CommandPath(), len(names), names, len(args), cmd.CommandPath())}
		}
		return nil
	}
}
