package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

// openPoint opens a container and chooses a checkpoint of one of its
// timelines.
func openPoint(cmd *cobra.Command, url, spec string, id *identityFlags, tl *timelineFlag) (*journal.Container, *journal.History, journal.CheckpointInfo, error) {
	none := journal.CheckpointInfo{}
	c, err := openContainer(cmd.Context(), url, id)
	if err != nil {
		return nil, nil, none, err
	}
	t, err := tl.id(cmd.Context(), c)
	if err != nil {
		return nil, nil, none, err
	}
	h, err := readHistory(cmd, c, t)
	if err != nil {
		return nil, nil, none, err
	}
	cp, err := choose(cmd, h, spec)
	return c, h, cp, err
}

// choose finds the checkpoint that spec names and says on stderr which it is.
func choose(cmd *cobra.Command, h *journal.History, spec string) (journal.CheckpointInfo, error) {
	f, err := h.FindAt(spec, time.Now(), time.Local)
	if err != nil {
		return journal.CheckpointInfo{}, err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), f.Words)
	return f.CheckpointInfo, nil
}

// tagsOf lists all names of a checkpoint.
func tagsOf(p *journal.CheckpointInfo) string {
	tags := p.Tags
	if p.Tag != "" {
		tags = append([]string{p.Tag}, tags...)
	}
	return dash(strings.Join(tags, ", "))
}

// retainedBecause says why a checkpoint is still there.
func retainedBecause(p *journal.CheckpointInfo) string {
	if p.Inherited {
		return "the branch begins here"
	}
	var words []string
	for _, r := range p.Retained {
		words = append(words, r.String())
	}
	if len(words) == 0 {
		return "not thinned yet"
	}
	return strings.Join(words, ", ")
}

// scopeOf says over what a checkpoint is consistent.
func scopeOf(p *journal.CheckpointInfo) string {
	if p.Scope == dr.Partial && len(p.Missing) > 0 {
		return fmt.Sprintf("partial, without %d VM(s)", len(p.Missing))
	}
	return p.Scope.String()
}

// verdict says whether a checkpoint can be recovered, and what looks wrong.
func verdict(p *journal.CheckpointInfo) string {
	s := "yes"
	if !p.Recoverable {
		s = "no: " + p.Why
	}
	if p.Suspect != "" {
		s += "; SUSPECT: " + p.Suspect
	}
	return s
}
