package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	head "holdfast/internal/appliance"
	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/libvirt"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// agentSocket is where the agent of a box answers, in the box's directory.
const agentSocket = "agent.sock"

// part is an appliance by its role, with what the agent does for it.
type part interface {
	head.Part
	Capacity() map[string]int64
}

// parts are the roles that an agent can have.
var applianceParts = map[site.Role]func(head.Options) (part, error){
	site.DRVA:     func(o head.Options) (part, error) { return head.NewDRVA(o), nil },
	site.IOFilter: func(o head.Options) (part, error) { return head.NewHost(o), nil },
	site.RocVA:    newRocVA,
}

// boxStatus is what an agent answers on its socket.
type boxStatus struct {
	enrol.Home
	Report *setup.Report `json:"report"`
}

func newApplianceRun() *cobra.Command {
	return &cobra.Command{
		Use:   "run DIR",
		Short: "Run this box as its manager wants it, until stopped",
		Long: `Runs an enrolled box: tells its manager every few seconds that it lives and how it
is, renews its certificate, is told what it should be, and makes it so. Of a DRVA it
runs the process with the domains that the manager has placed on it, of a hypervisor
host a host component for each domain that has VMs there, and protects them. It does
what plans need of the box: sync, shut down, start.

What it starts goes on when it ends, and is found again when it is started again; the
box comes up by what it was told last when its manager is away. DIR is what "holdfast
appliance join" made. All that the box has is below it: give it a disk of its own
where a replication log is to lie.`,
		Example: "  holdfast appliance run /var/lib/holdfast/box",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return errs.E("appliance.run", errs.Invalid, args[0], err)
			}
			return runAppliance(cmd.Context(), dir, log)
		},
	}
}

// runAppliance runs the box of a directory until ctx ends.
func runAppliance(ctx context.Context, dir string, log *slog.Logger) error {
	home, err := enrol.HomeOf(dir)
	if err != nil {
		return err
	}
	begin, known := applianceParts[home.Role]
	if !known {
		return errs.New("appliance.run", errs.Invalid, dir, "this release runs no box of role "+string(home.Role)).WithRemedy("upgrade it")
	}
	log = log.With("appliance", home.Name)
	p, err := begin(applianceOptions(dir, home.Name, log))
	if err != nil {
		return err
	}
	lock, held, err := hypervisor.LockDir(dir)
	if err != nil {
		return err
	}
	if held {
		return errs.New("appliance.run", errs.Exists, dir, "another process runs this box").WithRemedy("end it first")
	}
	defer lock.Close()
	agent := &command.Agent{Dir: dir, Release: Version, Handler: command.Steps(p), Setup: p.Setup, Report: p.Report, Capacity: p.Capacity, Logger: log}
	log.Info("the appliance runs", "role", home.Role, "manager", home.Manager)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Run(ctx) })
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error {
		return control.ServeLocal(ctx, filepath.Join(dir, agentSocket), map[string]control.Handler{
			"/status": func(context.Context, []byte) (any, error) { return boxStatus{home, p.Report()}, nil },
		})
	})
	return g.Wait()
}

func applianceOptions(dir string, name site.Name, log *slog.Logger) head.Options {
	return head.Options{
		Dir: dir, Name: string(name), Logger: log,
		Boxes: head.Boxes{Launch: launchBox, Running: boxesWith, End: endBox},
		Platform: func(ctx context.Context, p site.Platform, endpoints []string) (hypervisor.Platform, error) {
			c, err := boxPlatform(p, endpoints, "power")
			if err != nil {
				return nil, err
			}
			return openPlatform(ctx, &c, log)
		},
		Config: func(p site.Platform, endpoints []string) (any, error) { return boxPlatform(p, endpoints, "host") },
	}
}

// boxPlatform is the hypervisor of a box by its endpoints, in the words of a host
// component's configuration:
//
//	libvirt   unix:///run/libvirt/libvirt-sock                  none: the system's
//	          unix:///run/node2.sock?host=/run/libvirt/libvirt-sock   the manager's socket, and this host's
//	qemu      unix:///run/a.qmp?host=/run/b.qmp&power=/run/c.qmp&agent=/run/a.qga
//
// A monitor of QEMU has one user at a time: the manager has the one of the path, the host
// component that of host, and the agent, which switches VMs off, that of power.
func boxPlatform(p site.Platform, endpoints []string, user string) (c platformConfig, err error) {
	const op = "cli.boxPlatform"
	if p == site.Libvirt && len(endpoints) == 0 {
		return platformConfig{Libvirt: libvirt.DefaultSocket}, nil
	}
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "unix" || u.Host != "" || u.Path == "" {
			return c, errs.New(op, errs.Invalid, "endpoint "+e, "this box cannot reach the platform by it").WithRemedy("name a socket on this host: unix:///PATH")
		}
		switch p {
		case site.Libvirt:
			return platformConfig{Libvirt: cmp.Or(u.Query().Get("host"), u.Path)}, nil
		case site.QEMU:
			m := monitorConfig{Socket: u.Query().Get(user)}
			if user == "host" {
				m.Agent = u.Query().Get("agent")
			}
			if m.Socket == "" {
				return c, errs.New(op, errs.Invalid, "endpoint "+e, "it names no monitor for this: a monitor of QEMU has one user at a time").
					WithRemedy("give the QEMU three, and name them as unix:///A.qmp?host=/B.qmp&power=/C.qmp")
			}
			c.QMP = append(c.QMP, m)
		case site.VSphere, site.Azure, site.Fake:
		}
	}
	if !c.isSet() {
		return c, errs.New(op, errs.Invalid, "platform "+string(p), "this release protects no VMs of it").WithRemedy("use libvirt, or QEMU with its monitors as endpoints")
	}
	return c, nil
}

func newApplianceJoin() *cobra.Command {
	var file, id string
	cmd := &cobra.Command{
		Use:   "join DIR",
		Short: "Enrol this box with a token of its manager",
		Long: `Dials the manager that made the token, which the fingerprint in the token proves,
and gets a certificate for a key made here. DIR becomes the box's directory: then run
it with "holdfast appliance run DIR". The token is good once.`,
		Example: "  holdfast appliance join /var/lib/holdfast/box --token token.txt\n  holdfast appliance run /var/lib/holdfast/box",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := askOn(cmd).passphrase(file, "token", false)
			if err != nil {
				return err
			}
			name, err := joinBox(cmd.Context(), token, args[0], id)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "enrolled as %s; run it: holdfast appliance run %s\n", name, args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "token", askHere, "file of mode 0600 with the token; - asks")
	cmd.Flags().StringVar(&id, "host-id", "", "of a hypervisor host: its id (default: the one it has, or a new one)")
	return cmd
}

// joinBox enrols a box. A hypervisor host keeps its id when it enrols anew.
func joinBox(ctx context.Context, token, dir, id string) (site.Name, error) {
	role, err := enrol.RoleOf(token)
	if err != nil {
		return "", err
	}
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return "", err
	}
	if role == site.IOFilter && id == "" {
		if id, err = hostID(dir); err != nil {
			return "", err
		}
	}
	return enrol.Join(ctx, token, dir, id, Version)
}

// hostID is the id of this host, which is made once.
func hostID(dir string) (string, error) {
	path := filepath.Join(dir, "host-id")
	b, err := durable.ReadFile(durable.OS{}, path, 64)
	if err == nil {
		_, err = dr.ParseUUID(string(b))
		return string(b), err
	}
	if !errs.Is(err, errs.NotFound) {
		return "", err
	}
	id := dr.NewUUID().String()
	return id, durable.WriteFile(durable.OS{}, path, []byte(id))
}

func newApplianceStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status DIR",
		Short:   "Show how the box of a directory is, as it tells its manager",
		Example: "  holdfast appliance status /var/lib/holdfast/box",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s boxStatus
			if err := control.CallLocal(cmd.Context(), filepath.Join(args[0], agentSocket), "/status", nil, &s); err != nil {
				return err
			}
			return print(cmd, s, func(w io.Writer) { printAgent(w, &s) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func printAgent(w io.Writer, s *boxStatus) {
	is := s.Report.Generation
	if is == "" {
		is = "nothing yet: it waits for its manager"
	}
	fmt.Fprintf(w, "appliance %s\t%s of %s\nsetup\t%s\n", s.Name, s.Role, s.Manager, is)
	for _, d := range s.Report.Domains {
		fmt.Fprintf(w, "domain %s\t%s\t%s\n", d.Name, d.State, d.Cause)
		for _, v := range d.VMs {
			fmt.Fprintf(w, "vm %s/%s\t%s\t%s\n", d.Name, v.Ref, v.State, v.Cause)
		}
	}
	slices.SortFunc(s.Report.Problems, func(a, b setup.Problem) int { return slices.Compare([]string{a.Object}, []string{b.Object}) })
	for _, p := range s.Report.Problems {
		fmt.Fprintf(w, "problem\t%s\t%s\n", p.Object, p.Words)
		if p.Remedy != "" {
			fmt.Fprintf(w, "\twhat to do\t%s\n", p.Remedy)
		}
	}
}
