// Package access reads the credentials of one store from text: lines of the variables
// that drivers otherwise take from the environment. So one process reaches several
// stores, each with credentials of its own, and a manager can give them to a box.
//
//	# the account of the recovery site
//	AWS_ACCESS_KEY_ID=AKIA…
//	AWS_SECRET_ACCESS_KEY=…
//
// Empty lines and those that begin with # are skipped. What is not the name of a
// credential is refused, so that a text cannot have a driver read files of the machine.
//
// Where a text is given, the environment does not count: half of one account's key and
// half of another's would be worse than neither.
package access
