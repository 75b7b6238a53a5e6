package journal

import (
	"context"
	"fmt"

	"holdfast/internal/errs"
)

// wrapped checks an object below keys/. Data keys of an interrupted Create or
// rotation are no fault: nothing is sealed under them.
func (k *checker) wrapped(ctx context.Context, key string) error {
	o, ok := parseKeyObject(key)
	if !ok {
		return k.unknown(key)
	}
	g := k.c.keys.find(o.dek)
	if o.name == completeName {
		if g != nil && g.open && !g.complete {
			k.problem(Problem{Object: key, What: g.why, Kind: errs.Corrupt})
		}
		return nil
	}
	body, err := readDocument(ctx, k.c.st, key)
	if err != nil {
		return k.blame(key, err)
	}
	w := storedWrap{key: key, body: body}
	if w.wrap, w.err = parseWrap(body); w.err != nil {
		return k.blame(key, w.err)
	}
	w.recipient = o.recipient
	switch ours := g != nil && g.number != 0; {
	case w.wrap.Domain != k.c.domain.ID && !ours: // what an interrupted Create left
	case w.wrap.Domain != k.c.domain.ID:
		k.problem(Problem{Object: key, What: "the wrapped key belongs to another container", Kind: errs.Corrupt})
	case w.wrap.DataKey != o.dek:
		k.problem(Problem{Object: key, What: "the wrapped key lies under another data key's name", Kind: errs.Corrupt})
	case g == nil || !g.open:
	case len(w.wrap.MAC) > 0 && !w.genuine(g.key):
		k.problem(Problem{Object: key, What: "nobody who has the data key made this wrapped key for whom it names", Kind: errs.Corrupt})
	case g.replaced(&w):
		k.problem(Problem{Object: key, What: "it is not the wrapped key that was here when the data key came into use", Kind: errs.Corrupt})
	}
	return nil
}

// generations reports data keys that are known of and do not open.
func (k *checker) generations() {
	for _, g := range k.c.keys.all {
		if !g.open && g.number != 0 {
			k.problem(Problem{Object: keyPrefix(g.id), What: fmt.Sprintf("data key generation %d does not open: %s", g.number, g.why), Kind: errs.Corrupt})
		}
	}
}
