// Package journaltest helps tests of what goes by a container's clock.
package journaltest
