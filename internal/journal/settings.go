package journal

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// prefixSettings is where managers keep what they know of the domain:
// meta/settings/<time:016x>, UTC milliseconds since 1970.
const prefixSettings = prefixMeta + "settings/"

// storedSettings is the sealed content of meta/settings/<time>.
type storedSettings struct {
	At       int64  `json:"at"`
	Settings []byte `json:"settings"` // as the manager encodes them
}

func settingsKey(at int64) string { return fmt.Sprintf("%s%016x", prefixSettings, uint64(at)) }

// PutSettings stores what a manager has to know to recover the domain: the bytes are
// the manager's. What was stored before stays, and is not read any more. It returns
// when they are from, which is later than all that was there, whatever clocks say.
// Durable on return. Kinds: Invalid (too large), Conflict (another manager stored some
// at the same time), Denied where the store lets us only read.
func (c *Container) PutSettings(ctx context.Context, settings []byte, now time.Time) (time.Time, error) {
	const op = "journal.PutSettings"
	if len(settings) == 0 || len(settings) > MaxSettings {
		return time.Time{}, errs.New(op, errs.Invalid, prefixSettings, fmt.Sprintf("the settings have %d bytes", len(settings)))
	}
	newest, err := c.newestSettings(ctx)
	if err != nil {
		return time.Time{}, wrapErr(op, prefixSettings, err)
	}
	at := max(newest+1, now.UnixMilli())
	body, err := c.sealJSON(segment.Header{Timeline: c.domain.Timeline}, &storedSettings{at, settings})
	if err == nil {
		err = c.st.Create(ctx, settingsKey(at), body)
	}
	if errs.Is(err, errs.Exists) {
		return time.Time{}, errs.E(op, errs.Conflict, settingsKey(at), err)
	}
	return time.UnixMilli(at).UTC(), wrapErr(op, settingsKey(at), err)
}

// Settings returns what a manager stored last and when that was; nil when there is
// nothing. Kind Corrupt when it is not what was stored.
func (c *Container) Settings(ctx context.Context) ([]byte, time.Time, error) {
	const op = "journal.Settings"
	newest, err := c.newestSettings(ctx)
	if err != nil || newest == 0 {
		return nil, time.Time{}, wrapErr(op, prefixSettings, err)
	}
	v, err := c.readSettings(ctx, newest)
	return v.Settings, time.UnixMilli(newest).UTC(), err
}

func (c *Container) newestSettings(ctx context.Context) (newest int64, err error) {
	err = listAll(ctx, c.st, prefixSettings, "", func(in store.Info) bool {
		if at, ok := settingsTime(in.Key); ok {
			newest = at
		}
		return true
	})
	return newest, err
}

// settingsTime reads the time out of a key; ok is false for any other form.
func settingsTime(key string) (int64, bool) {
	at, ok := parseHex(key, prefixSettings, 16)
	return int64(at), ok && at > 0 && at < 1<<62
}

// readSettings reads stored settings and checks that they lie under their own name.
func (c *Container) readSettings(ctx context.Context, at int64) (storedSettings, error) {
	var v storedSettings
	key := settingsKey(at)
	if _, err := c.openJSON(ctx, key, &v); err != nil {
		return v, err
	}
	if v.At != at {
		return v, errs.New("journal.readSettings", errs.Corrupt, key, "they are settings of another time")
	}
	return v, nil
}

// checkSettings checks one object below meta/settings/.
func (k *checker) checkSettings(ctx context.Context, key string) error {
	at, ok := settingsTime(key)
	if !ok {
		return k.unknown(key)
	}
	if _, err := k.c.readSettings(ctx, at); err != nil {
		return k.blame(key, err)
	}
	return nil
}
