package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
)

// recoveryFile is written beside the rebuilt disks: what they are, and how
// their VMs were configured.
const recoveryFile = "recovery.json"

// maxRecoveryFile bounds it in bytes: 2,000 VMs with many disks are 4 MiB.
const maxRecoveryFile = 16 << 20

// restored is what a finished restore left in its output directory.
type restored struct {
	Domain     dr.DomainID            `json:"domain"`
	Name       string                 `json:"name"`
	Checkpoint journal.CheckpointInfo `json:"checkpoint"`
	VMs        []recoveredVM          `json:"vms"`
	Disks      []recoveredDisk        `json:"disks"`
	Bytes      int64                  `json:"bytes_read"` // from the store
	Seconds    float64                `json:"seconds"`
}

type recoveredVM struct {
	Config dr.VMConfig `json:"config"`
}

type recoveredDisk struct {
	ID   dr.DiskID `json:"id"`
	VM   dr.VMID   `json:"vm"`
	Size int64     `json:"size"`
	Path string    `json:"path"` // relative to the output directory
}

type restoreFlags struct {
	id       identityFlags
	timeline timelineFlag
	at, out  string
	vms      []string
	parallel int
	force    bool
	noVerify bool
}

func newRestoreCommand() *cobra.Command {
	return newFullCommand("restore URL", "Rebuild the disks of a domain at a point in time, from the store alone")
}

func newFullCommand(use, short string) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long: `Rebuilds raw disk images from the container at URL, at the checkpoint --at
names, into the directory --out: VM/DISK.raw, and recovery.json with the
configuration each VM had at that checkpoint. Needs the container and one
recipient's secret, nothing else.

Every block is checked against its hash. A disk has its final name only when it
is whole. After Ctrl-C or a crash, the same command goes on where it stopped.

--at takes: latest (newest recoverable group checkpoint), a checkpoint's number,
TIME (newest at or before it), nearest:TIME, tag:NAME, app (the newest for which
guests were frozen). TIME is as in 2026-03-01T14:03:00Z, "2026-03-01 14:03", or
14:03 for the last time it was that late, also "yesterday 14:03"; it is UTC unless
"local" follows. What was chosen is said before anything is read.

While it reads it pins the checkpoint, so that maintenance deletes nothing under
it; where the store lets it only read, it says so and relies on the grace.`,
		Example: `  holdfast restore file:///srv/dr/erp --key recovery.key --at latest --out /var/lib/vms
  holdfast restore file:///srv/dr/erp --key recovery.key --at nearest:14:03 --out pit
  holdfast restore file:///srv/dr/erp --key recovery.key --timeline drill --at latest --out drill`,
		Args: exactArgs("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.run(cmd, args[0])
			if err != nil {
				return err
			}
			return print(cmd, r, func(w io.Writer) { printRecovery(w, r, f.out) })
		},
	}
	f.id.add(cmd)
	f.timeline.add(cmd)
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&f.at, "at", "latest", "which checkpoint")
	cmd.Flags().StringVar(&f.out, "out", "", "directory for the disks")
	cmd.Flags().StringSliceVar(&f.vms, "vm", nil, "only this VM, by name or id (repeatable)")
	cmd.Flags().IntVar(&f.parallel, "parallel", 0, "reads under way at once (0: default)")
	cmd.Flags().BoolVar(&f.force, "force", false, "replace disks that are already there")
	cmd.Flags().BoolVar(&f.noVerify, "no-verify", false, "do not compare blocks with their hashes (the seals are always checked)")
	return cmd
}

// run restores disks. The container is opened with one recipient's
// secret, its history read, and the checkpoint chosen among what can be
// recovered.
func (f *restoreFlags) run(cmd *cobra.Command, url string) (*restored, error) {
	if f.out == "" {
		return nil, usageError{fmt.Errorf("--out is missing: the directory for the disks")}
	}
	start := time.Now()
	ctx := cmd.Context()
	c, h, cp, err := openPoint(cmd, url, f.at, &f.id, &f.timeline)
	if err != nil {
		return nil, err
	}
	release, err := holdForReading(cmd, c, h.Timeline(), cp.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	img, err := h.Resolve(ctx, cp)
	if err != nil {
		return nil, err
	}
	r := &restored{Domain: c.Domain().ID, Name: c.Domain().Name, Checkpoint: cp}
	targets, err := f.layOut(img, r)
	if err != nil {
		return nil, err
	}
	bar := newProgress(cmd.ErrOrStderr(), "rehydrating", true)
	res, err := rocva.Full(ctx, c, img, targets, rocva.Options{
		Parallel: f.parallel, SkipHashes: f.noVerify, Force: f.force,
		Progress: func(p rocva.Progress) { bar.set(p.Bytes, p.BytesTotal) },
	})
	bar.finish()
	if err != nil {
		return nil, err
	}
	r.Bytes, r.Seconds = res.Fetched, time.Since(start).Seconds()
	return r, r.write(f.out)
}

// layOut decides the path of every disk and makes the directories.
func (f *restoreFlags) layOut(img *journal.Image, r *restored) ([]rocva.Target, error) {
	const op = "restore"
	var targets []rocva.Target
	seen := map[dr.VMID]bool{}
	for _, d := range img.Disks {
		cfg, known := img.VMs[d.VM]
		if !known {
			cfg = dr.VMConfig{ID: d.VM, Name: d.VM.String()}
		}
		if !f.wanted(cfg) {
			continue
		}
		dir := fileName(cfg.Name, d.VM.UUID)
		if err := durable.MkdirAll(durable.OS{}, filepath.Join(f.out, dir)); err != nil {
			return nil, err
		}
		rel := filepath.Join(dir, diskName(cfg, d.ID)+".raw")
		targets = append(targets, rocva.Target{Disk: d.ID, Path: filepath.Join(f.out, rel)})
		r.Disks = append(r.Disks, recoveredDisk{ID: d.ID, VM: d.VM, Size: d.Size, Path: rel})
		if known && !seen[d.VM] {
			seen[d.VM] = true
			r.VMs = append(r.VMs, recoveredVM{Config: cfg})
		}
	}
	if len(targets) == 0 {
		return nil, errs.New(op, errs.NotFound, strings.Join(f.vms, ", "), "no such VM at this checkpoint").
			WithRemedy("see the VMs with: holdfast inspect")
	}
	return targets, nil
}

func (f *restoreFlags) wanted(cfg dr.VMConfig) bool {
	if len(f.vms) == 0 {
		return true
	}
	for _, v := range f.vms {
		if v == cfg.Name || v == cfg.ID.String() {
			return true
		}
	}
	return false
}

// fileName makes a directory name of a VM's name, which anyone may have
// chosen: other characters than letters, digits, '.', '_' and '-' become '_',
// and the id keeps two VMs of one name apart.
func fileName(name string, id dr.UUID) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, name)
	const longest = 64
	return clean[:min(len(clean), longest)] + "-" + id.String()[:8]
}

func diskName(cfg dr.VMConfig, id dr.DiskID) string {
	for _, d := range cfg.Disks {
		if d.ID == id {
			return fileName(d.Name, id.UUID)
		}
	}
	return id.String()
}

func (r *restored) write(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return errs.E("restore", errs.Internal, dir, err)
	}
	return durable.WriteFile(durable.OS{}, filepath.Join(dir, recoveryFile), append(b, '\n'))
}

// readRecovery reads what a finished restore left in dir.
func readRecovery(dir string) (*restored, error) {
	const op = "cli.readRecovery"
	path := filepath.Join(dir, recoveryFile)
	b, err := durable.ReadFile(durable.OS{}, path, maxRecoveryFile)
	if err != nil {
		return nil, errs.E(op, errs.Internal, path, err).
			WithRemedy("rebuild the disks first: holdfast restore URL --key FILE --out " + dir)
	}
	var r restored
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, errs.E(op, errs.Corrupt, path, err)
	}
	for _, d := range r.Disks {
		if !filepath.IsLocal(d.Path) {
			return nil, errs.New(op, errs.Corrupt, path, "disk path "+d.Path+" leads out of the directory")
		}
		if _, err := os.Stat(filepath.Join(dir, d.Path)); err != nil {
			return nil, errs.E(op, errs.NotFound, d.Path, err)
		}
	}
	return &r, nil
}

func printRecovery(w io.Writer, r *restored, out string) {
	fmt.Fprintln(w, "VM\tDISK\tSIZE\tPATH")
	for _, d := range r.Disks {
		name := d.VM.String()
		for _, v := range r.VMs {
			if v.Config.ID == d.VM {
				name = v.Config.Name
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, d.ID, sizeOf(d.Size), filepath.Join(out, d.Path))
	}
	fmt.Fprintf(w, "\nread %s in %.1f s\n", sizeOf(r.Bytes), r.Seconds)
}
