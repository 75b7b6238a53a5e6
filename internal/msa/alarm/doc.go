// Package alarm tells people what they should know: declared events, alarms that
// stay until what they are about is over, and outlets that carry both out of the
// manager.
//
//	codes.go    every event there is, as data: code, severity, words, remedy
//	alarm.go    Set and Tell, in the transaction of who found it out; lists
//	outlet.go   where events are sent: mail.go, syslog.go, webhook.go
//	sender.go   carries deliveries out, and tries again
//
// # Once
//
// [Set] says whether a condition holds. The row of the alarm, its event, the line of
// the change feed and a delivery for each outlet are stored in the caller's own
// transaction, and only when the condition was not noted so before: whoever crashes
// has noted all of it or nothing, and of two replicas that find the same out one
// notes it. A [Sender] carries each delivery out at least once: what it sent before
// it died is sent again, with the same id, by which a receiver knows it.
//
// Nothing is retried for ever: a delivery is given up after a day, an outlet holds a
// bounded number, and what was dropped is counted.
//
// # The table is the document
//
// docs/operate/alarms.md is drawn from the codes. A code without words or remedy, or
// that the document does not have, fails a test.
package alarm
