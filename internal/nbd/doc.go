// Package nbd serves and reads disks over the Network Block Device protocol:
// fixed newstyle handshake, structured replies, several connections to one
// export with one shared order, optional TLS.
//
// [Server] accepts connections and runs one transmission loop per connection.
// A loop parses requests in place, hands each as an [Op] to the export's
// [Device] and writes replies in batches. Between the loop and the primary
// disk stand at most a few layers (the host component's filter is one); each
// takes part in an operation by Intercept-ing its completion.
package nbd
