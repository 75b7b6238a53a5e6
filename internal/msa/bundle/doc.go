// Package bundle writes a support bundle: what somebody who helps has to know of a
// manager, in one archive that may be sent to them.
//
// It holds what is configured, how inventories, runs, alarms and outlets stand, the
// newest events and changes, metrics, and what the process is doing. It holds no
// secret: tables with sealed secrets, hashes and tokens are not read at all, and every
// file passes [Scrub], which blanks what has the form of a secret, wherever a platform,
// a script or a person has put it.
package bundle
