package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/replica"
	"holdfast/internal/msa/site"
)

const (
	// boxPause and boxMost bound the pauses between two tries to set a box up or to
	// start its agent: the site may be configured any moment, and what is wrong is told
	// once.
	boxPause = time.Second
	boxMost  = 5 * time.Second
	// localBox is who set up what this manager runs by itself.
	localBox = "msa --appliances"
	// drvaPort is where the DRVA of a manager's own machine listens, unless somebody
	// else does.
	drvaPort = "7480"
)

// localBoxes are the boxes of a manager's own machine, which it configures, enrols and
// runs by itself: for sites of one machine.
type localBoxes struct {
	r   *replica.Replica
	o   *replica.Options
	dir string
	log *slog.Logger
}

// part runs them until ctx ends. What keeps one from being set up, as a site that is not
// configured yet, is told once and tried again.
func (l *localBoxes) part() replica.Part {
	return replica.Part{Name: "appliances", Run: func(ctx context.Context) error {
		var wg sync.WaitGroup
		for _, role := range []site.Role{site.DRVA, site.IOFilter, site.RocVA} {
			if _, known := applianceParts[role]; known {
				wg.Go(func() { l.keep(ctx, role) })
			}
		}
		wg.Wait()
		return nil
	}}
}

// keep sets a box up and runs its agent, again and again.
func (l *localBoxes) keep(ctx context.Context, role site.Role) {
	name := localName(role)
	log, told := l.log.With("appliance", name), ""
	for pause := boxPause; ctx.Err() == nil; pause = min(2*pause, boxMost) {
		began := time.Now()
		dir, err := l.ready(ctx, name, role)
		if err == nil {
			err = l.run(ctx, dir)
			if time.Since(began) > boxMost {
				pause = boxPause
			}
		}
		if ctx.Err() != nil {
			return
		}
		if words := fmt.Sprint(err); words != told {
			told = words
			log.Warn("the appliance of this machine does not run; trying on", "err", err, "remedy", errs.RemedyOf(err))
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// localName is what a box of this machine is called.
func localName(role site.Role) site.Name {
	host, err := os.Hostname()
	host = strings.ToLower(host)
	if name := site.Name(host + "-" + string(role)); err == nil && name.Valid() {
		return name
	}
	return site.Name("local-" + role)
}

// ready configures and enrols a box, unless that was done.
func (l *localBoxes) ready(ctx context.Context, name site.Name, role site.Role) (dir string, err error) {
	if dir, err = filepath.Abs(filepath.Join(l.dir, string(role))); err != nil {
		return "", errs.E("msa.appliances", errs.Invalid, l.dir, err)
	}
	var token string
	if err := l.r.DB.Tx(ctx, func(tx *db.Tx) error {
		token = ""
		if err := l.configure(ctx, tx, name, role); err != nil {
			return err
		}
		b, err := enrol.Get(ctx, tx, name)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if _, herr := enrol.HomeOf(dir); herr == nil && err == nil && b.State == enrol.Enrolled {
			return nil
		}
		if err == nil && b.State == enrol.Revoked {
			return errs.New("msa.appliances", errs.Denied, "appliance "+string(name), "it was revoked").WithRemedy("holdfast appliance remove " + string(name) + ": it enrols anew then")
		}
		token, err = enrol.Invite(ctx, tx, l.r.PKI, enrol.Invitation{Name: name, Role: role, Addresses: []string{"127.0.0.1", "localhost"}, Manager: l.address(), Replace: true}, localBox)
		return err
	}); err != nil || token == "" {
		return dir, err
	}
	_, err = joinBox(ctx, token, dir, "")
	return dir, err
}

// address is where boxes of this machine reach the manager.
func (l *localBoxes) address() string {
	a := l.r.Address()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(a, "https://"))
	host, _, lerr := net.SplitHostPort(l.o.Listen)
	if ip := net.ParseIP(host); err != nil || lerr != nil || ip != nil && !ip.IsUnspecified() {
		return a
	}
	return "https://" + net.JoinHostPort("127.0.0.1", port)
}

// configure puts the box into the catalog, if nobody has: what people changed stays.
func (l *localBoxes) configure(ctx context.Context, tx *db.Tx, name site.Name, role site.Role) error {
	_, err := catalog.Get(ctx, tx, site.KindBox, name)
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	a := &site.Appliance{Meta: site.Meta{Name: name}, Role: role, Site: l.o.Site}
	switch role {
	case site.DRVA:
		if a.Address, err = freeAddress(); err != nil {
			return err
		}
	case site.IOFilter:
		if a.Host, err = hostRef(ctx, tx, l.o.Site); err != nil {
			return err
		}
	case site.RocVA:
	}
	_, _, err = l.r.Catalog.Put(ctx, tx, a, localBox)
	return err
}

// freeAddress is where the DRVA listens: the well-known port, or any that is free.
func freeAddress() (string, error) {
	for _, port := range []string{drvaPort, "0"} {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", errs.New("msa.appliances", errs.Unavailable, "127.0.0.1", "no port is free for the DRVA")
}

// hostRef is what the site's platform calls this machine.
func hostRef(ctx context.Context, tx *db.Tx, of site.Name) (site.Ref, error) {
	inv, err := inventory.Places(ctx, tx, of)
	if err != nil {
		return "", err
	}
	name, err := os.Hostname()
	for _, h := range inv.Hosts {
		if err == nil && string(h.Ref) == name {
			return h.Ref, nil
		}
	}
	if len(inv.Hosts) == 1 {
		return inv.Hosts[0].Ref, nil
	}
	return "", errs.New("msa.appliances", errs.NotFound, "host "+name, fmt.Sprintf("the site's platform has %d hosts, and none of this name", len(inv.Hosts))).
		WithRemedy("configure the host component by hand: holdfast apply -f, kind appliance, with the host's name")
}

// run runs the agent of a box as a process of its own, which ends with this one; what the
// agent runs does not.
func (l *localBoxes) run(ctx context.Context, dir string) error {
	const op = "msa.appliances"
	exe, err := os.Executable()
	if err != nil {
		return errs.E(op, errs.Unavailable, "the holdfast binary", err)
	}
	path := filepath.Join(dir, "agent.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errs.E(op, errs.Unavailable, path, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, exe, "appliance", "run", dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endLimit
	runtime.LockOSThread() // the signal of its end is of the thread that began it
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return errs.E(op, errs.Unavailable, dir, errors.Join(err, errors.New(lastOf(path)))).WithRemedy("see " + path)
	}
	return nil
}

// withAppliances has a manager run the boxes of its machine, in a directory.
func withAppliances(o *replica.Options, dir string, log *slog.Logger) error {
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return err
	}
	before := o.Parts
	o.Parts = func(r *replica.Replica) (parts []replica.Part) {
		if before != nil {
			parts = before(r)
		}
		return append(parts, (&localBoxes{r, o, dir, log}).part())
	}
	return nil
}
