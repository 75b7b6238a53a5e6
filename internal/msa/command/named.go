package command

import (
	"bytes"
	"encoding/json"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// named is all that a command's input names of a site.
type named struct {
	domains []site.Name
	vms     []plan.VMInputs    // Name empty: named by id alone
	places  *mapping.Placement // nil: of a kind without
	host    site.Ref
}

// questions gives a fresh value of the inputs of each kind that is none of plan's.
var questions = map[string]func() any{
	Running: func() any { return &plan.VMInputs{} }, AgentUp: func() any { return &plan.VMInputs{} },
	PortUp: func() any { return &plan.WaitInputs{} }, Shutdown: func() any { return &plan.VMInputs{} }, Cut: func() any { return &plan.VMInputs{} },
}

// names reads what a command names: every field that says of what it is to be done. A
// kind that it does not know, or an input with a field more, is of kind Invalid: what is
// not read here is not bounded either.
func names(c *Command) (n named, err error) {
	if len(c.Input) == 0 {
		return n, errs.New("command.Abroad", errs.Invalid, c.Kind, "the step says nothing of what it is about").WithRemedy("use managers of one release")
	}
	var in any
	if fresh := questions[c.Kind]; fresh != nil {
		in = fresh()
		d := json.NewDecoder(bytes.NewReader(c.Input))
		d.DisallowUnknownFields()
		if err := d.Decode(in); err != nil {
			return n, errs.E("command.Abroad", errs.Invalid, c.Kind, err)
		}
	} else if in, err = plan.DecodeInputs(plan.Kind(c.Kind), plan.StepVersion, c.Input); err != nil {
		return n, err
	}
	switch in := in.(type) {
	case *plan.DomainInputs:
		n.whole(in.Domain, in.VMs)
	case *plan.DisksInputs:
		n.whole(in.Domain, in.VMs)
	case *plan.PinInputs:
		n.whole(in.Domain, in.VMs)
	case *plan.VMInputs:
		n.vms = append(n.vms, *in)
	case *plan.WaitInputs:
		n.vms = append(n.vms, in.VMInputs)
	case *plan.ConfigureInputs:
		n.domains, n.places = append(n.domains, in.Domain), &in.Placement
		n.vms = append(n.vms, plan.VMInputs{VM: in.Placement.VM, Site: in.Placement.Site})
	case *plan.ScriptInputs:
		if in.VM != nil {
			n.vms = append(n.vms, *in.VM)
		}
	case *plan.HostInputs:
		n.host = in.Host
	case *plan.NetworkInputs: // of the protected site: nothing here has its name
	default:
		return n, errs.New("command.Abroad", errs.Invalid, c.Kind, fmt.Sprintf("nobody reads %T of another site", in)).WithRemedy("use managers of one release")
	}
	if !c.VM.IsZero() { // boxes are chosen by it
		n.vms = append(n.vms, plan.VMInputs{VM: c.VM})
	}
	return n, nil
}

func (n *named) whole(domain site.Name, vms []dr.VMID) {
	n.domains = append(n.domains, domain)
	for _, id := range vms {
		n.vms = append(n.vms, plan.VMInputs{VM: id})
	}
}
