// Package fake is an inventory by script: a site whose hosts, VMs and networks are
// what a test or a demonstration says, that can be cut off, be slow, churn and refuse.
// It keeps placeholders, and passes the suite of every provider.
package fake
