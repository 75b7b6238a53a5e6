package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva/ondemand"
)

// mountedDisk is a disk that is served, as mount prints it.
type mountedDisk struct {
	VM     string    `json:"vm"`
	Disk   dr.DiskID `json:"disk"`
	Size   int64     `json:"size"`
	Export string    `json:"export"`
	URI    string    `json:"uri"`
}

type mountFlags struct {
	id       identityFlags
	timeline timelineFlag
	at, disk string
	socket   string
	vms      []string
	cache    int
}

func newMountCommand() *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount URL",
		Short: "Serve the disks of a checkpoint read-only, to get files out of them",
		Long: `Serves the disks that VMs had at the checkpoint --at names as read-only NBD
exports on a unix socket, until Ctrl-C. Nothing is restored first: what is read
comes from the container when it is read, compared with its hash, and the last of
it is kept in memory. The container is not changed, but for a pin on the
checkpoint where the store lets one be made.

Each export is named VM/DISK; a client that names none gets the only one. See
docs/operate/mount.md for guestmount, nbdfuse and others.`,
		Example: `  holdfast mount file:///srv/dr/erp --key recovery.key --at nearest:14:03 --vm mail --socket /run/mail.sock
  guestmount --ro -a 'nbd://?socket=/run/mail.sock' -i /mnt`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.id.add(cmd)
	f.timeline.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&f.at, "at", "latest", "which checkpoint, as restore takes it")
	cmd.Flags().StringSliceVar(&f.vms, "vm", nil, "only this VM, by name or id (repeatable)")
	cmd.Flags().StringVar(&f.disk, "disk", "", "only this disk, by name or id")
	cmd.Flags().StringVar(&f.socket, "socket", "", "path of the unix socket to serve on")
	cmd.Flags().IntVar(&f.cache, "cache-mib", 0, "memory for what was read, in MiB for each disk (0: 64)")
	return cmd
}

func (f *mountFlags) run(cmd *cobra.Command, url string) error {
	if f.socket == "" {
		return usageError{errors.New("--socket is missing: the path of the unix socket to serve on")}
	}
	if f.cache < 0 || f.cache > 1<<20 {
		return usageError{errors.New("--cache-mib is not within 0..1048576")}
	}
	log, err := logger(cmd)
	if err != nil {
		return err
	}
	c, h, cp, err := openPoint(cmd, url, f.at, &f.id, &f.timeline)
	if err != nil {
		return err
	}
	release, err := holdForReading(cmd, c, h.Timeline(), cp.ID)
	if err != nil {
		return err
	}
	defer release()
	img, err := h.Resolve(cmd.Context(), cp)
	if err != nil {
		return err
	}
	exports, disks, closers, err := f.exports(cmd.Context(), c, img, log)
	defer func() {
		for _, c := range closers {
			_ = c.Close() // only read
		}
	}()
	if err != nil {
		return err
	}
	return f.serve(cmd, log, exports, disks)
}

// exports opens the disks that are wanted.
func (f *mountFlags) exports(ctx context.Context, c *journal.Container, img *journal.Image, log *slog.Logger) (exports []nbd.Export, disks []mountedDisk, closers []io.Closer, err error) {
	want := restoreFlags{vms: f.vms}
	for _, d := range img.Disks {
		cfg, known := img.VMs[d.VM]
		if !known {
			cfg = dr.VMConfig{ID: d.VM, Name: d.VM.String()}
		}
		name := d.ID.String()
		for _, v := range cfg.Disks {
			if v.ID == d.ID && v.Name != "" {
				name = v.Name
			}
		}
		if !want.wanted(cfg) || f.disk != "" && f.disk != name && f.disk != d.ID.String() {
			continue
		}
		dev, closer, err := ondemand.ReadOnly(ctx, c, img, d.ID, ondemand.Options{CacheSize: int64(f.cache) << 20, Logger: log})
		if err != nil {
			return nil, nil, closers, err
		}
		m := mountedDisk{VM: cfg.Name, Disk: d.ID, Size: d.Size, Export: cfg.Name + "/" + name}
		closers = append(closers, closer)
		exports = append(exports, nbd.Export{Name: m.Export, Description: fmt.Sprintf("checkpoint #%d", img.Checkpoint.ID), Disk: dev, ReadOnly: true})
		disks = append(disks, m)
	}
	if len(disks) == 0 {
		return nil, nil, nil, errs.New("mount", errs.NotFound, f.disk, "no such disk or VM at this checkpoint").
			WithRemedy("see the VMs and disks with: holdfast inspect")
	}
	return exports, disks, closers, nil
}

// serve serves until the command is interrupted, which is its ordinary end.
func (f *mountFlags) serve(cmd *cobra.Command, log *slog.Logger, exports []nbd.Export, disks []mountedDisk) error {
	server, err := nbd.NewServer(nbd.Options{Exports: exports, Logger: log})
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(f.socket)
	if err != nil {
		return err
	}
	for i := range disks {
		disks[i].URI = nbdURI(f.socket, disks[i].Export)
	}
	err = print(cmd, disks, func(w io.Writer) {
		fmt.Fprintln(w, "VM\tSIZE\tURI")
		for _, d := range disks {
			fmt.Fprintf(w, "%s\t%s\t%s\n", d.VM, sizeOf(d.Size), d.URI)
		}
	})
	if err != nil {
		ln.Close()
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "serving read-only; Ctrl-C ends it")
	return server.Serve(cmd.Context(), ln)
}

// nbdURI names an export on a unix socket as NBD clients take it.
func nbdURI(socket, export string) string {
	return "nbd+unix:///" + url.PathEscape(export) + "?" + url.Values{"socket": {socket}}.Encode()
}
