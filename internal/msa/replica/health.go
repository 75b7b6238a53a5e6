package replica

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/db"
)

// watchSelf looks after the manager's own disk and audit log until ctx ends.
func (r *Replica) watchSelf(ctx context.Context) error {
	t := time.NewTicker(diskEvery)
	defer t.Stop()
	var verified time.Time
	for {
		err := r.lookAtDisk(ctx)
		if err == nil && time.Since(verified) >= verifyEvery {
			verified = time.Now()
			err = r.verifyAudit(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Warn("the manager's own state could not be looked at", "err", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lookAtDisk raises or clears the alarm of a database's disk, if it is on ours.
func (r *Replica) lookAtDisk(ctx context.Context) error {
	dir := r.opts.Data
	if r.opts.DB != "" {
		u, err := url.Parse(r.opts.DB)
		if err != nil || u.Scheme != "sqlite" {
			return nil
		}
		dir = filepath.Dir(u.Path)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return errs.E("replica.disk", errs.Unavailable, dir, err)
	}
	free, size := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	full := small(free, size)
	return r.set(ctx, alarm.DatabaseSmall, full, fmt.Sprintf("%d MiB of %d are free", free>>20, size>>20))
}

// small reports whether so many bytes that are free are too few.
func small(free, size int64) bool { return free < min(leastFree, size/leastPart) }

// verifyAudit follows the whole audit log, and raises or clears the alarm of it.
func (r *Replica) verifyAudit(ctx context.Context) error {
	_, err := audit.Verify(ctx, r.DB)
	if err != nil && !errs.Is(err, errs.Corrupt) {
		return err
	}
	words := ""
	if err != nil {
		words = err.Error()
	}
	return r.set(ctx, alarm.AuditBroken, err != nil, words)
}

// set raises or clears an alarm of the manager, when that is something new.
func (r *Replica) set(ctx context.Context, c alarm.Code, holds bool, words string) error {
	object := "manager " + string(r.opts.Site)
	held := false
	if err := r.DB.View(ctx, func(tx *db.Tx) error {
		var n int64
		_, err := tx.Row(ctx, `SELECT count(*) FROM alarms WHERE code = $1 AND object = $2 AND cleared_at = 0`, []any{string(c), object}, &n)
		held = n > 0
		return err
	}); err != nil || held == holds {
		return err
	}
	return r.DB.Tx(ctx, func(tx *db.Tx) error { return alarm.Set(ctx, tx, c, object, holds, strings.TrimSpace(words)) })
}
