package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/file"
)

// readFiles reads files of objects as one; "-" is standard input. Errors of form name
// the file and the line.
func readFiles(cmd *cobra.Command, names []string) ([]byte, error) {
	if len(names) == 0 {
		return nil, usageError{fmt.Errorf("give a file with -f; - is standard input")}
	}
	var all bytes.Buffer
	for _, name := range names {
		var b []byte
		var err error
		if name == "-" {
			b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), file.MaxBytes+1))
		} else {
			b, err = durable.ReadFile(durable.OS{}, name, file.MaxBytes)
		}
		if err != nil {
			return nil, err
		}
		if _, found, err := file.Parse(name, b); err != nil {
			printFaults(cmd.ErrOrStderr(), found.All)
			return nil, errs.New("apply", errs.KindOf(err), name, "it is not as a file must be").WithRemedy(errs.RemedyOf(err))
		}
		if all.Len() > 0 {
			all.WriteString("\n---\n")
		}
		all.Write(b)
	}
	return all.Bytes(), nil
}

func printApplied(cmd *cobra.Command, a *api.Applied) error {
	printFaults(cmd.ErrOrStderr(), a.Faults)
	return print(cmd, a, func(w io.Writer) {
		a.Changes.Print(w) //nolint:errcheck // the flush tells
	})
}

func newDiffCommand() *cobra.Command {
	var files []string
	var prune, code bool
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Compare files with what is configured at a manager",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readFiles(cmd, files)
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				a, err := c.Diff(cmd.Context(), text, prune)
				if err != nil {
					return err
				}
				if err := printApplied(cmd, a); err != nil {
					return err
				}
				if code && len(a.All) > 0 {
					return errs.New("diff", errs.Internal, "", "the files and what is configured differ")
				}
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file of objects; - is standard input (repeatable)")
	cmd.Flags().BoolVar(&prune, "prune", false, "what the files do not describe would be deleted")
	cmd.Flags().BoolVar(&code, "exit-code", false, "exit with code 1 if there are differences")
	addManagerFlags(cmd)
	return cmd
}

func newApplyCommand() *cobra.Command {
	var files []string
	var prune, yes, dry bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make what is configured at a manager as files say",
		Long: `Compares the files with what is configured, shows what would change, and changes
it: everything or, if anything is wrong, nothing. Applied again, they change
nothing. What the files do not describe is left alone, unless --prune is given.`,
		Example: `  holdfast apply -f site-a.yaml -f erp.yaml
  holdfast export | sed s/30d/60d/ | holdfast apply -f -`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readFiles(cmd, files)
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error { return apply(cmd, c, text, prune, yes, dry) })
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file of objects; - is standard input (repeatable)")
	cmd.Flags().BoolVar(&prune, "prune", false, "delete what the files do not describe; asks first")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would change, and change nothing")
	addManagerFlags(cmd)
	return cmd
}

func apply(cmd *cobra.Command, c *api.Client, text []byte, prune, yes, dry bool) error {
	a, err := c.Diff(cmd.Context(), text, prune)
	if err != nil {
		return err
	}
	deletes := 0
	for _, ch := range a.All {
		if ch.Action == file.Delete {
			deletes++
		}
	}
	if dry || len(a.All) == 0 {
		return printApplied(cmd, a)
	}
	if deletes > 0 && !yes {
		if err := printApplied(cmd, a); err != nil {
			return err
		}
		if !confirm(cmd, fmt.Sprintf("Delete %d objects, and make the other changes?", deletes)) {
			return errs.New("apply", errs.Canceled, "", "nobody has confirmed that objects are deleted").WithRemedy("give --yes")
		}
	}
	// Exactly what was compared is done.
	done, err := c.Apply(cmd.Context(), text, prune, a.Digest)
	if err != nil {
		return err
	}
	return printApplied(cmd, done)
}

func newExportCommand() *cobra.Command {
	var folder, out string
	cmd := &cobra.Command{
		Use:   "export [KIND [NAME]]",
		Short: "Write what is configured at a manager as a file",
		Long:  `Writes all that is configured, or a part, as a file that holdfast apply takes back.`,
		Args:  cobra.MaximumNArgs(2), ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			var k api.Kind
			var n api.Name
			var err error
			if len(args) > 0 {
				if k, err = kindOf(args[0]); err != nil {
					return err
				}
			}
			if len(args) > 1 {
				n = api.Name(args[1])
			}
			return withManager(cmd, func(c *api.Client) error {
				text, err := c.Export(cmd.Context(), k, n, api.Ref(folder))
				if err != nil {
					return err
				}
				if out != "" {
					if _, err := os.Lstat(out); err == nil {
						return errs.New("export", errs.Exists, out, "there is a file of this name").WithRemedy("choose another name, or remove it")
					}
					return durable.WriteFile(durable.OS{}, out, text)
				}
				_, err = cmd.OutOrStdout().Write(text)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&folder, "folder", "", "only what is in this folder and below")
	cmd.Flags().StringVarP(&out, "file", "f", "", "new file to write (default: standard output)")
	addManagerFlags(cmd)
	return cmd
}
