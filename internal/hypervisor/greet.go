package hypervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// nbdMagic begins an NBD server's greeting.
const nbdMagic = "NBDMAGIC"

// Greeted checks that an NBD server answers at a unix socket, within
// greetLimit: a hypervisor that is told to connect would wait without end.
func Greeted(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	magic := make([]byte, len(nbdMagic))
	if _, err := io.ReadFull(conn, magic); err != nil {
		return err
	}
	if string(magic) != nbdMagic {
		return errors.New("what listens there is no NBD server")
	}
	return nil
}
