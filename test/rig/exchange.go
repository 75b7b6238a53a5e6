package rig

import (
	"bytes"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lagQueue bounds what is under way on one connection, in reads.
const lagQueue = 256

// Exchange stands for the address one box knows another by: it carries
// connections to whichever process has that address at the moment. An existing
// connection stays where it is. Each connection has lags of its own, one for
// each way, so that what one host says late can be the cause of what another
// says early: on equal links nobody could tell whether guests are held during
// a cut. Safe for concurrent use.
type Exchange struct {
	ln   net.Listener
	most time.Duration // longest lag, each way
	wg   sync.WaitGroup

	there, back atomic.Int64 // bytes taken from those who connect, and from targets

	mu     sync.Mutex
	target string // guarded by mu; empty: the network is down
	open   map[net.Conn]bool
	closed bool
}

// NewExchange listens on a port of its own; lag is the longest, each way.
func NewExchange(lag time.Duration) (*Exchange, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return ExchangeOn(ln, lag), nil
}

// ExchangeOn is NewExchange on a listener that is there already, and becomes
// the exchange's own.
func ExchangeOn(ln net.Listener, lag time.Duration) *Exchange {
	x := &Exchange{ln: ln, most: lag, open: map[net.Conn]bool{}}
	x.wg.Go(x.accept)
	return x
}

// Addr is where to connect.
func (x *Exchange) Addr() string { return x.ln.Addr().String() }

// Route sends new connections to target.
func (x *Exchange) Route(target string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.target = target
}

// Cut breaks all connections, and tells how many; new ones fail until Route is
// called.
func (x *Exchange) Cut() (broken int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.target = ""
	for c := range x.open {
		c.Close()
	}
	return len(x.open)
}

// Target is where new connections go; empty: nowhere.
func (x *Exchange) Target() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.target
}

// Carried is how many bytes those who connect have sent, and the targets. Pure
// TCP: what a protocol puts around its payload is in it.
func (x *Exchange) Carried() (there, back int64) { return x.there.Load(), x.back.Load() }

// Close breaks everything and waits for its goroutines.
func (x *Exchange) Close() {
	x.Cut()
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.ln.Close()
	x.wg.Wait()
}

func (x *Exchange) accept() {
	for {
		c, err := x.ln.Accept()
		if err != nil {
			return
		}
		x.wg.Go(func() { x.carry(c) })
	}
}

// keep notes an open connection; false: it must not be used.
func (x *Exchange) keep(c net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || x.target == "" {
		c.Close()
		return false
	}
	x.open[c] = true
	return true
}

func (x *Exchange) drop(c net.Conn) {
	c.Close()
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.open, c)
}

// carry moves bytes both ways until either side ends.
func (x *Exchange) carry(host net.Conn) {
	if !x.keep(host) {
		return
	}
	defer x.drop(host)
	x.mu.Lock()
	target := x.target
	x.mu.Unlock()
	appliance, err := net.Dial("tcp", target)
	if err != nil || !x.keep(appliance) {
		return
	}
	defer x.drop(appliance)
	x.wg.Go(func() { x.lag(appliance, host, rand.N(x.most+1), &x.there) })
	x.lag(host, appliance, rand.N(x.most+1), &x.back)
}

// lag copies from src to dst, each byte late by d, until src ends and all it said
// has been delivered.
func (x *Exchange) lag(dst, src net.Conn, d time.Duration, count *atomic.Int64) {
	type parcel struct {
		due  time.Time
		data []byte
	}
	under := make(chan parcel, lagQueue)
	delivered := make(chan struct{})
	defer func() { <-delivered }()
	x.wg.Go(func() {
		defer close(delivered)
		defer dst.Close()
		for p := range under {
			time.Sleep(time.Until(p.due))
			if _, err := dst.Write(p.data); err != nil {
				src.Close() // ends the reader; what is under way is lost
			}
		}
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			count.Add(int64(n))
			under <- parcel{time.Now().Add(d), bytes.Clone(buf[:n])}
		}
		if err != nil {
			close(under)
			return
		}
	}
}
