package libvirt

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var (
	_ hypervisor.Guest = (*vm)(nil)
	_ hypervisor.Guest = (*liveVM)(nil)
)

// AskGuest asks the guest's agent, as hypervisor.Guest promises.
func (v *vm) AskGuest(ctx context.Context, command string, args, result any) error {
	const op = "libvirt.AskGuest"
	if err := v.alive(op); err != nil {
		return err
	}
	return v.unlessOver(op, v.handle().AskGuest(ctx, command, args, result))
}

// AskGuest asks the guest's agent, as hypervisor.Guest promises.
func (v *liveVM) AskGuest(ctx context.Context, command string, args, result any) error {
	const op = "libvirt.AskGuest"
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return errs.E(op, errs.Invalid, command, err)
	}
	limit := agentSeconds
	if end, ok := ctx.Deadline(); ok {
		limit = max(1, min(limit, int(time.Until(end)/time.Second)))
	}
	answer, err := ask(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) (golibvirt.OptString, error) {
		return l.QEMUDomainAgentCommand(v.ref, string(text), int32(limit), 0)
	})
	switch {
	case code(err) == golibvirt.ErrInternalError: // libvirt's word for what the agent says
		return errs.E(op, errs.Invalid, command, err)
	case code(err) == golibvirt.ErrOperationInvalid, code(err) == golibvirt.ErrConfigUnsupported:
		return errs.E(op, errs.Unavailable, v.name, err)
	case err != nil:
		return err
	case len(answer) == 0 || len(answer[0]) > maxXML:
		return errs.New(op, errs.Corrupt, command, "the guest's agent gave no answer, or one that is too long")
	}
	var said struct {
		Return json.RawMessage `json:"return"`
	}
	if err := json.Unmarshal([]byte(answer[0]), &said); err != nil {
		return errs.E(op, errs.Corrupt, command, err)
	}
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(bytes.NewReader(said.Return)).Decode(result); err != nil {
		return errs.E(op, errs.Corrupt, command, err)
	}
	return nil
}
