// Package dbtest gives tests of the manager real databases: SQLite files, and a
// PostgreSQL server of their own on a unix socket, which ends with the test
// process and can be stopped, killed and started again.
package dbtest
