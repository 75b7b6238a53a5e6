package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/file"
)

func newDraftCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "draft",
		Short: "Edit objects of a manager before anything acts on them",
		Long: `A draft is an object that is being worked on: it may be wrong, and nothing acts on
it. It is validated as often as one likes, and committed when it is right.`,
		Example: `  holdfast draft new domain erp          # of what there is
  holdfast draft new domain crm --from erp   # a copy
  holdfast draft save ID -f crm.yaml
  holdfast draft validate ID
  holdfast draft commit ID`,
	}
	subs := []*cobra.Command{newDraftNew(), newDraftSave(), newDraftList()}
	for _, s := range []struct {
		use, short string
		f          func(*cobra.Command, *api.Client, string) error
	}{
		{"show", "Show a draft as a file", showDraft},
		{"validate", "Find everything that would be wrong if the draft were committed now; exit with code 2 if it could not be", validateDraft},
		{"commit", "Make the draft what is configured", commitDraft},
		{"discard", "End a draft, and change nothing", func(cmd *cobra.Command, c *api.Client, id string) error {
			return c.DiscardDraft(cmd.Context(), id)
		}},
	} {
		subs = append(subs, &cobra.Command{Use: s.use + " ID", Short: s.short, Args: exactArgs("ID"), RunE: func(cmd *cobra.Command, args []string) error {
			return withManager(cmd, func(c *api.Client) error { return s.f(cmd, c, args[0]) })
		}})
	}
	for _, s := range subs {
		addManagerFlags(s)
	}
	cmd.AddCommand(subs...)
	return cmd
}

// objectFile reads a file that has one object.
func objectFile(name string) (api.Object, error) {
	b, err := durable.ReadFile(durable.OS{}, name, file.MaxBytes)
	if err != nil {
		return nil, err
	}
	objects, _, err := file.Parse(name, b)
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 {
		return nil, errs.New("draft", errs.Invalid, name, fmt.Sprintf("it has %d objects", len(objects))).WithRemedy("a draft is of one object")
	}
	return objects[0], nil
}

func newDraftNew() *cobra.Command {
	var from, name string
	cmd := &cobra.Command{
		Use: "new KIND NAME", Short: "Begin a draft of an object, of a copy of one, or of a new one",
		Args: exactArgs("KIND", "NAME"), ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			q := api.NewDraft{Kind: k, Name: api.Name(args[1]), From: api.Name(from)}
			if name != "" {
				o, err := objectFile(name)
				if err != nil {
					return err
				}
				if q.Object, err = json.Marshal(o); err != nil {
					return err
				}
			}
			return withManager(cmd, func(c *api.Client) error {
				d, err := c.NewDraft(cmd.Context(), q)
				if err != nil {
					return err
				}
				return print(cmd, d, func(w io.Writer) { fmt.Fprintln(w, d.ID) })
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "begin with a copy of this object")
	cmd.Flags().StringVarP(&name, "file", "f", "", "begin with the object of this file")
	return cmd
}

func newDraftSave() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "save ID -f FILE", Short: "Store another state of a draft", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return usageError{fmt.Errorf("give the object's file with -f")}
			}
			o, err := objectFile(name)
			if err != nil {
				return err
			}
			return withManager(cmd, func(c *api.Client) error {
				d, err := c.Draft(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if d.Object, err = json.Marshal(o); err != nil {
					return err
				}
				_, err = c.SaveDraft(cmd.Context(), d)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&name, "file", "f", "", "file of the object")
	return cmd
}

func newDraftList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List every draft", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withManager(cmd, func(c *api.Client) error {
				page, err := c.Drafts(cmd.Context())
				if err != nil {
					return err
				}
				return print(cmd, page.Items, func(w io.Writer) {
					fmt.Fprintln(w, "DRAFT\tKIND\tNAME\tBASE\tBY\tCHANGED")
					for _, d := range page.Items {
						fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, d.Kind, d.Name, d.Base, d.Editor, timeOf(d.Changed))
					}
				})
			})
		},
	}
}

func showDraft(cmd *cobra.Command, c *api.Client, id string) error {
	d, err := c.Draft(cmd.Context(), id)
	if err != nil {
		return err
	}
	return print(cmd, d, func(w io.Writer) {
		o := file.New(d.Kind)
		if o == nil || json.Unmarshal(d.Object, o) != nil {
			fmt.Fprintln(w, string(d.Object)) // of a newer release than this one
			return
		}
		if text, err := file.Export([]api.Object{o}); err == nil {
			w.Write(text) //nolint:errcheck // the flush tells
		}
	})
}

func validateDraft(cmd *cobra.Command, c *api.Client, id string) error {
	v, err := c.ValidateDraft(cmd.Context(), id)
	if err != nil {
		return err
	}
	if err := print(cmd, v, func(w io.Writer) {
		printFaults(w, v.Faults)
		if v.OK {
			fmt.Fprintln(w, "it can be committed")
		}
	}); err != nil {
		return err
	}
	if !v.OK {
		return errs.New("draft", errs.Invalid, id, "it cannot be committed").WithRemedy("correct what is listed")
	}
	return nil
}

func commitDraft(cmd *cobra.Command, c *api.Client, id string) error {
	d, err := c.CommitDraft(cmd.Context(), id)
	if err != nil {
		return err
	}
	printFaults(cmd.ErrOrStderr(), d.Warnings)
	return print(cmd, d, func(w io.Writer) { fmt.Fprintf(w, "%s %s, version %d\n", d.Kind, d.Name, d.Version) })
}
