package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// journalStage measures some figures of the journal. Each one stands alone:
// it makes what it needs and removes it.
type journalStage struct {
	names []string
	run   func(b *bench, ctx context.Context, dir string) ([]figure, error)
}

func journalStages() []journalStage {
	return []journalStage{
		{mergeFigures, (*bench).mergeSpeed},
		{[]string{indexStoreFigure, indexRAMFigure}, (*bench).indexBytes},
		{[]string{resolveFigure, rssFigure}, (*bench).large},
		{[]string{growthFigure}, (*bench).growth},
		{azuriteFigures, (*bench).publishAzurite},
		{s3Figures, (*bench).publishS3},
		{requestFigures, (*bench).requests},
		{amplificationFigures, (*bench).amplification},
		{manyFigures, (*bench).manyObjects},
		{[]string{warmFigure}, (*bench).warmFailover},
		{[]string{failbackFigure}, (*bench).failback},
	}
}

// journalFigures measures what is wanted of the journal's figures.
func (b *bench) journalFigures(ctx context.Context) error {
	for i, s := range append(journalStages(), overloadStages()...) {
		if !b.wants(s.names...) {
			continue
		}
		fmt.Fprintf(os.Stderr, "journal: %v\n", s.names)
		dir := filepath.Join(b.dir, fmt.Sprintf("journal%d", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		figures, err := s.run(b, ctx, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", s.names[0], err)
		}
		for _, f := range figures {
			if b.only.MatchString(f.Name) {
				b.figures = append(b.figures, f)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// sized is full, or less in a run that only proves that the bench works.
func (b *bench) sized(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// remark adds a note of the run.
func (b *bench) remark(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}
