package errs

import (
	"errors"
	"fmt"
	"testing"
)

func TestKindSurvivesWrapping(t *testing.T) {
	inner := New("store.Create", Exists, "j/1", "name is taken").WithRemedy("look first")
	outer := E("journal.Publish", Internal, "", fmt.Errorf("put object: %w", inner))
	if KindOf(outer) != Exists || !Is(outer, Exists) {
		t.Fatalf("kind %s", KindOf(outer))
	}
	if RemedyOf(outer) != "look first" {
		t.Fatalf("remedy %q", RemedyOf(outer))
	}
	if got := E("a.B", Fenced, "", inner); KindOf(got) != Fenced {
		t.Fatalf("explicit kind lost: %s", KindOf(got))
	}
	if KindOf(errors.New("plain")) != Internal || Is(nil, Internal) {
		t.Fatal("plain and nil errors")
	}
}

func TestErrorText(t *testing.T) {
	for want, e := range map[string]*Error{
		"a.B disk0: boom": {Op: "a.B", Object: "disk0", Err: errors.New("boom")},
		"a.B: corrupt":    {Op: "a.B", Kind: Corrupt},
		"boom":            {Err: errors.New("boom")},
	} {
		if got := e.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for k := range numKinds {
		if k.String() == "" || k.String() == "unknown" {
			t.Errorf("kind %d has no name", k)
		}
	}
}
