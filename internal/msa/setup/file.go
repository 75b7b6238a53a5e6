package setup

import (
	"encoding/json"
	"path/filepath"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// fileName is a box's newest Setup, as JSON, in its directory; 0600, since it holds
// secrets.
const fileName = "setup.json"

// Save makes s the newest Setup of the box in dir, which is made if it is missing: a
// box does so before it does anything by it. Durable on return. Kinds: Invalid (larger
// than any box's), those of writing files.
func Save(dir string, s *Setup) error {
	const op = "setup.Save"
	b, err := json.Marshal(s)
	if err != nil {
		return errs.E(op, errs.Internal, dir, err)
	}
	if len(b) > maxFile {
		return errs.New(op, errs.Invalid, "setup", "it is larger than any box's").WithRemedy("give the box fewer domains or VMs")
	}
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return err
	}
	return durable.WriteFile(durable.OS{}, filepath.Join(dir, fileName), b)
}

// Load returns what Save left in dir; nil: nothing. Kinds: Corrupt, those of reading
// files. A box that cannot read it is given another by its manager.
func Load(dir string) (*Setup, error) {
	path := filepath.Join(dir, fileName)
	b, err := durable.ReadFile(durable.OS{}, path, maxFile)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	s := new(Setup)
	if err == nil {
		if err := json.Unmarshal(b, s); err != nil {
			return nil, errs.E("setup.Load", errs.Corrupt, path, err)
		}
	}
	return s, err
}

// ProblemOf is an error about an object, as a report tells it.
func ProblemOf(object string, err error) Problem {
	return Problem{Object: object, Words: Clip(err.Error()), Remedy: Clip(errs.RemedyOf(err))}
}

// Clip cuts words to what a report may have of them.
func Clip(s string) string { return s[:min(len(s), MaxText)] }
