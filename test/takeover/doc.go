// Package takeover lets processes of the host component follow each other under
// a client that writes, and kills them in the middle.
package takeover
