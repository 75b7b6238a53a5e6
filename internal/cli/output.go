package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/msa/file"
)

// addOutputFlag gives a command -o.
func addOutputFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "table", "output format: table, json or yaml")
}

// print writes v as JSON, or lets table write it for people.
func print(cmd *cobra.Command, v any, table func(w io.Writer)) error {
	format, err := cmd.Flags().GetString("output")
	if err != nil {
		return usageError{err}
	}
	switch format {
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		text, err := file.Render(v)
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		return err
	case "table":
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	return usageError{fmt.Errorf("-o %q: choose table, json or yaml", format)}
}

// sizeOf renders a number of bytes for people, in binary units.
func sizeOf(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 4 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}

// timeOf renders a point in time for people: UTC, to the millisecond, in a
// form that --at takes back.
func timeOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
