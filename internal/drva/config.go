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

	// Listener accepts hosts. Run closes it.
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
	if c.Container == nil || c.Listener == nil || c.LogDir == "" {
		return bad("", "container, listener and log directory are needed", "complete the configuration")
	}
	id := c.Container.Domain().ID
	if c.Domain.IsZero() {
		c.Domain = id
	}
	if c.Domain != id {
		return bad("domain "+c.Domain.String(), "the container is of domain "+id.String(), "give the container that was made for this domain")
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Interval < MinInterval || c.Interval > MaxInterval {
		return bad("interval", "checkpoints every "+c.Interval.String()+" are not offered", "choose 1s to 60s")
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = Heartbeat
	}
	if err := c.Lock.Validate(); err != nil {
		return c, err
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
