// Package control is how the boxes of a site know and reach each other: the
// site's certificate authority, the certificates of the boxes, and
// connections over TLS 1.3 on which each side has proved which box it is.
//
// A box is named by a URI in its certificate, holdfast://<role>/<name>, for
// example holdfast://host/6f9c…  A connection is refused unless the other
// side's certificate was issued by the same authority for the role expected of
// it. Private keys are files of mode 0600 and are never logged.
package control
