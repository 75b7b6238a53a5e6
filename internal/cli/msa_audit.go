package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/api"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
)

func newAuditCommand() *cobra.Command {
	return group("audit", "See who did what at a manager, and that nobody has changed that", newAuditList(), newAuditVerify(), newAuditExport(), newAuditCheck())
}

func newAuditList() *cobra.Command {
	var by, operation, object string
	var limit int
	cmd := managed("list", "List what was done and refused, the newest first", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		for name, v := range map[string]string{"by": by, "operation": operation, "object": object} {
			if v != "" {
				q.Set(name, v)
			}
		}
		var page items[audit.Entry]
		if err := c.Call(cmd.Context(), http.MethodGet, "/audit", q, nil, &page); err != nil {
			return err
		}
		return print(cmd, page.Items, func(w io.Writer) {
			fmt.Fprintln(w, "SEQ\tAT\tBY\tOPERATION\tOBJECT\tOUTCOME\tFROM")
			for _, e := range page.Items {
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Seq, at(e.At), orDash(e.By), e.Operation, e.Object, e.Outcome, e.Remote)
			}
		})
	})
	f := cmd.Flags()
	f.StringVar(&by, "by", "", "who did it")
	f.StringVar(&operation, "operation", "", "as put-plan")
	f.StringVar(&object, "object", "", "as \"plan erp\"")
	f.IntVar(&limit, "limit", 100, "at most so many, to 1000")
	return cmd
}

// heads reads heads of the form SEQ:HASH.
func heads(words []string) ([]audit.Head, error) {
	list := []audit.Head{}
	for _, w := range words {
		seq, hash, ok := strings.Cut(w, ":")
		n, err := strconv.ParseInt(seq, 10, 64)
		if !ok || err != nil || n < 1 || len(hash) != 64 {
			return nil, usageError{fmt.Errorf("--head %q: write SEQ:HASH, as holdfast audit verify prints it", w)}
		}
		list = append(list, audit.Head{Seq: n, Hash: hash})
	}
	return list, nil
}

func newAuditVerify() *cobra.Command {
	var kept []string
	cmd := managed("verify", "Follow the whole log, and print its head to be kept elsewhere", nil, func(cmd *cobra.Command, _ []string, c *api.Client) error {
		list, err := heads(kept)
		if err != nil {
			return err
		}
		var v struct {
			Fits   bool       `json:"fits"`
			Head   audit.Head `json:"head"`
			Where  string     `json:"where,omitempty"`
			Words  string     `json:"words,omitempty"`
			Remedy string     `json:"remedy,omitempty"`
		}
		if err := c.Call(cmd.Context(), http.MethodPost, "/audit/verify", nil, map[string]any{"heads": list}, &v); err != nil {
			return err
		}
		if !v.Fits {
			return errs.New("audit verify", errs.Corrupt, v.Where, v.Words).WithRemedy(v.Remedy)
		}
		return print(cmd, v.Head, func(w io.Writer) { fmt.Fprintf(w, "%d:%s\n", v.Head.Seq, v.Head.Hash) })
	})
	cmd.Long = "Follows the chain of the audit log. Exit code 6 and the first entry that does not fit, if one was\nchanged, removed or inserted. With --head, a log that was written anew as a whole is found too."
	cmd.Flags().StringArrayVar(&kept, "head", nil, "SEQ:HASH that was printed before and kept elsewhere (repeatable)")
	return cmd
}

func newAuditExport() *cobra.Command {
	return managed("export", "Write the whole log to a new file, and verify it", []string{"FILE"}, func(cmd *cobra.Command, args []string, c *api.Client) error {
		if _, err := os.Lstat(args[0]); err == nil {
			return errs.New("audit export", errs.Exists, args[0], "there is a file of this name").WithRemedy("choose another name, or remove it")
		}
		var text []byte
		if err := c.Call(cmd.Context(), http.MethodGet, "/audit/export", nil, nil, &text); err != nil {
			return err
		}
		head, err := audit.VerifyExport(strings.NewReader(string(text)))
		if err != nil {
			return err
		}
		if err := durable.WriteFile(durable.OS{}, args[0], text); err != nil {
			return err
		}
		return print(cmd, head, func(w io.Writer) { fmt.Fprintf(w, "%d:%s\n", head.Seq, head.Hash) })
	})
}

func newAuditCheck() *cobra.Command {
	var kept []string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Verify an exported log, without any manager",
		Args:  exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := heads(kept)
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return errs.E("audit check", errs.NotFound, args[0], err)
			}
			defer f.Close()
			head, err := audit.VerifyExport(f, list...)
			if err != nil {
				return err
			}
			return print(cmd, head, func(w io.Writer) { fmt.Fprintf(w, "%d:%s\n", head.Seq, head.Hash) })
		},
	}
	cmd.Flags().StringArrayVar(&kept, "head", nil, "SEQ:HASH that was kept elsewhere (repeatable)")
	addOutputFlag(cmd)
	return cmd
}
