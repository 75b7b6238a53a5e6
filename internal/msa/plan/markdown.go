package plan

import (
	"fmt"
	"strings"
)

// Markdown renders one of the tables for documents: "states", "events", "phases",
// "domains" or "weights"; "" for any other name.
func Markdown(table string) string {
	var b strings.Builder
	switch table {
	case "states":
		b.WriteString("| state | means | allows | everything else is refused: |\n|---|---|---|---|\n")
		for _, l := range Table() {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", l.State, l.Words, allows(l.Allowed), l.Else)
		}
	case "events":
		b.WriteString("| in | happens | of | leads to |\n|---|---|---|---|\n")
		for _, m := range Moves() {
			fmt.Fprintf(&b, "| `%s` | %s | %s | `%s`%s |\n", m.From, m.Event, ops(m.Of), m.To, flips(m.Flips))
		}
	case "phases":
		phases(&b)
	case "domains":
		b.WriteString("| protection | event | leads to |\n|---|---|---|\n")
		for _, a := range ReplicationArrows() {
			fmt.Fprintf(&b, "| `%s` | %s | `%s` |\n", a.From, a.Event, a.To)
		}
		b.WriteString("\n| recovery | event | leads to |\n|---|---|---|\n")
		for _, a := range FailoverArrows() {
			fmt.Fprintf(&b, "| `%s` | %s | `%s` |\n", a.From, a.Event, a.To)
		}
	case "weights":
		b.WriteString("| code | each | at most | what |\n|---|---|---|---|\n")
		for _, w := range append(Weights(), otherWeight) {
			fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", code(string(w.Code)), w.Each, w.Most, w.Words)
		}
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return "others"
	}
	return "`" + s + "`"
}

func flips(f bool) string {
	if f {
		return ", in the other direction"
	}
	return ""
}

func ops(list []Operation) string {
	var words []string
	for _, op := range list {
		words = append(words, string(op))
	}
	return strings.Join(words, ", ")
}

func allows(list []Go) string {
	var words []string
	for _, g := range list {
		w := string(g.Op)
		if g.Runs != "" && g.Runs != Rerun {
			w += " (as " + string(g.Runs) + ")"
		}
		if g.Reversed {
			w += " (if reversed)"
		}
		words = append(words, w)
	}
	if words == nil {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

func phases(b *strings.Builder) {
	for i, s := range Stories() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(b, "**%s**", s.Operation)
		if s.Fence != "" {
			fmt.Fprintf(b, ": an error before `%s` is unwound", s.Fence)
		}
		b.WriteString("\n\n| phase | what is done | a failure |\n|---|---|---|\n")
		for _, r := range s.Rows {
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", r.Phase, r.Words, r.Rule)
		}
	}
}
