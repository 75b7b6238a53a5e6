package drva

import (
	"log/slog"
	"net"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/wire"
)

// Config says what a DRVA serves. Fields without a word about zero are needed.
type Config struct {
	Domain    dr.DomainID // zero: the container's; another one is refused
	Container *journal.Container
	Timeline  dr.TimelineID // zero: the current one
	Host      string        // this appliance's name, for people

	// Lock holds what is published against deletion; zero: nothing is held.
	Lock journal.LockOptions

	LogDir      string
	FS          durable.FS // nil: the operating system's
	Quota       int64      // of the replication log, bytes
	LogFileSize int64      // bytes; zero: the log's own default

	// Interval is the time between checkpoints, 1 s to 60 s; zero: 5 s.
	Interval time.Duration
	// Heartbeat is how long an unchanged domain publishes nothing; zero: 2 min.
	Heartbeat time.Duration
	// Limits are the times the order waits for hosts; zero fields: defaults.
	Limits order.Config

	// RPOTarget is what is promised: alarms tell when it is not kept. Zero: no
	// promise, no alarms. 2 s to 30 days.
	RPOTarget time.Duration
	// AppInterval is the time between application-consistent checkpoints, which
	// freeze the guests for a moment; at least 1 min. Zero: none on schedule.
	AppInterval time.Duration
	// NoThrottle leaves guests at full speed while the log fills up, until hosts
	// track. ThrottleDelay is how long throttling keeps one write back at most;
	// zero: 20 ms; at most 1 s.
	NoThrottle    bool
	ThrottleDelay time.Duration
	// Compression is how hard objects are compressed. A log above half its quota
	// may choose a faster way, see package documentation.
	Compression segment.Level

	// Shared is what the domains of one process share; nil: this one is alone.
	// Priority is this domain's weight in it; zero: NormalPriority.
	Shared   *Shared
	Priority Priority

	// Listener accepts hosts. Run closes it. Nil: a Front hands them over.
	Listener net.Listener
	// Authenticate says which host is at the other end of an accepted
	// connection, as its certificate tells, completing the handshake if need
	// be. The connection has a deadline meanwhile. Nil trusts the Hello: only
	// for links that are private by other means.
	Authenticate func(net.Conn) (dr.HostID, error)

	Logger *slog.Logger // nil: none
}

// withDefaults checks c and fills in what may be left out.
func (c Config) withDefaults() (Config, error) {
	const op = "drva.New"
	bad := func(object, words, remedy string) (Config, error) {
		return c, errs.New(op, errs.Invalid, object, words).WithRemedy(remedy)
	}
	if c.Container == nil || c.LogDir == "" {
		return bad("", "container and log directory are needed", "complete the configuration")
	}
	id := c.Container.Domain().ID
	if c.Domain.IsZero() {
		c.Domain = id
	}
	if c.Domain != id {
		return bad("domain "+c.Domain.String(), "the container is of domain "+id.String(), "give the container that was made for this domain")
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = Heartbeat
	}
	if err := c.checkTuning(); err != nil {
		return c, err
	}
	if err := c.Lock.Validate(); err != nil {
		return c, err
	}
	if c.Priority == 0 {
		c.Priority = NormalPriority
	}
	if c.Shared == nil {
		c.Shared = NewShared()
	}
	if c.FS == nil {
		c.FS = durable.OS{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("domain", c.Domain.String())
	return c, nil
}

// checkTuning checks what is promised to people and asked of guests, and fills in what
// may be left out of it.
func (c *Config) checkTuning() error {
	const op = "drva.New"
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.ThrottleDelay == 0 {
		c.ThrottleDelay = DefaultThrottleDelay
	}
	switch {
	case c.Interval < MinInterval || c.Interval > MaxInterval:
		return errs.New(op, errs.Invalid, "interval", "checkpoints every "+c.Interval.String()+" are not offered").WithRemedy("choose 1s to 60s")
	case c.RPOTarget != 0 && (c.RPOTarget < MinTarget || c.RPOTarget > MaxTarget):
		return errs.New(op, errs.Invalid, "RPO target", c.RPOTarget.String()+" cannot be promised").WithRemedy("choose 2s to 720h")
	case c.AppInterval != 0 && c.AppInterval < MinAppInterval:
		return errs.New(op, errs.Invalid, "app interval", "guests would be frozen every "+c.AppInterval.String()).WithRemedy("choose 1m or more")
	case c.ThrottleDelay < 0 || c.ThrottleDelay > wire.MaxThrottleDelay:
		return errs.New(op, errs.Invalid, "throttle delay", c.ThrottleDelay.String()+" is not within 0 and 1s").WithRemedy("leave it out for 20ms")
	}
	return nil
}
