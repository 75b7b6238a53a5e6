package maintain

import "holdfast/internal/journal"

// Progress tells how far one stage of a pass has come.
type Progress struct {
	Stage string // for people: "taking in", "merging", "looking through", "packing", "locking" or "deleting"
	Done  int64
	Total int64 // 0: not known
	Bytes bool  // Done and Total count bytes, else objects or entries
}

// tell calls who wants to know, on the pass's goroutine.
func (p *pass) tell(stage string, done, total int64, bytes bool) {
	if p.opts.Progress != nil {
		p.opts.Progress(Progress{stage, done, total, bytes})
	}
}

// entriesOf counts the entries of runs.
func entriesOf(runs []journal.RunRef) (n int64) {
	for i := range runs {
		n += int64(runs[i].Entries)
	}
	return n
}

// reading begins a stage that reads runs.
func (p *pass) reading(stage string, runs []journal.RunRef) {
	p.stage, p.through, p.toRead = stage, 0, entriesOf(runs)
}
