// Package powerloss pulls the plug of a whole site whose DRVA keeps its log on
// a disk with a volatile write cache: everything that was not flushed is gone,
// and the host with its primary disk never comes back. Every write that a guest
// was told of under the ack rule "sync" must then be in the newest checkpoint
// that the restarted DRVA publishes.
package powerloss
