package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// rawClient speaks just enough NBD to put load on a server in the same
// process without allocating: what the process allocates is then the server's.
type rawClient struct {
	conn    net.Conn
	depth   int
	request []byte // depth requests, payloads included
	reply   []byte // room for depth replies
	rng     uint64
	blocks  uint64
}

// Of the NBD protocol.
const (
	nbdOptMagic     = "IHAVEOPT"
	nbdRequestMagic = 0x25609513
	nbdReplyMagic   = 0x67446698
	nbdRequestSize  = 28
	nbdReplySize    = 16
	nbdCmdWrite     = 1
)

// dialRaw connects to the default export of a server.
func dialRaw(socket string, depth int) (*rawClient, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &rawClient{conn: conn, depth: depth, rng: 0x9e3779b97f4a7c15,
		request: make([]byte, depth*(nbdRequestSize+blockSize)), reply: make([]byte, depth*nbdReplySize)}
	if err := c.handshake(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *rawClient) handshake() error {
	hello := make([]byte, 18)
	if _, err := io.ReadFull(c.conn, hello); err != nil {
		return err
	}
	if !bytes.HasPrefix(hello, []byte("NBDMAGIC"+nbdOptMagic)) {
		return fmt.Errorf("greeting %q", hello)
	}
	// Fixed newstyle and no padding; then the option "default export, now".
	out := binary.BigEndian.AppendUint32(nil, 3)
	out = append(out, nbdOptMagic...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = binary.BigEndian.AppendUint32(out, 0)
	if _, err := c.conn.Write(out); err != nil {
		return err
	}
	info := make([]byte, 10)
	if _, err := io.ReadFull(c.conn, info); err != nil {
		return err
	}
	if c.blocks = binary.BigEndian.Uint64(info) / blockSize; c.blocks == 0 {
		return errors.New("empty export")
	}
	return nil
}

// round writes depth random blocks, all under way at once, and waits for all
// replies. It does not allocate.
func (c *rawClient) round() error {
	for i := range c.depth {
		b := c.request[i*(nbdRequestSize+blockSize):]
		c.rng ^= c.rng << 13
		c.rng ^= c.rng >> 7
		c.rng ^= c.rng << 17
		binary.BigEndian.PutUint32(b, nbdRequestMagic)
		binary.BigEndian.PutUint32(b[4:], nbdCmdWrite)
		binary.BigEndian.PutUint64(b[8:], uint64(i))
		binary.BigEndian.PutUint64(b[16:], c.rng%c.blocks*blockSize)
		binary.BigEndian.PutUint32(b[24:], blockSize)
		binary.BigEndian.PutUint64(b[nbdRequestSize:], c.rng) // the content changes
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.conn, c.reply); err != nil {
		return err
	}
	for i := range c.depth {
		r := c.reply[i*nbdReplySize:]
		if m, e := binary.BigEndian.Uint32(r), binary.BigEndian.Uint32(r[4:]); m != nbdReplyMagic || e != 0 {
			return fmt.Errorf("reply with magic %x and error %d", m, e)
		}
	}
	return nil
}

func (c *rawClient) close() error { return c.conn.Close() }
