// Package drivers loads the drivers of a test guest, which finds them in its
// initial RAM file system.
package drivers
