package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// untilFlags are how a command is told how long something holds.
type untilFlags struct{ span, until string }

func (f *untilFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.span, "for", "", "how long it holds, as 12h or 30d (default: until it is released)")
	cmd.Flags().StringVar(&f.until, "until", "", "when it ends, as 2026-12-31T00:00:00Z")
}

// time is when it ends; zero: never.
func (f *untilFlags) time(now time.Time) (time.Time, error) {
	switch {
	case f.span != "" && f.until != "":
		return time.Time{}, usageError{fmt.Errorf("give --for or --until, not both")}
	case f.span != "":
		d, err := parseSpan("--for", f.span)
		return now.Add(d), err
	}
	t, err := parseWhen("--until", f.until, now)
	if err == nil && !t.IsZero() && !t.After(now) {
		err = usageError{fmt.Errorf("--until %q: that is over", f.until)}
	}
	return t, err
}

func newPinCommand() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var until untilFlags
	var kind, label, by string
	cmd := &cobra.Command{
		Use:   "pin URL CHECKPOINT",
		Short: "Keep a checkpoint whatever the schedule says",
		Long: `Pins a checkpoint: maintenance retains it, and everything it needs, until the pin
expires or is released. A hold is for people (a court, an audit, a version that
must come back); a read is for tools that read the checkpoint, and must expire.
To give a checkpoint a name to find it by, use "holdfast tag".

CHECKPOINT is named as for "restore --at". "holdfast gc status" shows how much room
each pin takes. Needs the right to create in the store, not to delete.`,
		Example: `  holdfast pin file:///srv/dr/erp 812 --key recovery.key --label audit-2026 --for 365d
  holdfast pin file:///srv/dr/erp "nearest:2026-03-01 14:03" --key recovery.key --label ticket-4711
  holdfast pin list file:///srv/dr/erp --key recovery.key`,
		Args: exactArgs("URL", "CHECKPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			expires, err := until.time(time.Now())
			if err != nil {
				return err
			}
			k := journal.PinKind(kind)
			switch {
			case k != journal.PinHold && k != journal.PinRead:
				return usageError{fmt.Errorf("--kind %q: choose hold or read; a name is given with: holdfast tag", kind)}
			case k == journal.PinRead && expires.IsZero():
				return usageError{fmt.Errorf("--kind read: a reader's pin ends by itself; give --for or --until")}
			}
			return pinPoint(cmd, args[0], args[1], &id, &tl, journal.PinOptions{Kind: k, Label: label, By: by, Expires: expires})
		},
	}
	id.add(cmd)
	tl.add(cmd)
	until.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&kind, "kind", string(journal.PinHold), "hold or read")
	cmd.Flags().StringVar(&label, "label", "", "what for, for people")
	cmd.Flags().StringVar(&by, "by", "", "who asks for it (default: this host)")
	cmd.AddCommand(newPinList(), newPinRelease())
	return cmd
}

func newTagCommand() *cobra.Command {
	var id identityFlags
	var tl timelineFlag
	var until untilFlags
	var by string
	cmd := &cobra.Command{
		Use:   "tag URL CHECKPOINT NAME",
		Short: "Give a checkpoint a name after the fact, and keep it",
		Long: `Names a retained checkpoint: it is shown with the name, found by "tag:NAME", and
kept until the tag expires or is released ("holdfast pin release"). The tag a
checkpoint was taken with ("holdfast checkpoint --tag") stays as it is.

CHECKPOINT is named as for "restore --at".`,
		Example: `  holdfast tag file:///srv/dr/erp 812 before-migration --key recovery.key
  holdfast tag file:///srv/dr/erp nearest:14:03 last-good --key recovery.key --for 90d`,
		Args: exactArgs("URL", "CHECKPOINT", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			expires, err := until.time(time.Now())
			if err != nil {
				return err
			}
			return pinPoint(cmd, args[0], args[1], &id, &tl, journal.PinOptions{Kind: journal.PinTag, Label: args[2], By: by, Expires: expires})
		},
	}
	id.add(cmd)
	tl.add(cmd)
	until.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&by, "by", "", "who asks for it (default: this host)")
	return cmd
}

// pinPoint pins the checkpoint spec names, and prints the pin.
func pinPoint(cmd *cobra.Command, url, spec string, id *identityFlags, tl *timelineFlag, opts journal.PinOptions) error {
	c, h, cp, err := openPoint(cmd, url, spec, id, tl)
	if err != nil {
		return err
	}
	opts.Timeline, opts.Checkpoint = h.Timeline(), cp.ID
	p, err := c.Pin(cmd.Context(), opts)
	if err != nil {
		return err
	}
	return print(cmd, p, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s keeps checkpoint %d of %s %s\n", p.Kind, p.ID, cp.ID, timeOf(cp.Time), untilOf(&p))
	})
}

func untilOf(p *journal.PinInfo) string {
	if p.Expires.IsZero() {
		return "until it is released"
	}
	return "until " + timeOf(p.Expires)
}

func newPinList() *cobra.Command {
	var id identityFlags
	var all bool
	cmd := &cobra.Command{
		Use:     "list URL",
		Short:   "List the pins and tags of a domain, oldest first",
		Example: "  holdfast pin list file:///srv/dr/erp --key recovery.key --all",
		Args:    exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			pins, err := c.Pins(cmd.Context())
			if err != nil {
				return err
			}
			now := time.Now()
			shown := []journal.PinInfo{}
			for _, p := range pins {
				if all || p.Active(now) {
					shown = append(shown, p)
				}
			}
			return print(cmd, shown, func(w io.Writer) { printPins(w, shown, now) })
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "released and expired ones too")
	return cmd
}

func printPins(w io.Writer, pins []journal.PinInfo, now time.Time) {
	fmt.Fprintln(w, "PIN\tKIND\tCHECKPOINT\tTIMELINE\tLABEL\tBY\tCREATED\tUNTIL\tSTATE")
	for i := range pins {
		p := &pins[i]
		state, until := "holds", "-"
		switch {
		case p.Damaged != "":
			state = "damaged, so that nothing may be deleted: " + p.Damaged
		case p.Released:
			state = "released"
		case !p.Active(now):
			state = "expired"
		}
		if !p.Expires.IsZero() {
			until = timeOf(p.Expires)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, dash(string(p.Kind)), p.Checkpoint, p.Timeline, dash(p.Label), dash(p.By), timeOf(p.Created), until, state)
	}
}

func newPinRelease() *cobra.Command {
	var id identityFlags
	var by string
	cmd := &cobra.Command{
		Use:   "release URL PIN",
		Short: "Release a pin or a tag",
		Long: `Releases a pin: its checkpoint is kept no longer for its sake. PIN is its id, the
beginning of it, or its label. Maintenance deletes what nothing else needs, the
grace later. A pin that is released already is success.`,
		Example: "  holdfast pin release file:///srv/dr/erp audit-2026 --key recovery.key",
		Args:    exactArgs("URL", "PIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openContainer(cmd.Context(), args[0], &id)
			if err != nil {
				return err
			}
			pins, err := c.Pins(cmd.Context())
			if err != nil {
				return err
			}
			p, err := findPin(pins, args[1], time.Now())
			if err != nil {
				return err
			}
			if err := c.Unpin(cmd.Context(), p.ID, by); err != nil {
				return err
			}
			p.Released = true
			return print(cmd, p, func(w io.Writer) { fmt.Fprintf(w, "released %s of checkpoint %d\n", p.ID, p.Checkpoint) })
		},
	}
	id.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&by, "by", "", "who releases it (default: this host)")
	return cmd
}

// findPin finds a pin by its id, or one in force by the beginning of its id or
// its label.
func findPin(pins []journal.PinInfo, name string, now time.Time) (journal.PinInfo, error) {
	const op = "pin release"
	var found []journal.PinInfo
	for _, p := range pins {
		id := p.ID.String()
		if id == name {
			return p, nil
		}
		if p.Active(now) && (p.Label != "" && p.Label == name || len(name) >= leastPrefix && strings.HasPrefix(id, strings.ToLower(name))) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return journal.PinInfo{}, errs.New(op, errs.NotFound, name, "no pin in force is called that").
			WithRemedy("see them with: holdfast pin list URL")
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, p := range found {
		ids = append(ids, p.ID.String())
	}
	return journal.PinInfo{}, errs.New(op, errs.Invalid, name, fmt.Sprintf("%d pins are called that", len(found))).
		WithRemedy("give one's id: " + strings.Join(ids, ", "))
}
