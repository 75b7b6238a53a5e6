//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// maxPgMessage bounds one message of the server, bytes: a row of a verification
// is far less.
const maxPgMessage = 1 << 20

// pgConn is a connection to a PostgreSQL server that trusts its local users: what
// of the protocol, version 3, simple queries need.
//
//	client  length 'user' 'postgres' …     'Q' length text
//	server  'R' 0 … 'Z'                    'T' 'D'… 'C' 'Z'   or   'E' … 'Z'
type pgConn struct {
	net.Conn
	in *bufio.Reader
}

// dialPostgres connects and returns when the server is ready for a query.
func dialPostgres(socket string) (*pgConn, error) {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &pgConn{nc, bufio.NewReader(nc)}
	body := binary.BigEndian.AppendUint32(nil, 3<<16)
	body = append(body, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	if _, err = nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err == nil {
		_, err = c.answer()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// query runs one or more statements and returns the rows they give.
func (c *pgConn) query(sql string) (rows [][][]byte, err error) {
	m := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(sql)+5))
	if _, err := c.Write(append(append(m, sql...), 0)); err != nil {
		return nil, err
	}
	return c.answer()
}

// answer reads until the server is ready again.
func (c *pgConn) answer() (rows [][][]byte, failed error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n < 4 || n > maxPgMessage {
			return nil, fmt.Errorf("a message of %d bytes", n)
		}
		body := make([]byte, n-4)
		if _, err := io.ReadFull(c.in, body); err != nil {
			return nil, err
		}
		switch head[0] {
		case 'Z':
			return rows, failed
		case 'E':
			failed = pgError(body)
		case 'R':
			if len(body) != 4 || binary.BigEndian.Uint32(body) != 0 {
				return nil, errors.New("the server wants a password")
			}
		case 'D':
			row, err := pgRow(body)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
}

// pgError is what an error message says.
func pgError(body []byte) error {
	for _, f := range bytes.Split(body, []byte{0}) {
		if len(f) > 0 && f[0] == 'M' {
			return errors.New("postgres: " + string(f[1:]))
		}
	}
	return errors.New("postgres failed and does not say why")
}

// pgRow cuts a row into its columns; NULL is nil.
func pgRow(b []byte) (row [][]byte, err error) {
	short := errors.New("a row that ends early")
	if len(b) < 2 {
		return nil, short
	}
	n := int(binary.BigEndian.Uint16(b))
	for b = b[2:]; n > 0; n-- {
		if len(b) < 4 {
			return nil, short
		}
		size := int32(binary.BigEndian.Uint32(b))
		b = b[4:]
		if size < 0 {
			row = append(row, nil)
			continue
		}
		if int(size) > len(b) {
			return nil, short
		}
		row, b = append(row, b[:size]), b[size:]
	}
	return row, nil
}
